// Twins of a product by vector
//
// The products whose vectors of the published model are nearest, by cosine.
// Needs `kgrank publish`.
//
// $product: a product id
// $limit = 10: how many to show
MATCH (p:Product {id: $product})
WHERE p.embedding IS NOT NULL
CALL db.index.vector.queryNodes('product_embedding', $limit + 1, p.embedding) YIELD node, score
WHERE node.id <> $product
OPTIONAL MATCH (node)-[:IN_CATEGORY {from_catalogue: true}]->(c:Category)
RETURN node.id AS product, node.title AS title, node.brand AS brand, coalesce(c.path, '') AS category,
       round(2 * score - 1, 4) AS cosine
ORDER BY cosine DESC, product
LIMIT $limit
