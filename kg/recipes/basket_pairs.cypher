// Pairs in one basket
//
// Products that the same user bought on the same day (UTC), most often first.
//
// $hours = 24: how long a basket is open
// $among = 300: how many of the most bought products to look at
// $limit = 20: how many pairs to show
MATCH (p:Product)<-[r:PURCHASED]-()
WITH p, count(r) AS bought
ORDER BY bought DESC LIMIT $among
WITH collect(p) AS popular
UNWIND popular AS p
MATCH (p)<-[r:PURCHASED]-(u:User)
WITH u, r.at / ($hours * 3600000) AS period, collect(DISTINCT p) AS basket
WHERE size(basket) > 1
UNWIND basket AS a
UNWIND basket AS b
WITH a, b WHERE a.id < b.id
RETURN coalesce(nullIf(a.title, ''), a.id) AS product, coalesce(nullIf(b.title, ''), b.id) AS with_product,
       a.id AS id, b.id AS with_id, count(*) AS baskets
ORDER BY baskets DESC, id, with_id
LIMIT $limit
