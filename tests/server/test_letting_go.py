"""What was in service goes when it is done with, without a collection: `Serving` freezes what is there at a swap."""

import asyncio
import gc
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from kg.paths import Reasoner
from kgrank.client import Client
from kgrank.errors import CallError, NotFoundError
from server.errors import UnknownProductError
from server.search.words import WordIndex
from server.services.ranking import RankingService
from tests.server.running import running
from tests.server.shop import Shop
from tests.waiting import until


class Held:
    """Stands for an engine in a frame of a call."""


@pytest.fixture
def no_collection() -> Iterator[None]:
    """Nothing that stands in a cycle goes."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("no_collection")
@pytest.mark.parametrize("error", [UnknownProductError("no such product"), ValueError("a defect")])
def test_a_call_that_failed_holds_on_to_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    held: list[weakref.ref[Held]] = []

    async def explain(self: RankingService, request: object, context: object) -> None:
        engine = Held()
        held.append(weakref.ref(engine))
        raise type(error)(*error.args)

    monkeypatch.setattr(RankingService, "Explain", explain)
    with running(home) as server, Client(server.target) as client:
        for _ in range(3):
            with pytest.raises((NotFoundError, CallError)):
                client.explain("user-01", "product-01")
        until(lambda: [each() for each in held] == [None] * 3)


@pytest.mark.usefixtures("no_collection")
def test_a_call_that_was_given_up_holds_on_to_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[weakref.ref[Held]] = []

    async def explain(self: RankingService, request: object, context: object) -> None:
        engine = Held()
        held.append(weakref.ref(engine))
        await asyncio.Event().wait()

    monkeypatch.setattr(RankingService, "Explain", explain)
    with running(home) as server, Client(server.target, timeout_s=0.5) as client:
        while not held:
            with pytest.raises(CallError):
                client.explain("user-01", "product-01")
        until(lambda: all(each() is None for each in held))


@pytest.mark.usefixtures("no_collection")
def test_an_old_index_of_words_does_not_keep_those_that_follow_it(shop: Shop) -> None:
    first = WordIndex.build(shop.snapshot)
    catalogue = shop.snapshot.catalogue
    place = catalogue.column_names.index("title")
    following, gone = first, []
    for number in range(3):
        titles = [f"Teapot {number}", *catalogue["title"].to_pylist()[1:]]
        changed = catalogue.set_column(place, "title", pa.array(titles))
        following = following.following(replace(shop.snapshot, catalogue=changed))
        gone.append(weakref.ref(following))
    assert [each() is None for each in gone] == [True, True, False]
    assert len(first.find("teapot", 3)[0]) == 0
    # The way on from the first is taken: what is asked of it now is made anew.
    again = first.following(replace(shop.snapshot, catalogue=changed))
    assert again.find("teapot 2", 1)[0].tolist() == [0]


@pytest.mark.usefixtures("no_collection")
def test_a_reasoner_that_has_told_of_nodes_goes(shop: Shop) -> None:
    reasoner = Reasoner(shop.snapshot)
    assert reasoner.node(0).id == shop.snapshot.products.id(0)
    held = weakref.ref(reasoner)
    del reasoner
    assert held() is None
