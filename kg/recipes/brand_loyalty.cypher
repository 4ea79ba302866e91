// Brand loyalty
//
// For each brand: how many of its buyers bought it again on another day, and what share of their purchases in the
// brand's categories it gets.
//
// $min_buyers = 3: least number of buyers
// $limit = 20: how many brands to show
MATCH (b:Brand)<-[:HAS_BRAND]-(p:Product)<-[r:PURCHASED|RATED|REVIEWED]-(u:User)
WITH b, u, count(DISTINCT r.at / 86400000) AS days, count(r) AS bought, collect(DISTINCT p.category[-1]) AS categories
WITH b, count(u) AS buyers, sum(CASE WHEN days > 1 THEN 1 ELSE 0 END) AS again, sum(bought) AS purchases,
     collect(u) AS users, reduce(all = [], each IN collect(categories) | all + [c IN each WHERE NOT c IN all]) AS categories
WHERE buyers >= $min_buyers
WITH b, buyers, again, purchases, users[..500] AS some, categories
ORDER BY buyers DESC, b.name LIMIT $limit
UNWIND some AS u
MATCH (u)-[r:PURCHASED|RATED|REVIEWED]->(p:Product)
WHERE p.category[-1] IN categories
WITH b, buyers, again, purchases, sum(CASE WHEN p.brand = b.name THEN 1 ELSE 0 END) AS own, count(r) AS any
RETURN b.name AS brand, buyers, purchases, round(1.0 * again / buyers, 3) AS bought_again,
       round(1.0 * own / any, 3) AS share_of_category
ORDER BY bought_again DESC, buyers DESC, brand
