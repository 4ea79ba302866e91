"""The strength of a reason: what the score loses when a product is taken out of the history, done by hand."""

import numpy as np
import pytest

from kg.snapshot import Histories
from model.artifact import load_artifact
from model.counterfactual import score_drops, strengths
from model.scoring import full_scores
from tests.server.shop import Shop


def test_a_drop_is_the_difference_of_two_whole_scorings(shop: Shop) -> None:
    scorer = load_artifact(shop.home / "artifacts" / shop.versions[0]).scorer
    now_ms = shop.snapshot.as_of_ms
    history = shop.snapshot.histories.take(np.array([7]))
    removed = history.product_index[:3].tolist()
    candidates = np.array([0, removed[0], 50], np.int64)
    drops = score_drops(scorer, history, now_ms, removed, candidates)

    def scores(kept: np.ndarray) -> np.ndarray:
        columns = [getattr(history, name)[kept] for name in ("product_index", "type", "at_ms", "value")]
        without = Histories(np.array([0, kept.sum()], np.int64), *columns)
        return full_scores(scorer, scorer.encode_users(without, np.array([now_ms])))[0].numpy()[candidates]

    whole = scores(np.ones(len(history.product_index), bool))
    for row, product in enumerate(removed):
        assert drops[row] == pytest.approx(whole - scores(history.product_index != product), abs=1e-4)
    assert drops[0, 1] != pytest.approx(0, abs=1e-3)  # the very product, gone


def test_products_that_were_never_had_drop_alike_whether_asked_for_alone_or_with_one_that_was(shop: Shop) -> None:
    scorer = load_artifact(shop.home / "artifacts" / shop.versions[0]).scorer
    history = shop.snapshot.histories.take(np.array([7]))
    removed = history.product_index[:3].tolist()
    never = np.setdiff1d(np.arange(len(shop.snapshot.products)), history.product_index)[:4]
    alone = score_drops(scorer, history, shop.snapshot.as_of_ms, removed, never)
    beside = score_drops(scorer, history, shop.snapshot.as_of_ms, removed, np.append(never, removed[0]))
    assert alone == pytest.approx(beside[:, :-1], abs=1e-5)


def test_nothing_to_remove_and_nothing_asked_have_no_drops(shop: Shop) -> None:
    scorer = load_artifact(shop.home / "artifacts" / shop.versions[0]).scorer
    history = shop.snapshot.histories.take(np.array([7]))
    assert score_drops(scorer, history, 0, [], np.array([1])).shape == (0, 1)
    assert score_drops(scorer, history, 0, [1], np.empty(0, np.int64)).shape == (1, 0)


def test_strengths_lie_between_nothing_and_all() -> None:
    made = strengths(np.array([-3.0, 0.0, np.log(2), 50.0], np.float32))
    assert made == pytest.approx([0, 0, 0.5, 1])
