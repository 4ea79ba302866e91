"""A profile of what somebody did: recent interactions count more, and those outside the window not at all."""

from dataclasses import replace

import numpy as np
import pytest

from kg.extending import extended
from kg.snapshot import Histories
from server.profile import HALF_LIFE_MS, profile
from tests.server.shop import NO_CHANGE, START_MS, Shop


@pytest.fixture
def history() -> Histories:
    """One purchase of `Acme`, and a half-life later one of `Bolt`."""
    return Histories(
        np.array([0, 2]),
        np.array([0, 1], np.int32),
        np.zeros(2, np.int8),
        np.array([START_MS, START_MS + HALF_LIFE_MS]),
        np.full(2, np.nan, np.float32),
    )


def test_an_interaction_counts_half_after_a_half_life(shop: Shop, history: Histories) -> None:
    brands = {each.id: each.weight for each in profile(shop.snapshot, history, None, 10).brands}
    assert brands == pytest.approx({"Bolt": 2 / 3, "Acme": 1 / 3})


@pytest.mark.parametrize("last_ms", [START_MS, START_MS + HALF_LIFE_MS - 1])
def test_what_is_later_than_the_window_does_not_count(shop: Shop, history: Histories, last_ms: int) -> None:
    found = profile(shop.snapshot, history, (START_MS, last_ms), 10)
    assert (found.count, found.last_ms) == (1, START_MS)


def test_deleted_products_do_not_count_in_the_price_level(shop: Shop, history: Histories) -> None:
    # The prices are 0 to 89, the median of the history is .5: one product in ninety is below it.
    before = profile(shop.snapshot, history, None, 10).prices
    assert before is not None
    assert before.percentile == pytest.approx(1 / 90)
    dearer = tuple(f"product-{number:02}" for number in range(10, 90))
    left = extended(shop.snapshot, replace(NO_CHANGE, deleted=dearer)).snapshot
    after = profile(left, history, None, 10).prices
    assert after is not None
    assert after.percentile == pytest.approx(1 / 10)
    assert replace(after, percentile=before.percentile) == before
    gone = extended(shop.snapshot, replace(NO_CHANGE, deleted=tuple(shop.snapshot.products.array.to_pylist()))).snapshot
    assert profile(gone, history, None, 10).prices == replace(before, percentile=0)


def test_what_was_before_the_window_does_not_count(shop: Shop, history: Histories) -> None:
    found = profile(shop.snapshot, history, (START_MS + 1, START_MS + HALF_LIFE_MS), 10)
    assert (found.count, found.first_ms) == (1, START_MS + HALF_LIFE_MS)
    assert [(each.id, each.weight) for each in found.brands] == [("Bolt", 1.0)]
