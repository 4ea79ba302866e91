"""Facts of the graph one by one: stated, listed and removed online, each call one numbered transaction."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kg import schema
from kg.catalogue import loader_in, stored_in
from kg.commits import ChangeKind, Commit
from kg.exporting import facts_of
from kg.linking import node_pattern
from kg.loading import write_facts
from kg.tables import FACTS

if TYPE_CHECKING:
    from kg.store import Graph

DERIVED = frozenset(each.type for each in schema.CATALOGUE)
"""Relations that follow from products."""


@dataclass(frozen=True, order=True)
class Fact:
    """A fact; sorts by relation, then by its ends."""

    relation: str
    head_kind: str
    head: str
    tail_kind: str
    tail: str

    @property
    def products(self) -> list[str]:
        """The ids of its ends that are products."""
        ends = ((self.head_kind, self.head), (self.tail_kind, self.tail))
        return [end for kind, end in ends if kind == schema.PRODUCT.kind]


def state(graph: "Graph", facts: Sequence[Fact], refuse: Callable[[set[str]], None]) -> int:
    """State facts, all in one transaction; return how many were not there before.

    Servers are told of these alone, not of those that were there, from files maybe.

    Args:
        graph: an open graph.
        facts: their relations are checked (`schema.relation_name`).
        refuse: called with the products that they name and the catalogue does not have; nothing is stated where it
            raises an error.
    """
    named = list(dict.fromkeys(product_id for fact in facts for product_id in fact.products))

    def work(commit: Commit) -> int:
        refuse(set(named) - {each.product.product_id for each in stored_in(commit, named)})
        there = _there(commit, facts)
        fresh = [fact for fact in dict.fromkeys(facts) if fact not in there]
        if fresh:
            products = {product_id for fact in fresh for product_id in fact.products}
            write_facts(loader_in(commit), pa.Table.from_pylist([asdict(fact) for fact in fresh], FACTS), products)
            _note(commit, fresh)
        return len(fresh)

    return graph.commit(work)


def withdraw(graph: "Graph", facts: Sequence[Fact]) -> int:
    """Remove facts, all in one transaction; return how many were there."""

    def work(commit: Commit) -> int:
        there = _there(commit, facts)
        for cypher, rows in _groups(facts):
            commit.run(f"{cypher} DELETE r", rows)
        _note(commit, there)
        return len(there)

    return graph.commit(work)


def facts_about(graph: "Graph", product_id: str) -> list[Fact]:
    """Return the facts that a product is an end of, sorted."""
    rows = facts_of(graph, [product_id]).to_pylist()
    return sorted(Fact(**{name: row[name] for name in Fact.__dataclass_fields__}) for row in rows)


def _there(commit: Commit, facts: Sequence[Fact]) -> set[Fact]:
    """Return those of some facts that the graph has."""
    there: set[Fact] = set()
    for cypher, rows in _groups(facts):
        there |= {facts[place] for (place,) in commit.run(f"{cypher} RETURN DISTINCT row[4]", rows).rows}
    return there


def _groups(facts: Sequence[Fact]) -> Iterator[tuple[str, list[list[Any]]]]:
    """Yield the Cypher text that finds facts of one relation between nodes of two labels, and its rows.

    A fact may be in several of them.
    """
    groups: dict[str, list[list[Any]]] = {}
    for place, fact in enumerate(facts):
        for head, tail in product(_labels(fact.head_kind), _labels(fact.tail_kind)):
            cypher = (
                f"UNWIND $rows AS row MATCH {node_pattern('a', head, 0)} MATCH {node_pattern('b', tail, 1)} "
                f"MATCH (a)-[r:{schema.relation_name(fact.relation)}]->(b) "
                "WHERE coalesce(r.from_catalogue, false) = false"
            )
            groups.setdefault(cypher, []).append([fact.head, fact.tail, fact.head_kind, fact.tail_kind, place])
    yield from groups.items()


def _labels(kind: str) -> list[str]:
    """Return the labels that an end of a kind may have: a product outside the catalogue is an Entity."""
    node = schema.NODE_OF_KIND.get(kind, schema.ENTITY)
    return [node.label, schema.ENTITY.label] if node is schema.PRODUCT else [node.label]


def _note(commit: Commit, facts: Iterable[Fact]) -> None:
    for fact in facts:
        for product_id in fact.products:
            commit.note(ChangeKind.FACTS, product_id)
