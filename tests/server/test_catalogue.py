"""The catalogue online: what is written over gRPC is ranked, found and explained by the server soon after."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from kg.catalogue import Product, take_out, upsert
from kg.errors import GraphQueryError, GraphUnavailableError
from kg.store import Graph
from kgrank.client import Client, event, fact, product
from kgrank.errors import InvalidRequestError, NotFoundError, ServerUnavailableError
from kgrank.v1.catalog_service_pb2 import ProductOutcome
from kgrank.v1.common_pb2 import Context, Filter
from tests.server.command import CommandLine
from tests.server.running import Running, running
from tests.server.shop import tables
from tests.waiting import until

CREATED, UPDATED, UNCHANGED = (
    ProductOutcome.STATUS_CREATED,
    ProductOutcome.STATUS_UPDATED,
    ProductOutcome.STATUS_UNCHANGED,
)


@contextmanager
def serving(home: Path, graph: Graph, **settings: int) -> Iterator[Client]:
    """Run a server whose graph has the shop, ready to take new products."""
    with running(home, lambda: nullcontext(graph), **settings) as server, Client(server.target, timeout_s=30) as client:
        wait_until_prepared(server)
        yield client


def wait_until_prepared(server: Running) -> None:
    serving_of = server.server._serving
    until(lambda: server.server._link.is_open and not serving_of.catalogue.unprepared(serving_of.lineup), 60)


@pytest.fixture
def client(home: Path, graph: Graph) -> Iterator[Client]:
    """A client of a server of its own, whose graph has the shop."""
    graph.load(tables())
    with serving(home, graph) as connected:
        yield connected


def known(client: Client, product_id: str) -> bool:
    return not client.rank("user-00", [product_id]).missing_ids


@pytest.mark.neo4j
def test_a_new_product_is_ranked_found_and_explained_soon_after(client: Client) -> None:
    lamp = product("lamp-1", "Brass desk lamp", brand="Acme", category=["Things", "Kind 1"], price=30.0)
    outcomes = client.upsert_products([lamp, product("bare-1")])
    assert [each.status for each in outcomes] == [CREATED, CREATED]
    until(lambda: known(client, "lamp-1") and known(client, "bare-1"))
    # `user-00` buys Acme only: the lamp is of that brand.
    listed = client.recommend("user-00", k=92, details=True)
    place = [result.product_id for result in listed.results].index("lamp-1")
    assert listed.results[place].title == "Brass desk lamp"
    others = [result.brand for result in listed.results]
    assert place < len(others) - others[::-1].index("Bolt")
    assert client.search("brass lamp", k=3).results[0].product_id == "lamp-1"
    explained = client.explain("user-00", "lamp-1").result
    parts = explained.components
    assert parts.graph
    assert {node.name for reason in explained.reasons for node in reason.nodes} >= {"Acme"}
    assert "lamp-1" in [result.product_id for result in client.similar_products("product-00", k=91).results]
    assert client.explain("user-00", "bare-1").result.product_id == "bare-1"


@pytest.mark.neo4j
def test_a_product_needs_neither_a_text_nor_facts(client: Client) -> None:
    untold = product("untold-1", brand="Acme", category=["Things", "Kind 1"])
    loose = product("loose-1", "Brass floor lamp", description="stands by the armchair")
    assert [each.status for each in client.upsert_products([untold, loose])] == [CREATED, CREATED]
    until(lambda: known(client, "untold-1") and known(client, "loose-1"))
    assert {"untold-1", "loose-1"} <= {result.product_id for result in client.recommend("user-00", k=92).results}
    assert client.search("floor lamp", k=3).results[0].product_id == "loose-1"
    by_brand, by_text = (client.explain("user-00", each).result for each in ("untold-1", "loose-1"))
    assert {node.name for reason in by_brand.reasons for node in reason.nodes} >= {"Acme"}
    assert (by_text.title, len(by_text.reasons)) == ("Brass floor lamp", 0)


@pytest.mark.neo4j
def test_products_are_changed_by_mask_and_facts_join_them(client: Client) -> None:
    assert (
        client.upsert_products([product("product-03", price=3.5, available=False)], ["price", "available"])[0].status
        == UPDATED
    )
    got = client.get_product("product-03")
    assert (got.product.title, got.product.price, got.product.available) == ("Thing 3", 3.5, False)
    assert got.HasField("update_time")
    assert client.upsert_products([got.product])[0].status == UNCHANGED
    only = Filter(only_available=True)
    until(lambda: "product-03" not in [r.product_id for r in client.recommend(k=90, filter=only).results])
    link = fact("product-03", "GOES_WITH", "product-04")
    made = fact("product-03", "MADE_OF", "brass", tail_kind="material")
    assert client.upsert_facts([link, made]) == 2
    assert client.upsert_facts([link]) == 0
    assert list(client.list_facts("product-03").facts) == [link, made]
    bought = Context(seed_product_ids=["product-03"])

    def explained() -> bool:
        reasons = client.explain("", "product-04", context=bought).result.reasons
        return "GOES_WITH" in {edge.relation for reason in reasons for edge in reason.edges}

    # The model has not learned from this relation, so it can be no reason of its score; those it has learned from can.
    until(lambda: list(client.list_facts("product-04").facts) == [link])
    assert not explained()
    assert client.delete_facts([link, link]) == 1
    assert list(client.list_facts("product-04").facts) == []


@pytest.mark.neo4j
def test_several_values_of_an_attribute_are_read_and_written_as_a_list(client: Client, graph: Graph) -> None:
    rug = product("rug-1", attributes={"colour": '["red", "blue", "red"]', "made": "by hand"})
    assert client.upsert_products([rug])[0].status == CREATED
    got = client.get_product("rug-1").product
    assert dict(got.attributes) == {"colour": '["blue", "red"]', "made": "by hand"}
    assert client.upsert_products([got])[0].status == UNCHANGED
    assert graph.read("MATCH (:Product {id: 'rug-1'})-->(a:Attribute) RETURN a.id ORDER BY a.id") == [
        ["colour=blue"],
        ["colour=red"],
        ["made=by hand"],
    ]
    with pytest.raises(InvalidRequestError):
        client.upsert_products([product("rug-2", attributes={"colour": '["", ""]'})])


@pytest.mark.neo4j
def test_a_deleted_product_is_nowhere_and_its_events_are_refused(client: Client) -> None:
    client.write_event(event("late", "product-06", "purchase", event_id="before"))
    outcome = client.delete_products(["product-06", "never"])
    assert (outcome.deleted_count, list(outcome.missing_ids)) == (1, ["never"])
    until(lambda: not known(client, "product-06"))
    for user in ("user-00", "late", ""):
        assert "product-06" not in [result.product_id for result in client.recommend(user, k=90).results]
    assert "product-06" not in [result.product_id for result in client.similar_products("product-09", k=90).results]
    assert "product-06" not in [result.product_id for result in client.search("Thing 6", k=90).results]
    for call in (client.explain, lambda user, each: client.get_product(each)):
        with pytest.raises(NotFoundError):
            call("user-00", "product-06")
    with pytest.raises(NotFoundError):
        client.write_event(event("late", "product-06"))
    # What the user did with it still tells of the user.
    assert client.recommend("late", k=3).user_state == client.recommend("newcomer", k=3).user_state
    client.upsert_products([product("product-06", "Thing 6 again", brand="Acme")])
    until(lambda: known(client, "product-06"))
    assert client.get_product("product-06").product.title == "Thing 6 again"


@pytest.mark.neo4j
def test_a_restart_knows_what_was_written_online(home: Path, graph: Graph) -> None:
    graph.load(tables())
    with serving(home, graph) as client:
        client.upsert_products([product("lamp-1", "Brass desk lamp", brand="Acme")])
        client.write_event(event("regular", "product-06", "purchase"))
        client.delete_products(["product-06"])
        until(lambda: known(client, "lamp-1") and not known(client, "product-06"))
        client.write_event(event("guest", "lamp-1", "purchase"))
    with serving(home, graph) as client:
        until(lambda: known(client, "lamp-1") and not known(client, "product-06"))
        until(lambda: client.explain("guest", "lamp-1").result.components.history != 0)
        assert client.recommend("regular", k=1).user_state == client.recommend("guest", k=1).user_state
        assert client.search("brass lamp", k=1).results[0].product_id == "lamp-1"


@pytest.mark.neo4j
def test_another_model_is_put_into_service_over_the_changed_catalogue(client: Client) -> None:
    client.upsert_products([product("lamp-1", "Brass desk lamp", brand="Acme")])
    client.delete_products(["product-06"])
    until(lambda: known(client, "lamp-1") and not known(client, "product-06"))
    before = client.recommend("user-00", k=1).model_version
    (other,) = (model for model in client.list_models().models if model.model_version != before)
    client.activate_model(other.name)
    answer = client.rank("user-00", ["lamp-1", "product-06"])
    assert answer.model_version == other.model_version
    assert list(answer.missing_ids) == ["product-06"]
    assert answer.results[0].components.graph
    client.upsert_products([product("lamp-2", "Brass floor lamp", brand="Acme")])
    until(lambda: known(client, "lamp-2"))


@pytest.mark.neo4j
def test_products_and_facts_are_listed_page_by_page(client: Client) -> None:
    listed, token = [], ""
    while True:
        page = client.list_products(page_size=40, page_token=token)
        listed += [each.product_id for each in page.products]
        token = page.next_page_token
        if not token:
            break
    assert listed == [f"product-{number:02}" for number in range(90)]
    facts = [fact("product-01", "GOES_WITH", f"product-{number:02}") for number in range(10, 15)]
    client.upsert_facts(facts)
    first = client.list_facts("product-01", page_size=3)
    rest = client.list_facts("product-01", page_size=3, page_token=first.next_page_token)
    assert [*first.facts, *rest.facts] == facts
    assert not rest.next_page_token
    with pytest.raises(NotFoundError):
        client.list_facts("never")
    with pytest.raises(InvalidRequestError):
        client.list_facts("product-01", page_token="bm9uc2Vuc2U=")
    with pytest.raises(InvalidRequestError):  # it would pass over facts, and look like the end
        client.list_facts("product-10", page_size=3, page_token=first.next_page_token)


@pytest.mark.neo4j
def test_a_fact_is_refused_whose_product_is_deleted_while_it_is_stated(
    client: Client, graph: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit = graph.commit

    def after_a_deletion(*work: Any) -> Any:
        monkeypatch.undo()
        take_out(graph, ["product-02"])
        return commit(*work)

    monkeypatch.setattr(graph, "commit", after_a_deletion)
    with pytest.raises(InvalidRequestError) as refused:
        client.upsert_facts([fact("product-01", "GOES_WITH", "product-02")])
    assert [each.field for each in refused.value.violations] == ["facts[0].tail.id"]
    assert graph.read("MATCH (:Product {id: 'product-02'})-[r:GOES_WITH]-() RETURN count(r)") == [[0]]


@pytest.mark.neo4j
def test_a_page_ends_before_it_is_larger_than_clients_take(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.services.catalogue._PAGE_BYTES", 300)
    listed, token, pages = [], "", 0
    while token or not pages:
        page = client.list_products(page_size=50, page_token=token)
        listed += [each.product_id for each in page.products]
        token, pages = page.next_page_token, pages + 1
    assert len(listed) == len(set(listed)) == 90
    assert pages > 10


@pytest.mark.neo4j
def test_a_page_token_of_half_a_character_is_refused_and_the_graph_stays(home: Path, graph: Graph) -> None:
    def token(listing: str, parts: int) -> str:
        return base64.urlsafe_b64encode(json.dumps([listing, *["\ud800"] * parts]).encode()).decode()

    opened = []

    def connect() -> AbstractContextManager[Graph]:
        opened.append(graph)
        return nullcontext(graph)

    graph.load(tables())
    with running(home, connect) as server, Client(server.target) as client:
        until(lambda: server.server.graph_open)
        for call in (
            lambda: client.list_products(page_token=token("products", 1)),
            lambda: client.list_facts("product-01", page_token=token("facts of product-01", 5)),
        ):
            with pytest.raises(InvalidRequestError) as refused:
                call()
            assert [each.field for each in refused.value.violations] == ["page_token"]
        # Should such a text come another way, the graph is there as before.
        with server.server._link.graph() as linked, pytest.raises(GraphQueryError, match="can't be sent"):
            linked.read("RETURN $text", text="\ud800")
        assert server.server.graph_open
        assert client.list_products(page_size=1).products
    assert len(opened) == 1


@pytest.mark.neo4j
def test_every_violated_field_is_named_and_nothing_is_written(client: Client, graph: Graph) -> None:
    wild = product("", "bad\ttitle", brand="x" * 300, category=["A > B", "", "A >"], price=-1.0, attributes={"a=b": ""})
    with pytest.raises(InvalidRequestError) as refused:
        client.upsert_products([product("good"), wild, product("good")], ["price", "product_id"])
    assert {each.field for each in refused.value.violations} == {
        "products[1].product_id",
        "products[1].title",
        "products[1].brand",
        "products[1].category[0]",
        "products[1].category[1]",
        "products[1].category[2]",
        "products[1].price",
        "products[1].attributes[0].key",
        "products[1].attributes[0].value",
        "products[2].product_id",
        "update_mask.paths[1]",
    }
    joint = next(each for each in refused.value.violations if each.field == "products[1].category[2]")
    assert joint.description == "has ' > ' in it, or ' >' at its end, which joins the levels"
    with pytest.raises(InvalidRequestError) as refused:
        client.upsert_facts(
            [
                fact("product-01", "HAS_BRAND", "Acme", tail_kind="brand"),
                fact("product-01", "x]->() DETACH DELETE n //", "product-02"),
                fact("never", "GOES_WITH", "product-02"),
                fact("a", "IS", "b", head_kind="brand", tail_kind="city"),
                fact("user-00", "LIKES", "product-02", head_kind="user"),
                fact("product-01", "MADE_OF", "steel", tail_kind="Bad`Kind"),
                fact("product-01", "PURCHASED", "product-02"),
            ]
        )
    assert {each.field for each in refused.value.violations} == {
        "facts[0].relation",
        "facts[1].relation",
        "facts[3]",
        "facts[4].head.kind",
        "facts[5].tail.kind",
        "facts[6].relation",
    }
    with pytest.raises(InvalidRequestError) as refused:
        client.upsert_facts([fact("never", "GOES_WITH", "product-02")])
    assert [each.field for each in refused.value.violations] == ["facts[0].head.id"]
    with pytest.raises(InvalidRequestError):
        client.upsert_products([product(f"p{number}") for number in range(1001)])
    many = product("p", category=[""] * 100_000, attributes={f"k{number}": "" for number in range(1000)})
    with pytest.raises(InvalidRequestError) as refused:
        client.upsert_products([many], ["nothing"] * 1000)
    assert len(refused.value.violations) < 50
    assert graph.last_commit == 0
    assert graph.read("MATCH (p:Product) RETURN count(p)") == [[90]]


def test_without_a_graph_the_call_says_what_to_do(home: Path) -> None:
    with (
        running(home) as server,
        Client(server.target) as client,
        pytest.raises(ServerUnavailableError, match="without --no-graph"),
    ):
        client.get_product("product-01")


@pytest.mark.neo4j
def test_the_command_line_sees_and_changes_the_catalogue(
    kgrank: CommandLine, home: Path, graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph.load(tables())
    file = tmp_path / "new.csv"
    file.write_text(
        "product_id,title,brand,category,price,available\n"
        "lamp-1,Brass lamp,Acme,Things > Kind 1,30,in stock\n"
        "product-03,Thing 3,Acme,,4.5,no\n"
    )
    with running(home, lambda: nullcontext(graph)) as server:
        until(lambda: server.server._link.is_open)
        monkeypatch.setenv("KGRANK_TARGET", server.target)
        done = kgrank(home, "products", "upsert", str(file), "--only", "price", "--only", "available", "--json")
        assert json.loads(done.out) == {"created": 1, "updated": 1, "unchanged": 0}
        got = json.loads(kgrank(home, "products", "get", "product-03", "--json").out)
        assert (got["product"]["price"], got["product"]["category"]) == (4.5, ["Things", "Kind 3"])
        assert "Brass lamp" in kgrank(home, "products", "get", "lamp-1").out
        assert "took out 1 of 1" in kgrank(home, "products", "delete", "lamp-1").err
        assert kgrank(home, "products", "get", "lamp-1").code == 1
        assert "does not have lamp-1" in kgrank(home, "products", "delete", "lamp-1").err


@pytest.mark.neo4j
def test_what_was_written_while_the_graph_was_away_from_this_server_comes_when_it_is_back(
    home: Path, graph: Graph
) -> None:
    graph.load(tables())
    upsert(graph, [Product("lamp-1", "Brass desk lamp", brand="Acme")])
    there = threading.Event()

    @contextmanager
    def connect() -> Iterator[Graph]:
        if not there.is_set():
            raise GraphUnavailableError("the graph does not answer", "Wait.")
        yield graph

    with running(home, connect) as server, Client(server.target, timeout_s=30) as client:
        assert not known(client, "lamp-1")
        with pytest.raises(ServerUnavailableError):
            client.upsert_products([product("lamp-2")])
        # A model that came into service meanwhile, with a snapshot that could not be brought up to date.
        server.loop.call_soon_threadsafe(server.server._follower.go_back, 0)
        there.set()
        until(lambda: known(client, "lamp-1"))
        assert client.search("brass lamp", k=1).results[0].product_id == "lamp-1"
