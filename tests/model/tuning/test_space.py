from typing import Any

import pytest

from kg.errors import ConfigError
from model.baselines import BASELINES
from model.baselines.space import Choice, Real, Whole
from model.settings import RunSettings
from model.tuning.space import NETWORK_SPACE, check_space, default_space, parse_space, start_of, widened

SETTINGS = RunSettings()


def test_a_table_gives_ranges_of_the_settings_types() -> None:
    table = {
        "model": {"dropout": {"low": 0.1, "high": 0.6}, "layers": {"low": 0, "high": 2}},
        "train.learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
        "model.dimension": [64, 128],
        "model.transitions": True,
        "train.objective": True,
        "train.batch_users": True,
    }
    assert parse_space(table, SETTINGS) == {
        "model.dropout": Real(0.1, 0.6),
        "model.layers": Whole(0, 2),
        "train.learning_rate": Real(1e-4, 1e-2, log=True),
        "model.dimension": Choice((64, 128)),
        "model.transitions": Choice((False, True)),
        "train.objective": Choice(("next_item", "next_basket")),
        "train.batch_users": Whole(1, 65_536),
    }


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"model.dropuot": [0.1, 0.2]}, "no setting 'model.dropuot'"),
        ({"model.dropout": {"low": 0.5, "high": 0.1}}, "not a range"),
        ({"model.dropout": {"low": 0.0, "high": 0.5, "log": True}}, "not a range"),
        ({"model.dropout": []}, "not a range"),
        ({"model.exclude_relations": [["NEXT"]]}, "not a range"),
        ({"model.dropout": True}, "no range of its own"),
        ({"model.layers": {"low": 0, "high": float("inf")}}, "not a range"),
        ({"model.layers": {"low": 0.5, "high": 3, "log": True}}, "not a range"),
        ({"model.dropout": {"low": 0, "high": 10**400}}, "not a range"),
        ({"split.protocol": True}, r"space\.split\.protocol: the split is made once"),
        ({"split": {"min_history": [1, 2]}}, r"space\.split\.min_history: the split is made once"),
        ({"train.refit": True}, "no trial is trained again"),
        ({"train.refit_epochs": [1, 2]}, "no trial is trained again"),
        ({"train.seed": [1, 2]}, "it decides who is asked"),
        ({"train.validation_users": [100, 200]}, "it decides who is asked"),
        ({}, "empty"),
        (5, "5 is not a table"),
    ],
)
def test_a_range_that_means_nothing_is_refused(table: Any, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        parse_space(table, SETTINGS)


def test_a_range_that_leaves_the_settings_own_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"model\.dropout"):
        check_space({"model.dropout": Real(0.1, 1.5)}, SETTINGS)


def test_the_networks_own_space_is_within_the_settings_ranges() -> None:
    check_space(NETWORK_SPACE, SETTINGS)


def test_a_peers_range_that_leaves_its_settings_own_is_refused() -> None:
    default = BASELINES["tifuknn"].grid[0]
    with pytest.raises(ConfigError, match=r"own: Input should be less than or equal to 1 \(got 1\.5\)"):
        check_space({"own": Real(0.1, 1.5)}, default)
    with pytest.raises(ConfigError, match=r"own: .*got 'much'"):
        check_space({"own": Choice((0.5, "much"))}, default)


def test_every_peer_with_a_space_can_be_tuned_and_others_say_so() -> None:
    for name, baseline in BASELINES.items():
        if baseline.space:
            assert set(start_of(default_space(name), baseline.grid[0])) == set(baseline.space)
    with pytest.raises(ConfigError, match="no model 'eaze'"):
        default_space("eaze")


@pytest.mark.parametrize("name", BASELINES)
def test_every_peers_own_space_has_room_for_its_default_or_stays_as_it_is(name: str) -> None:
    default, space = BASELINES[name].grid[0], default_space(name)
    wide = widened(space, start_of(space, default))
    check_space(wide, default)
    for key, axis in wide.items():
        if isinstance(axis, Choice):
            assert getattr(default, key) in axis.values
        elif (start := getattr(default, key)) is None:
            assert axis == space[key]
        else:
            assert axis.low <= start <= axis.high
            assert axis.low > 0 or not axis.log


def test_where_a_range_cannot_have_room_it_stays_as_it_is() -> None:
    settings = SETTINGS.with_overrides({"train.weight_decay": 0})
    table = {
        "model.neighbours.half_life_days": {"low": 3, "high": 700},
        "train.weight_decay": {"low": 0.001, "high": 0.1, "log": True},
    }
    space = parse_space(table, settings)
    start = start_of(space, settings)
    assert start == {"model.neighbours.half_life_days": None, "train.weight_decay": 0}
    assert widened(space, start) == space


def test_a_space_makes_room_for_where_the_search_starts() -> None:
    space = {"a": Real(0.1, 0.5), "b": Whole(2, 4), "c": Choice((1, 2)), "d": Choice((1, 2))}
    wide = widened(space, {"a": 0.7, "b": 1, "c": 3, "d": 2})
    assert wide == {"a": Real(0.1, 0.7), "b": Whole(1, 4), "c": Choice((1, 2, 3)), "d": Choice((1, 2))}
