// What is in the graph
//
// How many nodes there are of each label, and how many relationships one of them has on average and at most.
MATCH (n)
WITH labels(n)[0] AS label, COUNT { (n)--() } AS degree
RETURN label, count(*) AS nodes, round(avg(degree), 1) AS mean_degree, max(degree) AS largest_degree
ORDER BY nodes DESC, label
