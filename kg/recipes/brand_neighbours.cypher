// A brand's neighbours
//
// Which other brands the buyers of a brand buy, and what share of its buyers does.
//
// $brand: a brand
// $limit = 15: how many brands to show
MATCH (:Brand {name: $brand})<-[:HAS_BRAND]-(:Product)<-[:PURCHASED|RATED|REVIEWED]-(u:User)
WITH collect(DISTINCT u) AS buyers
UNWIND buyers AS u
MATCH (u)-[:PURCHASED|RATED|REVIEWED]->(:Product)-[:HAS_BRAND]->(other:Brand)
WHERE other.name <> $brand
WITH buyers, other, count(DISTINCT u) AS shared
RETURN other.name AS brand, shared AS shared_buyers, round(1.0 * shared / size(buyers), 3) AS share_of_buyers
ORDER BY shared DESC, brand
LIMIT $limit
