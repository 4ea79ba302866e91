// What a user is recommended, and why
//
// The active model's recommendations for a user, each with a product of the user's history that shares its brand,
// category or attributes, or that a fact links to it.
// Needs `kgrank publish`.
//
// $user: a user id
// $limit = 10: how many to show
MATCH (m:ModelVersion {active: true})
MATCH (u:User {id: $user})-[r:RECOMMENDED {model: m.id}]->(p:Product)
CALL (u, p) {
  MATCH (u)-[:VIEWED|CLICKED|ADDED_TO_CART|WISHLISTED|PURCHASED|RATED|REVIEWED]->(known:Product)
  WHERE known <> p
  WITH DISTINCT known, p LIMIT 200
  OPTIONAL MATCH (known)-[:HAS_BRAND|IN_CATEGORY|HAS_ATTRIBUTE]->(shared)<-[:HAS_BRAND|IN_CATEGORY|HAS_ATTRIBUTE]-(p)
  OPTIONAL MATCH (known)-[fact]-(p)
  WITH known, collect(DISTINCT coalesce(shared.path, shared.name, shared.id)) + collect(DISTINCT type(fact)) AS links
  WHERE size(links) > 0
  RETURN known, links ORDER BY size(links) DESC, known.id LIMIT 1
  UNION
  RETURN null AS known, [] AS links
}
WITH r, p, known, links ORDER BY size(links) DESC
WITH r, p, collect({known: known, links: links})[0] AS best
RETURN r.rank AS rank, p.id AS product, p.title AS title, p.brand AS brand, round(r.score, 4) AS score,
       coalesce(nullIf(best.known.title, ''), best.known.id) AS like_your, best.links AS shared
ORDER BY rank
LIMIT $limit
