"""What is asked about a few products is answered where the call is, as it would be in a batch."""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from kgrank.client import Client
from kgrank.v1 import common_pb2
from model.retrieval import EXACT, ProductIndex
from model.scan import Scan
from model.scoring import GRAPH, POPULARITY, TEXT
from server.engine import Engine
from server.question import Question, Ranking
from server.selection import parts_of, parts_of_one
from server.users import Encoded, stacked
from tests.server.running import running
from tests.server.shop import Shop


@pytest.mark.parametrize("added", [0, 1, 30])
def test_the_components_of_one_user_are_to_the_bit_those_of_a_batch(added: int) -> None:
    generator = np.random.default_rng(added)
    matrix = generator.standard_normal((100, 21), np.float32)
    scorer: Any = SimpleNamespace(blocks={GRAPH: slice(0, 12), TEXT: slice(12, 20), POPULARITY: slice(20, 21)})
    index = ProductIndex(matrix, Scan(matrix), EXACT)
    user = Encoded(
        version=0,
        products=100,
        at_ms=0,
        vector=generator.standard_normal(21, np.float32),
        added_index=np.sort(generator.choice(100, added, replace=False)).astype(np.int32),
        added_score=generator.standard_normal(added, np.float32),
        added_history=generator.standard_normal(added, np.float32),
    )
    for count in (0, 1, 60):
        products = generator.permutation(100)[:count]
        together = parts_of(scorer, index, stacked([user]), products[None])
        alone = parts_of_one(scorer, index, user, products)
        assert list(alone) == list(together)
        for name, part in alone.items():
            np.testing.assert_array_equal(part, together[name][0])


def test_only_small_questions_are_answered_in_the_thread_of_the_calls(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer, answered_in = Engine.answer, list[str]()

    def noted(engine: Engine, questions: Sequence[Question]) -> list[Ranking]:
        answered_in.append(threading.current_thread().name.partition("_")[0])
        return answer(engine, questions)

    products = shop.snapshot.products.array.to_pylist()
    with running(home, kept_answers_mib=0) as server, Client(server.target) as client:
        monkeypatch.setattr(Engine, "answer", noted)
        client.rank("user-01", products)
        client.rank("user-01", products * 6)  # more than are few
        client.rank("user-01", products, context=common_pb2.Context(seed_product_ids=products[:1]))
        client.rank("nobody yet", products)  # has no vector yet
        client.rank("nobody yet", products)
        client.recommend("user-01", k=1)
    assert answered_in == ["test-server", "score", "score", "score", "test-server", "score"]
