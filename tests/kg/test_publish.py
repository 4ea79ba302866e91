"""Publishing into a real Neo4j: readers see one model whole, whatever happens on the way."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pytest

from kg.catalogue import take_out
from kg.erasure import erase_user
from kg.errors import GraphError
from kg.freeze import freeze
from kg.publish import activate, publications, publish, remove
from kg.store import Graph
from tests.kg.small_tables import SMALL, event, tables

pytestmark = pytest.mark.neo4j

ACTIVE_LISTS = (
    "MATCH (m:ModelVersion {active: true}) MATCH (u:User)-[r:RECOMMENDED {model: m.id}]->(p) "
    "RETURN u.id, p.id, r.rank, r.score ORDER BY u.id, r.rank"
)
NEAREST = (
    "MATCH (p:Product {id: $id}) CALL db.index.vector.queryNodes('product_embedding', 3, p.embedding) "
    "YIELD node, score RETURN node.id, score ORDER BY score DESC, node.id"
)
USERS = freeze(SMALL).users.array.to_pylist()
PRODUCTS = freeze(SMALL).products.array


def lists(*orders: list[int]) -> pa.Table:
    """One list a user, in the order of `USERS`: places of products, best first."""
    rows = [
        {"user_id": user, "product_id": PRODUCTS[place].as_py(), "rank": rank, "score": 1.0 / rank}
        for user, order in zip(USERS, orders, strict=False)
        for rank, place in enumerate(order, 1)
    ]
    return pa.Table.from_pylist(rows)


def vectors(seed: int, width: int = 4) -> "np.ndarray[tuple[int, ...], np.dtype[np.float32]]":
    return np.random.default_rng(seed).normal(size=(len(PRODUCTS), width)).astype(np.float32)


def test_recommendations_and_vectors_are_those_of_the_active_model(graph: Graph) -> None:
    graph.load(SMALL)
    first = publish(graph, "m1", PRODUCTS, vectors(1), [lists([0, 1])])
    assert (first.id, first.recommendations, first.vectors, list(first.removed)) == ("m1", 2, len(PRODUCTS), [])
    assert graph.read(ACTIVE_LISTS) == [
        [USERS[0], PRODUCTS[0].as_py(), 1, 1.0],
        [USERS[0], PRODUCTS[1].as_py(), 2, 0.5],
    ]
    publish(graph, "m2", PRODUCTS, vectors(2), [lists([1])])
    assert graph.read(ACTIVE_LISTS) == [[USERS[0], PRODUCTS[1].as_py(), 1, 1.0]]
    assert [(each.id, each.active) for each in publications(graph)] == [("m2", True), ("m1", False)]
    stored = dict(graph.read("MATCH (p:Product) RETURN p.id, p.embedding"))
    assert np.array([stored[product_id] for product_id in PRODUCTS.to_pylist()]) == pytest.approx(vectors(2))
    assert graph.read("MATCH (p:Product) WHERE p.embedding_next IS NOT NULL RETURN p.id") == []


def test_an_older_publication_can_be_made_active_again(graph: Graph) -> None:
    graph.load(SMALL)
    publish(graph, "m1", PRODUCTS, vectors(1), [lists([0, 1])])
    publish(graph, "m2", PRODUCTS, vectors(2), [lists([1])])
    assert activate(graph, "m1", PRODUCTS, vectors(1)) == len(PRODUCTS)
    assert [row[1] for row in graph.read(ACTIVE_LISTS)] == [PRODUCTS[0].as_py(), PRODUCTS[1].as_py()]
    assert sorted((each.id, each.active) for each in publications(graph)) == [("m1", True), ("m2", False)]
    stored = dict(graph.read("MATCH (p:Product) RETURN p.id, p.embedding"))
    assert np.array([stored[product_id] for product_id in PRODUCTS.to_pylist()]) == pytest.approx(vectors(1))
    with pytest.raises(GraphError, match="no publication 'm3'"):
        activate(graph, "m3", PRODUCTS, vectors(1))


def test_the_vector_index_finds_the_nearest(graph: Graph) -> None:
    graph.load(SMALL)
    made = vectors(3)
    publish(graph, "m1", PRODUCTS, made, [])
    unit = made / np.linalg.norm(made, axis=1, keepdims=True)
    cosine = unit @ unit[0]
    nearest = graph.query(NEAREST, {"id": PRODUCTS[0].as_py()}).rows
    expected = np.argsort(-cosine)[:3]
    assert [row[0] for row in nearest] == [PRODUCTS[int(place)].as_py() for place in expected]
    # Neo4j scales a cosine to (1 + cosine) / 2.
    assert [row[1] for row in nearest] == pytest.approx(((1 + cosine[expected]) / 2).tolist(), abs=1e-3)


def test_vectors_of_another_width_take_over(graph: Graph) -> None:
    graph.load(SMALL)
    publish(graph, "m1", PRODUCTS, vectors(1, 4), [])
    publish(graph, "m2", PRODUCTS, vectors(2, 6), [])
    nearest = graph.query(NEAREST, {"id": PRODUCTS[1].as_py()}).rows
    assert nearest[0][0] == PRODUCTS[1].as_py()


def test_a_publication_that_breaks_off_changes_nothing_for_readers(graph: Graph) -> None:
    graph.load(SMALL)
    publish(graph, "m1", PRODUCTS, vectors(1), [lists([0, 1])])
    before = graph.read(ACTIVE_LISTS), graph.read("MATCH (p:Product) RETURN p.id, p.embedding ORDER BY p.id")

    def breaking() -> Iterator[pa.Table]:
        yield lists([1, 0])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(graph, "m2", PRODUCTS, vectors(2), breaking())
    after = graph.read(ACTIVE_LISTS), graph.read("MATCH (p:Product) RETURN p.id, p.embedding ORDER BY p.id")
    assert after == before
    publish(graph, "m2", PRODUCTS, vectors(2), [lists([1])])
    assert graph.read("MATCH ()-[r:RECOMMENDED]->() RETURN r.model, count(*) ORDER BY r.model") == [
        ["m1", 2],
        ["m2", 1],
    ]


def test_a_publication_that_another_overtook_says_so_and_leaves_nothing(graph: Graph) -> None:
    graph.load(SMALL)

    def overtaken() -> Iterator[pa.Table]:
        yield lists([1, 0])
        publish(graph, "m2", PRODUCTS, vectors(2), [lists([1])])

    with pytest.raises(GraphError, match="another `kgrank publish`") as caught:
        publish(graph, "m1", PRODUCTS, vectors(1), overtaken())
    assert caught.value.remedy == "Run one at a time."
    assert [(each.id, each.active) for each in publications(graph)] == [("m2", True)]
    assert graph.read("MATCH ()-[r:RECOMMENDED]->() RETURN r.model") == [["m2"]]
    stored = dict(graph.read("MATCH (p:Product) RETURN p.id, p.embedding"))
    assert np.array([stored[product_id] for product_id in PRODUCTS.to_pylist()]) == pytest.approx(vectors(2))


def test_vectors_that_a_killed_publication_staged_are_not_taken(graph: Graph) -> None:
    graph.load(SMALL)
    graph.write("MATCH (p:Product {id: $id}) SET p.embedding_next = [9.0, 9.0]", id=PRODUCTS[0].as_py())
    publish(graph, "m1", PRODUCTS.slice(1), vectors(1)[1:], [])
    assert graph.read("MATCH (p:Product) WHERE p.embedding IS NULL RETURN p.id") == [[PRODUCTS[0].as_py()]]


def test_older_publications_go_and_a_model_can_be_published_again(graph: Graph) -> None:
    graph.load(SMALL)
    for _ in range(2):
        publish(graph, "m1", PRODUCTS, vectors(1), [lists([0])], keep=3)
    last = publish(graph, "m2", PRODUCTS, vectors(2), [lists([1])], keep=2)
    assert list(last.removed) == ["m1"]
    assert [each.id for each in publications(graph)] == ["m2", "m1.2"]
    assert graph.read("MATCH ()-[r:RECOMMENDED]->() RETURN r.model ORDER BY r.model") == [["m1.2"], ["m2"]]


def test_of_older_publications_the_one_that_was_active_last_stays(graph: Graph) -> None:
    graph.load(SMALL)
    publish(graph, "m1", PRODUCTS, vectors(1), [lists([0])])
    publish(graph, "m2", PRODUCTS, vectors(2), [lists([1])])
    activate(graph, "m1", PRODUCTS, vectors(1))
    last = publish(graph, "m3", PRODUCTS, vectors(3), [lists([0])], keep=2)
    assert list(last.removed) == ["m2"]
    assert [each.id for each in publications(graph)] == ["m3", "m1"]
    assert activate(graph, "m1", PRODUCTS, vectors(1)) == len(PRODUCTS)


def test_what_was_never_active_and_what_an_older_version_published_go_by_when_they_were_begun(graph: Graph) -> None:
    graph.load(SMALL)
    publish(graph, "m1", PRODUCTS, vectors(1), [lists([0])])
    publish(graph, "m2", PRODUCTS, vectors(2), [lists([1])])
    graph.write("MATCH (m:ModelVersion) REMOVE m.active_at")
    assert [each.id for each in publications(graph)] == ["m2", "m1"]
    assert list(publish(graph, "m3", PRODUCTS, vectors(3), [lists([0])], keep=2).removed) == ["m1"]


def test_an_older_publication_can_be_removed_but_not_the_active_one(graph: Graph) -> None:
    graph.load(SMALL)
    publish(graph, "m1", PRODUCTS, vectors(1), [lists([0])])
    publish(graph, "m2", PRODUCTS, vectors(2), [lists([1])])
    with pytest.raises(GraphError, match="m2 is the active one"):
        remove(graph, "m2")
    with pytest.raises(GraphError, match="no publication 'm3'"):
        remove(graph, "m3")
    remove(graph, "m1")
    assert [each.id for each in publications(graph)] == ["m2"]
    assert len(graph.read("MATCH ()-[r:RECOMMENDED]->() RETURN r")) == 1


def test_publishing_does_not_change_what_is_exported(graph: Graph) -> None:
    graph.load(SMALL)
    before = freeze(graph.export()).content_hash
    publish(graph, "m1", PRODUCTS, vectors(1), [lists([0, 1], [1])])
    assert freeze(graph.export()).content_hash == before


def test_an_erased_user_and_a_product_that_left_are_passed_over(graph: Graph) -> None:
    graph.load(SMALL)
    graph.write("MATCH (u:User {id: $id}) DETACH DELETE u", id=USERS[0])
    graph.write("MATCH (p:Product {id: $id}) DETACH DELETE p", id=PRODUCTS[0].as_py())
    done = publish(graph, "m1", PRODUCTS, vectors(1), [lists([0, 1], [1, 0])])
    assert (done.recommendations, done.vectors) == (1, len(PRODUCTS) - 1)


def test_a_product_that_was_taken_out_is_recommended_to_nobody_and_has_no_vector(graph: Graph) -> None:
    graph.load(SMALL)
    take_out(graph, [PRODUCTS[0].as_py()])
    done = publish(graph, "m1", PRODUCTS, vectors(1), [lists([0, 1])])
    assert (done.recommendations, done.vectors) == (1, len(PRODUCTS) - 1)
    assert [row[1] for row in graph.read(ACTIVE_LISTS)] == [PRODUCTS[1].as_py()]
    assert graph.read("MATCH (p:Product) WHERE p.embedding IS NULL RETURN p.id") == [[PRODUCTS[0].as_py()]]


def test_who_was_erased_and_has_come_back_is_not_given_the_list_of_the_time_before(graph: Graph) -> None:
    graph.load(SMALL)
    frozen_at = graph.last_commit
    erased, _ = erase_user(graph, USERS[0])
    again = tables(interactions=[event("later", USERS[0], PRODUCTS[1].as_py())]).interactions
    graph.append_events(again, "journal", 1)
    assert publish(graph, "m1", PRODUCTS, vectors(1), [lists([0, 1], [1])], commit=frozen_at).recommendations == 1
    assert [row[0] for row in graph.read(ACTIVE_LISTS)] == [USERS[1]]
    # Of a snapshot that was made since, the list is of what the user has done since.
    assert publish(graph, "m2", PRODUCTS, vectors(1), [lists([0, 1], [1])], commit=erased.commit).recommendations == 3


def test_the_indexes_that_readers_need_are_made_when_a_publication_is_made_active_again(graph: Graph) -> None:
    graph.load(SMALL)
    publish(graph, "m1", PRODUCTS, vectors(1), [lists([0])])
    for name in ("product_embedding", "recommended_model"):
        graph.write(f"DROP INDEX {name}")
    activate(graph, "m1", PRODUCTS, vectors(1))
    assert graph.query(NEAREST, {"id": PRODUCTS[0].as_py()}).rows[0][0] == PRODUCTS[0].as_py()
    assert graph.read("SHOW INDEXES YIELD name WHERE name = 'recommended_model' RETURN name")
