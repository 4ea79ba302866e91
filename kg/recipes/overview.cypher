// What is in the graph
//
// How many nodes there are of each label, how many relationships they have on average, and how many at most.
CALL () {
  MATCH (n) RETURN labels(n)[0] AS label, count(*) AS nodes, avg(COUNT { (n)--() }) AS mean, max(COUNT { (n)--() }) AS most
}
RETURN label, nodes, round(mean, 1) AS `relationships, mean`, most AS `relationships, most`
ORDER BY nodes DESC
