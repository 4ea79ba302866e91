"""What a comparison's file may say: what is wrong in it is one clear error, and what a variant has of its model."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w

from kg.errors import ConfigError
from model.compare.config import CompareConfig, read_comparison
from model.compare.variants import Variant, variants
from model.settings import RunSettings
from tests.model.compare.small_comparison import Compared

EASE = {"baseline": "ease"}


def made(config: CompareConfig, folder: Path, relations: tuple[str, ...] = ()) -> list[Variant]:
    return list(variants(config, folder, "shop", "next", relations, lambda variant: variant))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reference": "nobody"}, "reference 'nobody' is not one of"),
        ({"models": {"m": {"baseline": "ease", "like": "m"}}}, "exactly one of baseline, config and like"),
        ({"models": {"m": {"baseline": "ease", "overrides": {"a": 1}}}}, "a baseline has no overrides"),
        ({"goals": [{"data": "shop", "protocol": "next", "share": 0.5}]}, "share needs the question"),
        ({"goals": [{"data": "shop", "protocol": "never", "above": 0}]}, "protocol 'never' is not one of next"),
        (
            {"goals": [{"data": "shop", "protocol": "next", "metric": "nonsense", "above": 0}]},
            r"goals\.0\.metric: .*'ndcg@5', .* or 'coverage@10' \(got 'nonsense'\)",
        ),
        (
            {"models": {"m": {"baseline": "ease", "noise": {"titles": 0.1}, "noise_at": "scoring"}}},
            "noise_at = 'scoring' with titles or facts is for models of ours",
        ),
        ({"models": {"m": {"baseline": "bpr", "noise": {"events": 0.1}}}}, "noise in the events that are learned from"),
        ({"metric": "precision@10"}, r"metric: .*'ndcg@5', .* or 'mrr@10' \(got 'precision@10'\)"),
        ({"metric": "novelty@10"}, r"metric: .*\(got 'novelty@10'\)"),
        ({"models": {"m": {"baseline": "eese"}}}, "baseline 'eese' is not one of popularity, "),
        ({"models": {"e": EASE, "m": {"like": "e", "search": [{}]}}}, "model 'm': a baseline has no overrides"),
        ({"models": {"e": EASE, "m": {"like": "e", "overrides": {"a": 1}}}}, "model 'm': a baseline has no overrides"),
        ({"models": {"m": EASE | {"by_data": {"shop": {"a": 1}}}}}, "model 'm': a baseline has no overrides"),
        (
            {"models": {"e": EASE, "d": {"like": "e"}, "m": {"like": "d", "noise": {"events": 0.1}}}},
            "model 'm': noise in the events that are learned from",
        ),
        ({"models": {"c": {"config": "base.toml"}, "m": {"like": "c", "trials": 2}}}, "model 'm': trials are for base"),
        ({"models": {"m": {"like": "m"}}}, "like goes in a circle: m is like m"),
        (
            {"models": {"a": {"like": "b"}, "b": {"like": "c"}, "c": {"like": "b"}}},
            "like goes in a circle: a is like b is like c is like b",
        ),
        (
            {"models": {"m": {"config": {"shop": "base.toml"}}}},
            "model 'm' has no config for data set 'missing', where model 'm' needs it: add one, or keep 'm' to other",
        ),
        (
            {"reference": "m", "models": {"m": {"config": {"shop": "base.toml"}, "data": ["shop"]}, "e": EASE}},
            "model 'm' has no config for data set 'missing', where model 'e' needs it",
        ),
        ({"seeds": [3, -1]}, r"seeds\.1: .*greater than or equal to 0 \(got -1\)"),
        ({"seeds": [1, 2, 1]}, "seeds: .*a seed stands there twice"),
        ({"protocols": {"next": {"test_days": float("inf")}}}, r"next\.test_days: .*equal to 36500 \(got inf\)"),
        ({"protocols": {"next": {"validation_days": 1e300}}}, r"next\.validation_days: .*equal to 36500"),
        ({"protocols": {"next": {"test_from_ms": 2**63}}}, r"next\.test_from_ms: .*equal to 253402300799999"),
        ({"protocols": {"next": {"validation_from_ms": -1}}}, r"next\.validation_from_ms: .*equal to 0"),
        ({"protocols": {"next": {"cold_events": [3, -2]}}}, r"next\.cold_events\.1: .*equal to 0 \(got -2\)"),
        ({"protocols": {"next": {"cold_events": [3, 3]}}}, r"next\.cold_events: .*a number stands there twice"),
        (
            {"goals": [{"data": "shop", "protocol": "next", "question": "cold products", "at_least": 0.1}]},
            "question 'cold products' is not one of all products, products new to the user",
        ),
        (
            {"goals": [{"data": "shop", "protocol": "next", "share": 0.5, "of": "whole histories"}]},
            "question 'whole histories' is not one of all products",
        ),
    ],
)
def test_a_wrong_comparison_is_one_clear_error(change: dict[str, Any], said: str, compared: Compared) -> None:
    whole = compared.config.model_dump(mode="json", exclude_unset=True) | {"reference": ""} | change
    file = compared.place.home / "wrong.toml"
    file.write_text(tomli_w.dumps(whole))
    with pytest.raises(ConfigError, match=said):
        read_comparison(file)


def test_what_is_like_a_baseline_is_tuned_as_it_is(compared: Compared) -> None:
    models = {
        "knn": {"baseline": "itemknn", "trials": 12, "seeds": 2},
        "no-facts": {"like": "knn", "graph": "none"},
        "fewer": {"like": "no-facts", "trials": 3, "seeds": 1},
        "ease": EASE,
    }
    config = CompareConfig.model_validate(
        compared.config.model_dump(exclude_unset=True) | {"models": models, "reference": "no-facts", "goals": []}
    )
    told = [(each.name, each.baseline, each.trials, each.seeds) for each in made(config, compared.place.config_folder)]
    assert told == [
        ("knn", "itemknn", 12, 2),
        ("no-facts", "itemknn", 12, 2),
        ("fewer", "itemknn", 3, 1),
        ("ease", "ease", 2, None),
    ]


def test_each_relation_is_left_out_in_turn(compared: Compared) -> None:
    config = compared.config.model_validate(
        compared.config.model_dump(exclude_unset=True)
        | {"models": {"ours": {"config": "base.toml"}, "without": {"like": "ours", "each_relation": True}}}
    )
    told = made(config, compared.place.config_folder, ("A", "B"))
    assert [(each.title, each.settings.model.exclude_relations, each.settings.model.transitions) for each in told] == [
        ("ours", (), True),
        ("without A", ("A",), True),
        ("without B", ("B",), True),
        ("without NEXT", (), False),
    ]


def test_a_wrong_override_is_one_clear_error() -> None:
    with pytest.raises(ConfigError, match=r"there is no setting 'model\.layer'"):
        RunSettings().with_overrides({"model.layer": 1})
    with pytest.raises(ConfigError, match=r"model\.layers: .*less than or equal to 6 \(got 99\)"):
        RunSettings().with_overrides({"model.layers": 99})
    changed = RunSettings().with_overrides({"model.layers": 0, "model.text.max_tokens": 32})
    assert (changed.model.layers, changed.model.text.max_tokens) == (0, 32)
