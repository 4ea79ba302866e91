"""Relationships of many nodes, read in bounded pieces: those of many nodes in one record, as long as it holds them.

Columns that `collect()` gathers into one record are several times faster than a record per row, but the store has all
of them in memory at once. A node with more relationships than that ("guest", say) is read row by row.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from kg import schema
from kg.errors import GraphBusyError, GraphUnavailableError
from kg.whole_rows import whole_rows

if TYPE_CHECKING:
    from kg.store import Graph

_ROWS_AT_ONCE = 50_000
_NODES_AT_ONCE = 5_000
_BLOCKS_AT_ONCE = 2
_TIMES = 5
_WAIT_S = 2.0

Columns = Sequence[Sequence[Any]]


@dataclass(frozen=True)
class _Block:
    """Some nodes by their keys, and about how many relationships they have."""

    keys: list[list[str]]
    rows: int


@dataclass(frozen=True)
class Outgoing:
    """What is read of the relationships `r` that go out of the nodes `h` of a label, to any `t`.

    Args:
        node: of `h`; in Cypher, `key` is the list of what is its key.
        types: of `r`.
        condition: which of them, in Cypher.
        values: what is read of each, in Cypher; none is null where all of it is there.
        whole: the condition, in Cypher, that all of it is there.
        table: makes a table of columns, one for each of `values`.
        parameters: of all that.
    """

    node: schema.Node
    types: Sequence[str]
    condition: str
    values: Sequence[str]
    whole: str
    table: Callable[[Columns], pa.Table]
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def read(self, graph: "Graph") -> Iterator[pa.Table]:
        """Yield all of them in tables, by the keys of `h`."""
        if not self.types:
            return
        # Neo4j gathers one block while the one before becomes Arrow columns.
        with ThreadPoolExecutor(_BLOCKS_AT_ONCE) as pool:
            yield from pool.map(partial(self._read, graph), self._blocks(graph))

    def _blocks(self, graph: "Graph") -> Iterator[_Block]:
        """Yield the nodes that have any, by key; more than `_ROWS_AT_ONCE` only where one node alone has them."""
        key = [f"h.{name}" for name in self.node.key]
        cypher = f"MATCH (h:{self.node.label}) RETURN {', '.join(key)}, COUNT {{ (h)-[:{'|'.join(self.types)}]->() }}"
        keys: list[list[str]] = []
        rows = 0
        for *node, count in sorted(whole_rows(lambda: graph.read(cypher), range(len(key)))):
            if keys and (rows + count > _ROWS_AT_ONCE or len(keys) == _NODES_AT_ONCE):
                yield _Block(keys, rows)
                keys, rows = [], 0
            if count:
                keys.append(node)
                rows += count
        if keys:
            yield _Block(keys, rows)

    def _cypher(self, condition: str, values: Sequence[str]) -> str:
        pattern, hint = by_key("h", self.node)
        return (
            f"UNWIND $keys AS key MATCH {pattern}-[r:{'|'.join(self.types)}]->(t) {hint} "
            f"WHERE {self.condition} AND {condition} RETURN {', '.join(values)}"
        )

    def _read(self, graph: "Graph", block: _Block) -> pa.Table:
        return self._streamed(graph, block.keys) if block.rows > _ROWS_AT_ONCE else self._gathered(graph, block.keys)

    def _gathered(self, graph: "Graph", keys: list[list[str]]) -> pa.Table:
        """Return a block that is read in one record: again where something was removed meanwhile.

        `collect` leaves out what a relationship that is just removed does not have any more (see `kg.whole_rows`). One
        that never had it is left out in the end.

        Raises:
            GraphBusyError: something was removed each time.
        """
        collected = [f"collect({value})" for value in self.values]
        for condition in [*["true"] * _TIMES, *[self.whole] * _TIMES]:
            [columns] = graph.read(self._cypher(condition, collected), keys=keys, **self.parameters)
            if len({len(column) for column in columns}) == 1:
                return self.table(columns)
        raise GraphBusyError("the graph was changed under its reader again and again", "Try again at a calmer time.")

    def _streamed(self, graph: "Graph", keys: list[list[str]]) -> pa.Table:
        """Return a block that is read row by row: once more where some were not whole, which are left out then."""
        table, all_whole = self._row_by_row(graph, keys, "true")
        return table if all_whole else self._row_by_row(graph, keys, self.whole)[0]

    def _row_by_row(self, graph: "Graph", keys: list[list[str]], condition: str) -> tuple[pa.Table, bool]:
        """Return the rows that are whole, and whether all were; from the start where the graph breaks off."""
        for again in reversed(range(_TIMES)):
            rows = graph.stream(self._cypher(condition, self.values), keys=keys, **self.parameters)
            pieces, partial_rows = [self.table([[]] * len(self.values))], 0
            try:
                while read := list(islice(rows, _ROWS_AT_ONCE)):
                    whole = [row for row in read if None not in row]
                    partial_rows += len(read) - len(whole)
                    if whole:
                        pieces.append(self.table(list(zip(*whole, strict=True))))
                break
            except (
                GraphBusyError,
                GraphUnavailableError,
            ):  # a stream, unlike `Graph.read`, is not tried again by itself
                if not again:
                    raise
                time.sleep(_WAIT_S)
        return pa.concat_tables(pieces), not partial_rows


def by_key(name: str, node: schema.Node) -> tuple[str, str]:
    """Return the Cypher pattern of a node whose key is the list `key`, and the hint to seek it in its index.

    The hint matters: a plan made while the graph was small would scan all nodes for each key.
    """
    properties = ", ".join(f"{part}: key[{place}]" for place, part in enumerate(node.key))
    return f"({name}:{node.label} {{{properties}}})", f"USING INDEX SEEK {name}:{node.label}({', '.join(node.key)})"
