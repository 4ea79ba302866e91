"""Data and graph: from files to a Neo4j knowledge graph, and from the graph to snapshots."""
