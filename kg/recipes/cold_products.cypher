// Cold products
//
// Products that few have touched, and what else the graph knows of them: what a model can still rank them by.
//
// $most = 3: at most this many interactions
// $limit = 20: how many to show
MATCH (p:Product) WHERE p.deleted_at IS NULL
WITH p, COUNT { (p)<-[:VIEWED|CLICKED|ADDED_TO_CART|WISHLISTED|PURCHASED|RATED|REVIEWED]-() } AS interactions
WHERE interactions <= $most
RETURN p.id AS product, p.title AS title, interactions, size(p.title) + size(p.description) AS text_characters,
       COUNT { (p)-[:HAS_BRAND|IN_CATEGORY|HAS_ATTRIBUTE]->() } AS attributes,
       COUNT { (p)-[:!(HAS_BRAND|IN_CATEGORY|HAS_ATTRIBUTE|RECOMMENDED)]-(:Product) } AS facts_with_products
ORDER BY interactions, facts_with_products DESC, product
LIMIT $limit
