// From category to category
//
// Which category users buy from next, after another one: the most frequent steps.
//
// $limit = 20: how many steps to show
MATCH (u:User)-[r:PURCHASED|RATED|REVIEWED]->(:Product)-[:IN_CATEGORY {from_catalogue: true}]->(c:Category)
WITH u, c, r.at AS at, r.position AS position
ORDER BY at, position
WITH u, collect(c) AS path
UNWIND range(0, size(path) - 2) AS step
WITH path[step] AS first, path[step + 1] AS then
WHERE first <> then
RETURN first.path AS category, then.path AS next_category, count(*) AS times
ORDER BY times DESC, category, next_category
LIMIT $limit
