// What a group of users buys more than others
//
// For each value of a user attribute (age, income, ...): the categories its users buy most above the average.
//
// $attribute: key of a user attribute
// $limit = 20: how many lines to show
MATCH (u:User)-[:HAS_ATTRIBUTE]->(group:Attribute {key: $attribute})
MATCH (u)-[r:PURCHASED|RATED|REVIEWED]->(:Product)-[:IN_CATEGORY {from_catalogue: true}]->(c:Category)
WITH group, c, count(r) AS purchases
WITH group, collect({category: c, purchases: purchases}) AS cells, sum(purchases) AS of_group
UNWIND cells AS cell
WITH cell.category AS category, sum(cell.purchases) AS of_category,
     collect({group: group, purchases: cell.purchases, of_group: of_group}) AS cells
WITH collect({category: category, of_category: of_category, cells: cells}) AS columns, sum(of_category) AS total
UNWIND columns AS column
UNWIND column.cells AS cell
WITH cell.group AS group, column.category AS category,
     sum(cell.purchases) AS purchases,  // of one cell; but a row that is sorted as it stands keeps all the lists
     sum(1.0 * cell.purchases * total / (cell.of_group * column.of_category)) AS times
RETURN group.value AS group, category.path AS category, purchases, round(times, 2) AS times_the_average
ORDER BY times_the_average DESC, purchases DESC, group, category
LIMIT $limit
