"""Whoever asks, however and together with whom, has the same list: the engine against every other way to rank."""

from dataclasses import replace

import numpy as np
import pytest

from model.artifact import Artifact, load_artifact
from model.places import Places
from model.retrieval import Jury, Plan, ProductIndex
from model.scan import Scan, factorise
from model.score import Scorer
from model.scorer import Blend
from server.engine import Engine
from server.histories import LiveHistories
from server.question import Mix, Question
from server.users import sampled_users
from tests.server.shop import PRODUCT_COUNT, USER_COUNT, Shop


@pytest.fixture(scope="module")
def artifact(shop: Shop) -> Artifact:
    return load_artifact(shop.home / "artifacts" / shop.versions[0])


def test_equal_scores_stand_in_one_order_in_every_list(shop: Shop, artifact: Artifact) -> None:
    popular = replace(artifact, scorer=artifact.scorer.with_blend(Blend(graph=0, history=0, popularity=1)))
    engine = Engine.build(popular, shop.snapshot, LiveHistories(shop.snapshot, 1000), exclude_seen=False)
    everything = tuple(engine.product_ids)
    (ranked,) = engine.answer([Question("", None, candidates=everything)])
    ties = np.flatnonzero(np.diff(ranked.score) == 0) + 1
    assert len(ties) > 10
    for k in range(1, PRODUCT_COUNT + 1):
        (recommended,) = engine.answer([Question("", k)])
        (mixed,) = engine.answer([Question("", k, mix=Mix(max_per_brand=PRODUCT_COUNT))])
        assert recommended.product_index.tolist() == ranked.product_index[:k].tolist()
        assert mixed.product_index.tolist() == recommended.product_index.tolist()
        scored = Scorer("", popular.scorer, shop.snapshot, k, exclude_seen=False).table([""])
        assert scored["product_id"].to_pylist() == shop.snapshot.products.ids(recommended.product_index)
        assert engine.place(Question("", 1), int(ranked.product_index[k - 1])) == k


def test_an_answer_is_the_same_alone_and_beside_who_wants_more(shop: Shop, artifact: Artifact) -> None:
    histories = LiveHistories(shop.snapshot, 1000)
    sample = sampled_users(artifact.scorer, shop.snapshot, USER_COUNT)
    matrix = artifact.scorer.matrix.numpy()
    jury = Jury(sample, factorise(matrix, sample.vectors.numpy()))
    scan = Scan(matrix, jury.factors, 1)  # so coarse that it misses much of what it does not look closely at
    index = ProductIndex(matrix, scan, Plan(1, {10: 1, 100: 1}), jury)
    engine = Engine(artifact, shop.snapshot, histories, index, Places(matrix), exclude_seen=False)
    exact = Engine.build(artifact, shop.snapshot, histories, exclude_seen=False)
    missed = 0
    for length, more in ((10, 90), (7, 90), (7, 10)):
        questions = [Question(f"user-{number:02}", length) for number in range(USER_COUNT)]
        alone = [engine.answer([each])[0].product_index.tolist() for each in questions]
        together = engine.answer([*questions, Question("user-00", more), Question("", more)])
        assert alone == [each.product_index.tolist() for each in together[: len(alone)]]
        missed += alone != [each.product_index.tolist() for each in exact.answer(questions)]
    assert missed  # else this shows nothing: who looks at everything closely has one list in any company
