"""A model's results in the graph: product vectors with a vector index, and `RECOMMENDED` relationships.

A publication is written whole while readers still see the one before, then one transaction makes it the active one:

    (:ModelVersion {id, active: false})                  named before anything of it is written
    (:User)-[:RECOMMENDED {rank, score, model}]->(:Product)   in batches; `model` is the publication's id
    (:Product {embedding_next})                          in batches
    active: true, and embedding_next -> embedding        one transaction

What a killed publication left is cleared by the next. One that still runs notices: each of its transactions begins with
its own `ModelVersion`, locked. Readers join on the active one:

    MATCH (m:ModelVersion {active: true}), (u:User {id: $user})-[r:RECOMMENDED {model: m.id}]->(p) ...
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import structlog

from kg.erasure import user_key
from kg.errors import GraphError
from kg.progress import SILENT, Progress
from kg.schema import vector_index
from kg.store import Graph, Result

log = structlog.get_logger()

_ROWS = 10_000
_VECTORS = 1_000

_MODEL_INDEX = "CREATE INDEX recommended_model IF NOT EXISTS FOR ()-[r:RECOMMENDED]-() ON (r.model)"
_IN_CATALOGUE = "p.deleted_at IS NULL"


@dataclass(frozen=True)
class Publication:
    """A publication in the graph; `complete` once it has ever been active."""

    id: str
    active: bool
    complete: bool
    created_at_ms: int


@dataclass(frozen=True)
class Published:
    """What a publication wrote. Users and products that are gone from the graph since are passed over."""

    id: str
    recommendations: int
    vectors: int
    removed: Sequence[str]


def publications(graph: Graph) -> list[Publication]:
    """Return what is published, by when it was last made the active one, or else when it was begun; latest first."""
    rows = graph.read(
        "MATCH (m:ModelVersion) RETURN m.id, m.active, coalesce(m.complete, true), m.created_at "
        "ORDER BY coalesce(m.active_at, m.created_at) DESC, m.created_at DESC, m.id DESC"
    )
    return [Publication(*row) for row in rows]


def publish(
    graph: Graph,
    model_version: str,
    product_ids: pa.Array,
    vectors: npt.NDArray[np.float32],
    recommendations: Iterable[pa.Table],
    *,
    commit: int = 0,
    keep: int = 2,
    progress: Progress = SILENT,
) -> Published:
    """Write a publication, make it the active one, and remove older ones.

    Args:
        graph: an open graph.
        model_version: what is published; a second publication of one model gets `.2` after it, and so on.
        product_ids: `[P]` ids of the vectors.
        vectors: `[P, D]`, compared by cosine.
        recommendations: tables with `user_id`, `product_id`, `rank`, `score`; a user's rows stand together.
        commit: the last one that the recommendations are made of (`kg.snapshot.Snapshot.commit`): who was erased after
            it is passed over, come back or not.
        keep: how many publications stay, the active one included: those that were active last.
        progress: advances by one for each product and each recommendation.

    Raises:
        GraphError: the store failed, or another publication began meanwhile; the publication that was active before
            still is.
    """
    graph.ensure_schema()
    _remove_unfinished(graph)
    publication = _name(graph, model_version)
    graph.write(
        "CREATE (:ModelVersion {id: $id, active: false, complete: false, created_at: $at})",
        id=publication,
        at=time.time_ns() // 1_000_000,
    )
    _remove_unfinished(graph, but=publication)  # of two that began together at least one sees the other
    make_indexes(graph)
    graph.write("CALL db.awaitIndexes(300)")
    written = sum(_write_recommendations(graph, publication, commit, table, progress) for table in recommendations)
    count = _switch(graph, publication, product_ids, vectors, progress)
    log.info("published", publication=publication, recommendations=written, vectors=count)
    older = [each.id for each in publications(graph) if not each.active][max(keep - 1, 0) :]
    for each in older:
        _remove(graph, each)
    return Published(publication, written, count, older)


def make_indexes(graph: Graph) -> None:
    """Make the indexes that readers of publications need, where they are not there yet; they fill in the background."""
    graph.write(_MODEL_INDEX)
    graph.write(vector_index())


def activate(
    graph: Graph,
    publication: str,
    product_ids: pa.Array,
    vectors: npt.NDArray[np.float32],
    progress: Progress = SILENT,
) -> int:
    """Make a publication that is in the graph the active one again; return how many vectors it has.

    Args:
        graph: an open graph.
        publication: its id.
        product_ids: `[P]` ids of the vectors.
        vectors: `[P, D]` of its model; the graph keeps those of the active one only.
        progress: advances by one for each product.

    Raises:
        GraphError: there is none of this id, or it was not written to its end, or the store failed; the publication
            that was active before still is.
    """
    if not _found(graph, publication).complete:
        raise GraphError(f"publication {publication} was not written to its end", "Publish its model once more.")
    _remove_unfinished(graph)
    make_indexes(graph)
    graph.write("CALL db.awaitIndexes(300)")
    count = _switch(graph, publication, product_ids, vectors, progress)
    log.info("activated", publication=publication, vectors=count)
    return count


def remove(graph: Graph, publication: str) -> None:
    """Remove a publication that is not active.

    Raises:
        GraphError: there is none of this id, or it is the active one.
    """
    if _found(graph, publication).active:
        raise GraphError(
            f"publication {publication} is the active one: recipes read it", "Publish or activate another one first."
        )
    _remove(graph, publication)


def _found(graph: Graph, publication: str) -> Publication:
    there = {each.id: each for each in publications(graph)}
    if publication not in there:
        listed = ", ".join(there) or "none"
        raise GraphError(f"there is no publication {publication!r} in the graph", f"There are: {listed}.")
    return there[publication]


def _name(graph: Graph, model_version: str) -> str:
    taken = {each.id for each in publications(graph)}
    if model_version not in taken:
        return model_version
    number = 2
    while f"{model_version}.{number}" in taken:
        number += 1
    return f"{model_version}.{number}"


def _write_recommendations(graph: Graph, publication: str, commit: int, table: pa.Table, progress: Progress) -> int:
    written = 0
    for batch in _batches(table):
        result = _write_as(
            graph,
            publication,
            "UNWIND $rows AS row MATCH (u:User {id: row[0]}) "
            "WHERE NOT EXISTS { MATCH (e:Erasure {user: row[1]}) WHERE e.commit > $commit } "
            f"UNWIND row[2] AS each MATCH (p:Product {{id: each[0]}}) WHERE {_IN_CATALOGUE} "
            "CREATE (u)-[:RECOMMENDED {rank: each[1], score: each[2], model: $model}]->(p)",
            batch,
            commit=commit,
        )
        written += result.changes.get("relationships_created", 0)
        progress.advance(sum(len(listed) for _, _, listed in batch))
    return written


_UserRow = tuple[str, str, list[tuple[str, int, float]]]


def _batches(table: pa.Table) -> Iterator[list[_UserRow]]:
    """Yield users with the hashes of their ids and their lists, together of about `_ROWS` recommendations."""
    columns = [table[name].to_pylist() for name in ("user_id", "product_id", "rank", "score")]
    batch: list[_UserRow] = []
    size = 0
    for user_id, rows in groupby(zip(*columns, strict=True), key=itemgetter(0)):
        listed = [(product_id, rank, score) for _, product_id, rank, score in rows]
        batch.append((user_id, user_key(user_id), listed))
        size += len(listed)
        if size >= _ROWS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _switch(
    graph: Graph, publication: str, product_ids: pa.Array, vectors: npt.NDArray[np.float32], progress: Progress
) -> int:
    """Write a publication's vectors beside the others; then, in one transaction, make both it and them active."""
    graph.write("MATCH (p:Product) WHERE p.embedding_next IS NOT NULL REMOVE p.embedding_next")
    count = _stage_vectors(graph, publication, product_ids, vectors, progress)
    _write_as(
        graph,
        publication,
        "SET own.active_at = $at WITH own "
        "MATCH (m:ModelVersion) SET m.active = (m.id = $model), m.complete = (m.complete OR m.id = $model) "
        "WITH count(*) AS versions WHERE versions > 0 "
        "MATCH (p:Product) WHERE p.embedding IS NOT NULL OR p.embedding_next IS NOT NULL "
        "SET p.embedding = p.embedding_next REMOVE p.embedding_next",
        at=time.time_ns() // 1_000_000,
    )
    return count


def _stage_vectors(
    graph: Graph, publication: str, product_ids: pa.Array, vectors: npt.NDArray[np.float32], progress: Progress
) -> int:
    written = 0
    for start in range(0, len(product_ids), _VECTORS):
        ids = product_ids.slice(start, _VECTORS).to_pylist()
        rows = [
            [product_id, vector]
            for product_id, vector in zip(ids, vectors[start : start + _VECTORS].tolist(), strict=True)
        ]
        result = _write_as(
            graph,
            publication,
            f"UNWIND $rows AS row MATCH (p:Product {{id: row[0]}}) WHERE {_IN_CATALOGUE} "
            "CALL db.create.setNodeVectorProperty(p, 'embedding_next', row[1]) "
            "RETURN count(p)",
            rows,
        )
        written += int(result.rows[0][0])
        progress.advance(len(rows))
    return written


def _write_as(
    graph: Graph, publication: str, cypher: str, rows: Sequence[Any] | None = None, **parameters: Any
) -> Result:
    """Run a part of a publication, if that is still in the graph; `own` is it, and `$model` its id."""
    own = "MATCH (own:ModelVersion {id: $model}) SET own.complete = own.complete WITH own "  # a lock
    result = graph.write(own + cypher, rows, model=publication, **parameters)
    if not result.changes.get("properties_set"):
        raise GraphError("another `kgrank publish` removed this publication while it was written", "Run one at a time.")
    return result


def _remove_unfinished(graph: Graph, but: str = "") -> None:
    for left in publications(graph):
        if not left.complete and left.id != but:
            log.info("unfinished_publication_removed", publication=left.id)
            _remove(graph, left.id)


def _remove(graph: Graph, publication: str) -> None:
    """Remove a publication, the name last, so that a removal that is stopped can be run again."""
    while True:
        result = graph.write(
            "MATCH ()-[r:RECOMMENDED {model: $id}]->() WITH r LIMIT $count DELETE r", id=publication, count=_ROWS
        )
        if not result.changes.get("relationships_deleted"):
            break
    # Locked first, and then what its writer may have added since: nothing of it can come after.
    graph.write(
        "MATCH (m:ModelVersion {id: $id}) SET m.active = false WITH m "
        "OPTIONAL MATCH ()-[r:RECOMMENDED {model: $id}]->() DELETE r WITH DISTINCT m DELETE m",
        id=publication,
    )
