// A category's rising products
//
// What has been bought, rated or reviewed more in the last days of the data than in the same time before.
//
// $category = "": a category's path (`Coffee > Beans`) or its name; empty for the whole catalogue
// $days = 28: how long each of the two periods is
// $limit = 15: how many to show
CALL () {
  MATCH ()-[r:PURCHASED]->() RETURN max(r.at) AS at
  UNION MATCH ()-[r:RATED]->() RETURN max(r.at) AS at
  UNION MATCH ()-[r:REVIEWED]->() RETURN max(r.at) AS at
}
WITH max(at) AS now, $days * 86400000 AS period
MATCH (p:Product)
WHERE p.deleted_at IS NULL AND ($category = '' OR EXISTS {
  MATCH (p)-[:IN_CATEGORY]->(:Category)-[:CHILD_OF*0..]->(c:Category) WHERE c.path = $category OR c.name = $category
})
MATCH (p)<-[r:PURCHASED|RATED|REVIEWED]-()
WHERE r.at > now - 2 * period
WITH p, sum(CASE WHEN r.at > now - period THEN 1 ELSE 0 END) AS lately,
     sum(CASE WHEN r.at > now - period THEN 0 ELSE 1 END) AS before
WHERE lately > before
RETURN p.id AS product, p.title AS title, p.brand AS brand, before, lately,
       round(1.0 * (lately + 1) / (before + 1), 2) AS growth
ORDER BY growth DESC, lately DESC, product
LIMIT $limit
