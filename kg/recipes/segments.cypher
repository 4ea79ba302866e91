// What a group of users buys more than others
//
// For each value of a user attribute (age, income, ...): the categories its users buy most above the average.
//
// $attribute: key of a user attribute
// $limit = 20: how many lines to show
MATCH (u:User)-[:HAS_ATTRIBUTE]->(group:Attribute {key: $attribute})
MATCH (u)-[r:PURCHASED|RATED|REVIEWED]->(p:Product)
WHERE size(p.category) > 0
WITH group.value AS group, p.category[-1] AS category, count(r) AS purchases
WITH collect({group: group, category: category, purchases: purchases}) AS cells, sum(purchases) AS total
UNWIND cells AS cell
WITH cells, total, cell,
     reduce(n = 0, x IN cells | n + CASE WHEN x.group = cell.group THEN x.purchases ELSE 0 END) AS of_group,
     reduce(n = 0, x IN cells | n + CASE WHEN x.category = cell.category THEN x.purchases ELSE 0 END) AS of_category
RETURN cell.group AS group, cell.category AS category, cell.purchases AS purchases,
       round(1.0 * cell.purchases * total / (of_group * of_category), 2) AS times_the_average
ORDER BY times_the_average DESC, purchases DESC, group, category
LIMIT $limit
