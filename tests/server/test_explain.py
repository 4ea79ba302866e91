from collections import defaultdict

import pytest

from kg.people import FEWEST
from kg.schema import RELATIONSHIP_OF
from kg.snapshot import Snapshot
from kg.store import Graph
from kg.tables import InteractionType
from kgrank.client import Client
from kgrank.errors import InvalidRequestError, NotFoundError
from kgrank.v1 import common_pb2
from kgrank.v1.common_pb2 import Context, ContextEvent
from kgrank.v1.common_pb2 import InteractionType as Happened
from tests.server.shop import USER_COUNT, Shop, tables


def test_explanation_agrees_with_the_ranking(client: Client, shop: Shop) -> None:
    everything = client.rank("user-08", shop.snapshot.products.array.to_pylist()).results
    for place in (0, 7, 63, 64, 89):
        explained = client.explain("user-08", everything[place].product_id)
        assert explained.rank == place + 1
        assert explained.result.score == pytest.approx(everything[place].score, abs=1e-4)
        assert explained.result.title


def test_every_hop_of_thousands_of_reasons_exists(client: Client, shop: Shop) -> None:
    edges, followers = edges_of(shop.snapshot), followers_of(shop.snapshot)
    hops = over_people = 0
    for user in range(USER_COUNT):
        for result in client.recommend(f"user-{user:02}", k=30, reasons=True).results:
            for reason in result.reasons:
                assert reason.text
                assert reason.nodes[0].id == f"user-{user:02}"
                assert reason.nodes[-1].id == result.product_id
                for path in (reason, *reason.also):
                    assert len(path.nodes) == len(path.edges) + 1
                    assert path.nodes[1] == reason.nodes[1]
                    for place, edge in enumerate(path.edges):
                        assert exists(edges, path.nodes[place], edge, path.nodes[place + 1])
                        hops += 1
                    people = [place for place, node in enumerate(path.nodes) if node.kind == "user" and not node.id]
                    for place in people:
                        there, back = path.edges[place - 1], path.edges[place]
                        assert there.direction == common_pb2.Edge.DIRECTION_BACKWARD
                        assert back.direction == common_pb2.Edge.DIRECTION_FORWARD
                        way = (path.nodes[place - 1].id, there.relation, path.nodes[place + 1].id, back.relation)
                        assert len(followers[way] - {f"user-{user:02}"}) >= FEWEST
                        over_people += 1
    assert hops > 3000
    assert over_people > 10


@pytest.mark.parametrize("user", ["user-08", "nobody-known", ""])
def test_paths_over_what_the_context_tells_begin_at_the_user(client: Client, shop: Shop, user: str) -> None:
    edges, told = edges_of(shop.snapshot), {("VIEWED", "product-03"), ("ADDED_TO_CART", "product-05")}
    cart = ContextEvent(product_id="product-05", type=Happened.INTERACTION_TYPE_ADD_TO_CART)
    context = Context(seed_product_ids=["product-03"], events=[cart])
    begun = set()
    for result in client.rank(user, shop.snapshot.products.array.to_pylist(), context=context, reasons=True).results:
        for path in (path for reason in result.reasons for path in (reason, *reason.also)):
            assert len(path.nodes) == len(path.edges) + 1
            assert (path.nodes[0].kind, path.nodes[0].id) == ("user", user)
            assert path.nodes[-1].id == result.product_id
            first = (path.edges[0].relation, path.nodes[1].id)
            assert path.edges[0].direction == common_pb2.Edge.DIRECTION_FORWARD
            assert first in told or exists(edges, path.nodes[0], path.edges[0], path.nodes[1])
            assert user == "user-08" or first in told
            for place, edge in list(enumerate(path.edges))[1:]:
                assert exists(edges, path.nodes[place], edge, path.nodes[place + 1])
            begun.add(first)
    assert begun >= told


def test_a_seed_is_a_reason_for_itself_with_its_hop(client: Client) -> None:
    for user in ("user-08", ""):
        seeded = Context(seed_product_ids=["product-03"])
        (reason,) = client.explain(user, "product-03", context=seeded, max_reasons=1).result.reasons
        assert reason.text == "You looked at this before"
        assert [node.id for node in reason.nodes] == [user, "product-03"]
        assert [edge.relation for edge in reason.edges] == ["VIEWED"]


def test_a_seed_is_not_one_more_look(client: Client) -> None:
    looked = ContextEvent(product_id="product-03", type=Happened.INTERACTION_TYPE_VIEW)
    for times, said in ((1, ""), (2, ", 2 times")):
        context = Context(seed_product_ids=["product-03"], events=[looked] * times)
        (reason,) = client.explain("", "product-03", context=context, max_reasons=1).result.reasons
        assert reason.text == f"You looked at this before{said}"


_Key = tuple[str, str]
_Edges = dict[str, set[tuple[_Key, _Key]]]
_Way = tuple[str, str, str, str]


def edges_of(snapshot: Snapshot) -> _Edges:
    """Return by relation the facts, and who did what; people who are not named are the user ""."""
    nodes = [("product", each) for each in snapshot.products.array.to_pylist()]
    nodes += list(zip(snapshot.nodes["kind"].to_pylist(), snapshot.nodes["id"].to_pylist(), strict=True))
    edges: _Edges = {
        relation: {
            (nodes[head], nodes[tail]) for head, tail in zip(each.head.tolist(), each.tail.tolist(), strict=True)
        }
        for relation, each in snapshot.facts.items()
    }
    for user_id, done in done_by(snapshot).items():
        for product_id, relation in done:
            product = ("product", product_id)
            edges.setdefault(relation, set()).update(((("user", user_id), product), (("user", ""), product)))
    return edges


def followers_of(snapshot: Snapshot) -> dict[_Way, set[str]]:
    """Return who did something with a product, and later something with another: by both products and relations."""
    followers: dict[_Way, set[str]] = defaultdict(set)
    for user_id, done in done_by(snapshot).items():
        for place, later in enumerate(done):
            for earlier in done[:place]:
                followers[*earlier, *later].add(user_id)
    return followers


def done_by(snapshot: Snapshot) -> dict[str, list[tuple[str, str]]]:
    """Return what each user did, oldest first: a product, and the relation."""
    histories, relations = snapshot.histories, [RELATIONSHIP_OF[kind].type for kind in InteractionType]
    products = [snapshot.products.id(index) for index in histories.product_index.tolist()]
    done = list(zip(products, (relations[code] for code in histories.type.tolist()), strict=True))
    return {snapshot.users.id(user): done[histories.rows(user)] for user in range(len(histories))}


def exists(edges: _Edges, before: common_pb2.Node, edge: common_pb2.Edge, after: common_pb2.Node) -> bool:
    head, tail = (before, after) if edge.direction == common_pb2.Edge.DIRECTION_FORWARD else (after, before)
    return ((head.kind, head.id), (tail.kind, tail.id)) in edges[edge.relation]


def test_the_number_of_reasons_is_bounded(client: Client) -> None:
    several = client.explain("user-09", "product-12").result.reasons
    assert len(several) > 1
    only = client.explain("user-09", "product-12", max_reasons=1).result.reasons
    assert [reason.text for reason in only] == [several[0].text]


def test_similar_products_have_reasons_from_the_product(client: Client) -> None:
    reasons = [
        reason
        for result in client.similar_products("product-11", k=5, reasons=True).results
        for reason in result.reasons
    ]
    assert reasons
    assert {reason.nodes[0].id for reason in reasons} == {"product-11"}
    assert not any(reason.text.startswith("You") for reason in reasons)


def test_reasons_differ_and_the_strongest_is_what_the_score_needs_most(client: Client) -> None:
    several = 0
    for result in client.recommend("user-04", k=10, reasons=True).results:
        starts = [reason.nodes[1].id for reason in result.reasons]
        strengths = [reason.strength for reason in result.reasons]
        assert len(result.reasons) <= 3
        assert len({reason.text for reason in result.reasons}) == len(result.reasons)
        assert strengths == sorted(strengths, reverse=True)
        assert all(0 <= strength < 1 for strength in strengths)
        explained = client.explain("user-04", result.product_id).result.reasons
        assert [reason.nodes[1].id for reason in explained][:1] == starts[:1]
        several += len(starts) > 1
    assert several


@pytest.mark.neo4j
def test_every_hop_is_in_the_graph(client: Client, graph: Graph) -> None:
    graph.load(tables())
    checked = 0
    for user in ("user-01", "user-14", "user-33"):
        for result in client.recommend(user, k=10, reasons=True).results:
            for path in (path for reason in result.reasons for path in (reason, *reason.also)):
                assert_in_graph(graph, path)
                checked += 1
    assert checked > 30


def assert_in_graph(graph: Graph, path: common_pb2.Reason | common_pb2.Path) -> None:
    """One query for the whole path, so that the people that a node stands for are the same ones on both sides."""
    keys = {"brand": "name", "category": "path"}
    nodes, wanted = [], {}
    for place, node in enumerate(path.nodes):
        label = node.kind.title()
        name = f"n{place}"
        if node.id:
            wanted[name] = node.id
            nodes.append(f"({name}:{label} {{{keys.get(node.kind, 'id')}: ${name}}})")
        else:
            nodes.append(f"({name}:{label})")
    pattern = nodes[0]
    for edge, node in zip(path.edges, nodes[1:], strict=True):
        forward = edge.direction == common_pb2.Edge.DIRECTION_FORWARD
        pattern += (f"-[:{edge.relation}]->" if forward else f"<-[:{edge.relation}]-") + node
    assert graph.read(f"MATCH {pattern} RETURN count(*) > 0", **wanted) == [[True]], pattern


def test_an_unknown_product_is_not_found(client: Client) -> None:
    with pytest.raises(NotFoundError) as explained:
        client.explain("user-09", "ghost")
    assert explained.value.reason == "UNKNOWN_PRODUCT"
    with pytest.raises(NotFoundError):
        client.similar_products("ghost")


def test_reasons_are_told_in_the_language_that_is_asked_for(client: Client) -> None:
    told = {
        tag: [reason.text for reason in client.explain("user-04", "product-01", language=tag).result.reasons]
        for tag in ("", "en", "en-GB", "zh", "zh-Hans-CN")
    }
    assert told[""] == told["en"] == told["en-GB"]
    assert told["zh"] == told["zh-Hans-CN"]
    assert all(text.startswith("You bought") for text in told["en"])
    assert all(text.startswith("您") for text in told["zh"])
    answer = client.recommend("user-04", k=1, reasons=True, language="zh")
    assert answer.results[0].reasons[0].text.startswith("您")
    for ask in (
        lambda: client.explain("user-04", "product-01", language="tlh"),
        lambda: client.recommend("user-04", language="tlh"),
        lambda: client.similar_products("product-01", language="e n"),
    ):
        with pytest.raises(InvalidRequestError) as refused:
            ask()
        assert [violation.field for violation in refused.value.violations] == ["language_code"]
