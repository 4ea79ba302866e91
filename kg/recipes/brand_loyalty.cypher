// Brand loyalty
//
// For each brand: how many of its buyers bought it again on another day, and what share of their purchases in the
// brand's categories it gets; none where its products have no category.
//
// $min_buyers = 3: least number of buyers
// $limit = 20: how many brands to show
MATCH (b:Brand)<-[:HAS_BRAND]-(:Product)<-[r:PURCHASED|RATED|REVIEWED]-(u:User)
WITH b, u, count(DISTINCT r.at / 86400000) AS days, count(r) AS bought
WITH b, count(u) AS buyers, sum(CASE WHEN days > 1 THEN 1 ELSE 0 END) AS again, sum(bought) AS purchases,
     collect(u) AS users
WHERE buyers >= $min_buyers
WITH b, buyers, again, purchases, users[..500] AS some
ORDER BY buyers DESC, b.name LIMIT $limit
CALL (b, some) {
  MATCH (b)<-[:HAS_BRAND]-(p:Product)-[:IN_CATEGORY {from_catalogue: true}]->(c:Category)
  WHERE (p)<-[:PURCHASED|RATED|REVIEWED]-()
  WITH b, some, collect(DISTINCT c) AS categories
  UNWIND some AS u
  MATCH (u)-[r:PURCHASED|RATED|REVIEWED]->(p:Product)-[:IN_CATEGORY {from_catalogue: true}]->(c:Category)
  WHERE c IN categories
  RETURN sum(CASE WHEN EXISTS { (p)-[:HAS_BRAND]->(b) } THEN 1 ELSE 0 END) AS own, count(r) AS any
}
RETURN b.name AS brand, buyers, purchases, round(1.0 * again / buyers, 3) AS bought_again,
       CASE WHEN any > 0 THEN round(1.0 * own / any, 3) END AS share_of_category
ORDER BY bought_again DESC, buyers DESC, brand
