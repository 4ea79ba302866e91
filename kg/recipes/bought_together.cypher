// Bought together across brands
//
// Pairs of products of different brands that the same users bought, by lift: how much more often than by chance.
// Rating or reviewing counts as buying, where a data set knows only that. Looks at the most bought products.
//
// $min_users = 3: least number of users who bought both
// $among = 200: how many of the most bought products to look at
// $limit = 20: how many pairs to show
MATCH (u:User)
WHERE (u)-[:PURCHASED|RATED|REVIEWED]->()
WITH count(u) AS buyers
MATCH (p:Product)<-[r:PURCHASED|RATED|REVIEWED]-()
WHERE p.brand <> ''
WITH buyers, p, count(r) AS bought
ORDER BY bought DESC LIMIT $among
WITH buyers, collect(p) AS popular
UNWIND popular AS a
MATCH (a)<-[:PURCHASED|RATED|REVIEWED]-(u:User)
WITH buyers, popular, a, collect(DISTINCT u) AS of_a
UNWIND of_a AS u
MATCH (u)-[:PURCHASED|RATED|REVIEWED]->(b:Product)
WHERE b IN popular AND a.id < b.id AND a.brand <> b.brand
WITH buyers, a, b, size(of_a) AS users_a, count(DISTINCT u) AS together
WHERE together >= $min_users
WITH a, b, together, users_a, buyers, COUNT { MATCH (b)<-[:PURCHASED|RATED|REVIEWED]-(x) RETURN DISTINCT x } AS users_b
RETURN a.brand AS brand, coalesce(nullIf(a.title, ''), a.id) AS product,
       b.brand AS other_brand, coalesce(nullIf(b.title, ''), b.id) AS other_product,
       together, round(1.0 * together * buyers / (users_a * users_b), 2) AS lift
ORDER BY lift DESC, together DESC, a.id, b.id
LIMIT $limit
