// Products nobody bought
//
// Products without a purchase, rating or review; those that were looked at most come first.
//
// $limit = 20: how many to show
MATCH (p:Product)
WHERE p.deleted_at IS NULL AND NOT (p)<-[:PURCHASED|RATED|REVIEWED]-()
RETURN p.id AS product, p.title AS title, p.brand AS brand, p.price AS price,
       COUNT { (p)<-[:VIEWED|CLICKED]-() } AS looked_at, COUNT { (p)<-[:ADDED_TO_CART|WISHLISTED]-() } AS wanted
ORDER BY wanted DESC, looked_at DESC, product
LIMIT $limit
