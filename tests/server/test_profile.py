"""A profile of what somebody did: recent interactions count more, and those outside the window not at all."""

import numpy as np
import pytest

from kg.snapshot import Histories
from server.profile import HALF_LIFE_MS, profile
from tests.server.shop import START_MS, Shop


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


def test_what_was_before_the_window_does_not_count(shop: Shop, history: Histories) -> None:
    found = profile(shop.snapshot, history, START_MS + 1, 10)
    assert (found.count, found.first_ms) == (1, START_MS + HALF_LIFE_MS)
    assert [(each.id, each.weight) for each in found.brands] == [("Bolt", 1.0)]
