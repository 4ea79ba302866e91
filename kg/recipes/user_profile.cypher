// A user's profile
//
// What a user did, which brands and categories it was with, and when: the most frequent first.
//
// $user: a user id
// $limit = 15: how many lines to show
MATCH (u:User {id: $user})-[r:VIEWED|CLICKED|ADDED_TO_CART|WISHLISTED|PURCHASED|RATED|REVIEWED]->(p:Product)
OPTIONAL MATCH (p)-[:IN_CATEGORY {from_catalogue: true}]->(c:Category)
RETURN type(r) AS did, p.brand AS brand, coalesce(c.path, '') AS category, count(*) AS times,
       count(DISTINCT p) AS products, toString(date(datetime({epochMillis: max(r.at)}))) AS last
ORDER BY times DESC, last DESC, brand, category
LIMIT $limit
