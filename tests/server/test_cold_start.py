"""Cold start, end to end: a product that nobody has had and a user whom nobody knows, from the first moment on."""

import weakref
from contextlib import nullcontext
from pathlib import Path

import pytest

from kg.store import Graph
from kgrank.client import Client, event, product
from kgrank.v1.common_pb2 import Context, Mix, UserState
from kgrank.v1.ranking_service_pb2 import RecommendResponse
from tests.server.running import running
from tests.server.shop import tables
from tests.server.test_catalogue import known, wait_until_prepared
from tests.waiting import until

pytestmark = pytest.mark.neo4j


def ids(answer: RecommendResponse) -> list[str]:
    return [result.product_id for result in answer.results]


def test_a_new_product_and_a_new_user_find_each_other(home: Path, graph: Graph) -> None:
    graph.load(tables())
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=30) as client:
        wait_until_prepared(server)
        lamps = [
            product(f"lamp-{number}", "Brass desk lamp", brand="Acme", category=["Things", "Kind 1"])
            for number in range(3)
        ]
        client.upsert_products(lamps)
        until(lambda: known(client, "lamp-2"))

        cold = client.recommend("stranger", k=93)
        assert cold.user_state == UserState.USER_STATE_COLD
        assert ids(client.recommend("another stranger", k=93)) == ids(cold)

        # What the moment tells changes the answer at once, for a user without any history.
        inside = client.recommend("stranger", k=10, context=Context(categories=["Things > Kind 1"]))
        assert inside.user_state == UserState.USER_STATE_CONTEXT_ONLY
        of_kind = {*(f"product-{number:02}" for number in range(1, 90, 7)), "lamp-0", "lamp-1", "lamp-2"}
        assert len(inside.results) == 10
        assert set(ids(inside)) <= of_kind
        assert all(result.components.query > 0 for result in inside.results)
        looking = client.recommend("stranger", k=3, context=Context(query="a lamp made of brass"))
        assert looking.user_state == UserState.USER_STATE_CONTEXT_ONLY
        assert set(ids(looking)) == {"lamp-0", "lamp-1", "lamp-2"}
        seeded = client.recommend("stranger", k=92, context=Context(seed_product_ids=["lamp-0"]))
        assert seeded.user_state == UserState.USER_STATE_CONTEXT_ONLY
        assert ids(seeded).index("lamp-1") < ids(cold).index("lamp-1")
        assert ids(client.recommend("stranger", k=93)) == ids(cold)  # nothing of it was kept

        # And so does the first event, on a product that nobody else has had.
        client.write_event(event("stranger", "lamp-0", "purchase"))
        known_now = client.recommend("stranger", k=92, exclude_seen=True, reasons=True)
        assert known_now.user_state == UserState.USER_STATE_FEW_EVENTS
        assert "lamp-0" not in ids(known_now)
        assert ids(known_now).index("lamp-1") < ids(cold).index("lamp-1")
        reasons = client.explain("stranger", "lamp-1").result.reasons
        assert {reason.nodes[1].id for reason in reasons} == {"lamp-0"}
        assert {reason.nodes[-1].id for reason in reasons} == {"lamp-1"}
        for number in range(1, 5):
            client.write_event(event("stranger", f"product-{number:02}"))
        assert client.recommend("stranger", k=1).user_state == UserState.USER_STATE_WARM

        # A share of the results can be kept for what few users have had yet.
        mixed = client.recommend("user-01", k=10, mix=Mix(exploration_share=0.3))
        assert any(result.components.exploration for result in mixed.results)


def test_engines_and_what_they_hold_go_once_the_catalogue_has_changed(home: Path, graph: Graph) -> None:
    graph.load(tables())
    with running(home, lambda: nullcontext(graph)) as server, Client(server.target, timeout_s=30) as client:
        wait_until_prepared(server)
        serving = server.server._serving
        first = weakref.ref(serving.engine)
        sizes = []
        for turn in range(8):
            client.upsert_products([product("lamp", f"Lamp of turn {turn}", brand="Acme")])
            until(lambda title=f"Lamp of turn {turn}": title in str(serving.engine.snapshot.catalogue["title"][-1]))
            client.delete_products(["lamp"])
            until(lambda: "lamp" not in serving.engine.snapshot.products)
            states = serving.catalogue._states[serving.engine.model_version]
            snapshot = serving.engine.snapshot
            sizes.append((snapshot.node_count, len(states.joined), len(serving.engine.artifact.scorer.matrix)))
        assert len(set(sizes)) == 1
        until(lambda: first() is None)
