"""Cypher texts that link nodes of the graph by their keys, as a table says; each row is a list."""

from kg import schema
from kg.erasure import FORGET_UNLINKED


def node_pattern(name: str, label: str, place: int) -> str:
    """Return the Cypher pattern of a node whose id is `row[place]`, its kind, of an entity, `row[place + 2]`."""
    node = next(node for node in schema.NODES if node.label == label)
    kind = f", kind: row[{place + 2}]" if node is schema.ENTITY else ""
    seek = f"USING INDEX SEEK {name}:{label}({', '.join(node.key)})"
    return f"({name}:{label} {{{node.key[0]}: row[{place}]{kind}}}) {seek}"


def link(relationship: schema.Relationship, start: schema.Node, end: schema.Node) -> str:
    """Return the Cypher text that links nodes by key, as the products or users table says."""
    return (
        f"UNWIND $rows AS row MATCH {node_pattern('a', start.label, 0)} MATCH {node_pattern('b', end.label, 1)} "
        f"MERGE (a)-[:{relationship.type} {{from_catalogue: true}}]->(b)"
    )


def relink(relationship: schema.Relationship, start: schema.Node, end: schema.Node) -> str:
    """Return the Cypher text that makes the links of nodes exactly these; a row is a key and its targets, none twice.

    Each node is locked before its links are read, so that of two loads at once one's links stay, and not those of both.
    An attribute of a user that nobody else has goes with its last link: no erasure would find it.
    """
    key, pattern = end.key[0], f"{relationship.type} {{from_catalogue: true}}"
    target = f"MATCH (b:{end.label} {{{key}: target}}) USING INDEX SEEK b:{end.label}({key})"
    if end is schema.ATTRIBUTE:  # made here, as another load may just have removed it with its last link
        target = (
            f"WITH target, a, split(target, '=')[0] AS said MERGE (b:{end.label} {{{key}: target}}) "
            "ON CREATE SET b.key = said, b.value = substring(target, size(said) + 1)"
        )
    forget = f"WITH gone UNWIND gone AS each WITH collect(DISTINCT each[1]) AS ends UNWIND ends AS x {FORGET_UNLINKED}"
    return (
        f"UNWIND $rows AS row MATCH {node_pattern('a', start.label, 0)} SET a.id = a.id "  # a lock
        f"WITH a, row[1] AS targets OPTIONAL MATCH (a)-[old:{pattern}]->(x:{end.label}) "
        "WITH a, targets, [each IN collect([old, x]) WHERE each[0] IS NOT NULL] AS links "
        f"WITH a, [each IN links WHERE NOT each[1].{key} IN targets] AS gone, "
        f"[each IN targets WHERE NOT each IN [link IN links | link[1].{key}]] AS missing "
        f"CALL (a, missing) {{ UNWIND missing AS target {target} CREATE (a)-[:{pattern}]->(b) }} "
        f"FOREACH (each IN gone | DELETE each[0]) {forget if start is schema.USER else ''}"
    )
