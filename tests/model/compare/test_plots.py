"""Plots: no two names on top of each other, and no plot that can't be drawn."""

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model.compare.drawing import spread
from model.compare.plots import few_events, plots_of


@given(st.lists(st.floats(0, 10), min_size=1, max_size=12))
def test_names_keep_their_distance_and_their_order(wanted: list[float]) -> None:
    places = spread(wanted, 0.5, 0, 10)
    order = sorted(range(len(wanted)), key=lambda row: wanted[row])
    for below, above in pairwise(order):
        assert places[above] - places[below] >= 0.5 - 1e-6
    assert min(places) >= -1e-6
    assert max(places) <= 10 + 1e-6


def test_names_that_have_room_stay_where_they_want_to_be() -> None:
    assert spread([3, 1, 8], 0.5, 0, 10) == [3, 1, 8]
    assert spread([5, 5], 1, 0, 10) == [4.5, 5.5]


def model(name: str, mean: float, group: str = "models", lead: bool = True) -> dict[str, Any]:
    figure = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "seed_sd": None}
    told: dict[str, Any] = {
        "name": name,
        "title": f"{name} & <co>",
        "group": group,
        "metrics": {"ndcg@10": figure, "coverage@10": figure},
        "curves": [[[1, mean], [2, mean + 0.01]]] if group != "models" or not lead else [],
    }
    return told | ({"lead": {"mean": 0.1, "low": 0.05, "high": 0.15, "p": 0.01, "p_holm": 0.02}} if lead else {})


@pytest.mark.parametrize("count", [0, 9])
def test_any_number_of_models_can_be_drawn(count: int) -> None:
    models = [model("ours", 0.3, lead=False), *(model(f"peer {row}", 0.01 * row) for row in range(count))]
    models += [model(f"variant {row}", 0.2, group="parts") for row in range(count)]
    part = {
        "label": "1–2",
        "count": 5,
        "means": [0.1] * (count + 1),
        "margins": [0.01] * (count + 1),
    }
    table = {
        "question": "q",
        "models": models,
        "slices": {
            "models": [one["name"] for one in models if one["group"] == "models"],
            "history": [part, part | {"label": "3"}],
            "popularity": [part],
            "age": [],
        },
    }
    plots = plots_of(table, "ndcg@10", "ours")
    assert len({plot.name for plot in plots}) == len(plots)
    assert all(plot.drawing.startswith("<?xml") for plot in plots)
    assert {plot.name for plot in plots} >= {"models", "slices", "learning"}
    assert plots == plots_of(table, "ndcg@10", "ours")  # the same text for the same figures


def test_few_events_are_drawn_only_where_they_are_asked() -> None:
    def table(question: str) -> dict[str, Any]:
        return {"question": question, "models": [model("ours", 0.3, lead=False), model("peer", 0.2)]}

    questions = ["first 0 events", "first 1 event", "last 1 event", "whole history"]
    assert few_events([table(question) for question in questions], "ndcg@10", "ours") is not None
    assert few_events([table("all products")], "ndcg@10", "ours") is None
