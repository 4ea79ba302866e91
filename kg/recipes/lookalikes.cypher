// Users like a user
//
// Who bought the same products, by the share of common ones among all that the two bought (Jaccard).
//
// $user: a user id
// $limit = 10: how many users to show
MATCH (u:User {id: $user})-[:PURCHASED|RATED|REVIEWED]->(p:Product)
WITH u, collect(DISTINCT p) AS mine
UNWIND mine AS p
MATCH (p)<-[:PURCHASED|RATED|REVIEWED]-(other:User)
WHERE other <> u
WITH mine, other, count(DISTINCT p) AS common
ORDER BY common DESC, other.id LIMIT 200
WITH mine, other, common, COUNT { MATCH (other)-[:PURCHASED|RATED|REVIEWED]->(x) RETURN DISTINCT x } AS theirs
RETURN other.id AS user, common, round(1.0 * common / (size(mine) + theirs - common), 3) AS likeness
ORDER BY likeness DESC, common DESC, user
LIMIT $limit
