// Why a product: paths from what a user knows
//
// The shortest paths through brands, categories, attributes and facts from the user's products to this one.
//
// $user: a user id
// $product: a product id
// $limit = 10: how many paths to show
MATCH (u:User {id: $user})-[r:VIEWED|CLICKED|ADDED_TO_CART|WISHLISTED|PURCHASED|RATED|REVIEWED]->(known:Product)
WHERE known.id <> $product
WITH DISTINCT u, known, max(r.at) AS at
ORDER BY at DESC LIMIT 50
MATCH (target:Product {id: $product})
MATCH path = SHORTEST 1 (known)-[:!(VIEWED|CLICKED|ADDED_TO_CART|WISHLISTED|PURCHASED|RATED|REVIEWED|RECOMMENDED|SEARCHED)]-{1,3}(target)
RETURN known.id AS because_of, known.title AS title, [link IN relationships(path) | type(link)] AS links,
       [node IN nodes(path)[1..-1] | coalesce(node.path, node.name, node.title, node.id)] AS through,
       toString(date(datetime({epochMillis: at}))) AS last
ORDER BY length(path), at DESC, because_of
LIMIT $limit
