// Who to tell about a product
//
// Users who never bought this product but bought others of its brand, category or attributes; two points for a shared
// brand, one for each other thing shared.
//
// $product: a product id
// $limit = 20: how many users to show
MATCH (p:Product {id: $product})-[:HAS_BRAND|IN_CATEGORY|HAS_ATTRIBUTE]->(shared)<-[:HAS_BRAND|IN_CATEGORY|HAS_ATTRIBUTE]-(like:Product)
WHERE like <> p
WITH p, like, sum(CASE WHEN shared:Brand THEN 2 ELSE 1 END) AS alike
ORDER BY alike DESC, like.id LIMIT 200
MATCH (u:User)-[r:PURCHASED|RATED|REVIEWED]->(like)
WHERE NOT (u)-[:PURCHASED|RATED|REVIEWED]->(p)
WITH u, like, alike, max(r.at) AS at
RETURN u.id AS user, sum(alike) AS points, count(like) AS similar_products,
       toString(date(datetime({epochMillis: max(at)}))) AS last
ORDER BY points DESC, last DESC, user
LIMIT $limit
