// When a category is bought
//
// Purchases, ratings and reviews by weekday (1 is Monday) and, below, by month: their number and share.
//
// $category = "": a category's path or name; empty for the whole catalogue
MATCH (p:Product)
WHERE $category = '' OR EXISTS {
  MATCH (p)-[:IN_CATEGORY]->(:Category)-[:CHILD_OF*0..]->(c:Category) WHERE c.path = $category OR c.name = $category
}
MATCH (p)<-[r:PURCHASED|RATED|REVIEWED]-()
WITH datetime({epochMillis: r.at}) AS at, count(*) AS number
WITH at.dayOfWeek AS weekday, at.month AS month, sum(number) AS number
WITH collect({weekday: weekday, month: month, number: number}) AS found, sum(number) AS total
UNWIND [x IN found | {by: 'weekday', part: x.weekday, number: x.number}]
     + [x IN found | {by: 'month', part: x.month, number: x.number}] AS row
WITH row.by AS by, row.part AS part, sum(row.number) AS purchases, total
RETURN by, part, purchases, round(1.0 * purchases / total, 3) AS share
ORDER BY by DESC, part
