import errno
import tomllib
from collections.abc import ItemsView, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from kg.errors import ConfigError
from model.baselines.space import Choice, Real, Whole
from model.case import Case, SplitConfig
from model.config import ModelConfig
from model.errors import ModelError
from model.settings import RunSettings
from model.splits import make_split
from model.tuning.measures import Report, network_measure, peer_measure
from model.tuning.outcome import write_outcome
from model.tuning.search import Budget, search
from model.tuning.space import Space, start_of
from tests.model.small_shop import MODEL, TRAIN, small_shop

pytest.importorskip("optuna", reason="needs the extra tune")

SPACE = {"x": Real(-2.0, 2.0), "n": Whole(1, 4), "kind": Choice(("good", "bad"))}
START = {"x": -2.0, "n": 4, "kind": "bad"}


class KilledError(BaseException):
    """As good as a kill: nothing of ours runs after it."""


def hill(changed: Mapping[str, Any], report: Report) -> float:
    return -float((changed["x"] - 1) ** 2) - 0.1 * changed["n"] - (changed["kind"] == "bad")


def test_the_search_begins_where_it_is_told_and_finds_better(tmp_path: Path) -> None:
    found = search(tmp_path / "study.db", SPACE, START, hill, Budget(25), seed=1)
    assert found.trials[0].changed == START
    assert len(found.trials) == 25
    assert found.best.value is not None
    assert found.best.value > hill(START, lambda epoch, value: None) + 8
    assert found.best.value == max(tried.value for tried in found.trials if tried.value is not None)
    assert max(found.importance, key=lambda name: found.importance[name]) == "x"


def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def killed(changed: Mapping[str, Any], report: Report) -> float:
        nonlocal calls
        calls += 1
        if calls == 4:
            raise KilledError
        return hill(changed, report)

    calls = 0
    with pytest.raises(KilledError):
        search(tmp_path / "killed.db", SPACE, START, killed, Budget(7), seed=3)
    resumed = search(tmp_path / "killed.db", SPACE, START, hill, Budget(7), seed=3)
    whole = search(tmp_path / "whole.db", SPACE, START, hill, Budget(7), seed=3)
    assert [tried.changed for tried in resumed.trials] == [tried.changed for tried in whole.trials]
    assert resumed.best.value == whole.best.value


def test_a_kill_while_a_trial_is_drawn_loses_nothing_of_it(tmp_path: Path) -> None:
    class KillsAfterOne(dict[str, Any]):
        def items(self) -> ItemsView[str, Any]:
            def some() -> Any:
                yield from list(super(KillsAfterOne, self).items())[:1]
                raise KilledError

            return some()  # type: ignore[no-any-return]  # all that is asked of it

    for trials in (1, 3):  # the first is as the search begins; the third is drawn
        with pytest.raises(KilledError):
            search(tmp_path / "killed.db", KillsAfterOne(SPACE), START, hill, Budget(trials), seed=3)
        resumed = search(tmp_path / "killed.db", SPACE, START, hill, Budget(trials), seed=3)
        whole = search(tmp_path / "whole.db", SPACE, START, hill, Budget(trials), seed=3)
        assert [tried.changed for tried in resumed.trials] == [tried.changed for tried in whole.trials]


def test_a_trial_that_kills_the_search_is_done_again_once(tmp_path: Path) -> None:
    def kills(changed: Mapping[str, Any], report: Report) -> float:
        if changed != START:
            raise KilledError
        return 0.5

    for _ in range(2):
        with pytest.raises(KilledError):
            search(tmp_path / "study.db", SPACE, START, kills, Budget(3), seed=1)
    found = search(tmp_path / "study.db", SPACE, START, hill, Budget(3), seed=1)
    assert [tried.state for tried in found.trials] == ["complete", "fail", "complete"]


@pytest.mark.parametrize("fault", [KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_what_is_no_fault_of_the_settings_is_not_counted_against_them_however_often(
    tmp_path: Path, fault: BaseException
) -> None:
    def stopped(changed: Mapping[str, Any], report: Report) -> float:
        raise fault

    for _ in range(3):
        with pytest.raises(type(fault)):
            search(tmp_path / "study.db", SPACE, START, stopped, Budget(2), seed=1)
    found = search(tmp_path / "study.db", SPACE, START, hill, Budget(2), seed=1)
    assert [tried.state for tried in found.trials] == ["complete"] * 2
    assert found.trials[0].changed == START


def test_a_second_run_of_a_search_is_refused_while_the_first_is_under_way(tmp_path: Path) -> None:
    def both(changed: Mapping[str, Any], report: Report) -> float:
        with pytest.raises(ModelError, match="another run of this search is under way"):
            search(tmp_path / "study.db", SPACE, START, hill, Budget(4), seed=1)
        return hill(changed, report)

    assert [tried.state for tried in search(tmp_path / "study.db", SPACE, START, both, Budget(2), seed=1).trials] == [
        "complete",
        "complete",
    ]


BESIDE = {"half": Real(1.0, 9.0, log=True), **SPACE}


def faded(changed: Mapping[str, Any], report: Report) -> float:
    return hill(changed, report) - (0.3 if changed["half"] is None else 0.1 * changed["half"])


@pytest.mark.parametrize("space", [BESIDE, {"half": BESIDE["half"]}])
def test_a_start_beside_a_range_is_the_first_trial_all_the_same(space: Space, tmp_path: Path) -> None:
    def killed(changed: Mapping[str, Any], report: Report) -> float:
        raise KilledError

    def measure(changed: Mapping[str, Any], report: Report) -> float:
        return faded(START | changed, report)

    start = {key: value for key, value in (START | {"half": None}).items() if key in space}
    with pytest.raises(KilledError):
        search(tmp_path / "killed.db", space, start, killed, Budget(12), seed=1)
    resumed, whole = (
        search(tmp_path / name, space, start, measure, Budget(12), seed=1) for name in ("killed.db", "whole.db")
    )
    assert [tried.changed for tried in resumed.trials] == [tried.changed for tried in whole.trials]
    first, *others = whole.trials
    assert first.changed == start
    assert first.value == pytest.approx(faded(START | {"half": None}, lambda epoch, value: None))
    assert all(1 <= tried.changed["half"] <= 9 for tried in others)
    assert set(whole.importance) == set(space)


def test_a_finished_search_is_only_read(tmp_path: Path) -> None:
    first = search(tmp_path / "study.db", SPACE, START, hill, Budget(5), seed=1)

    def never(changed: Mapping[str, Any], report: Report) -> float:
        raise AssertionError

    assert search(tmp_path / "study.db", SPACE, START, never, Budget(5), seed=1) == first


def test_hopeless_trials_are_pruned(tmp_path: Path) -> None:
    values = iter([0.9, 0.8, 0.85, 0.95, 0.1, 0.1])
    epochs: list[int] = []

    def learning(changed: Mapping[str, Any], report: Report) -> float:
        value = next(values)
        for epoch in range(1, 6):
            report(epoch, value)
            epochs.append(epoch)
        return value

    found = search(tmp_path / "study.db", SPACE, START, learning, Budget(6), seed=1)
    assert [tried.state for tried in found.trials] == ["complete"] * 4 + ["pruned"] * 2
    assert len(epochs) < 30


@pytest.mark.parametrize(
    "problem",
    [
        ModelError("the loss is nan", ""),
        ConfigError("they don't go together", ""),
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory."),
    ],
)
def test_settings_that_cannot_be_trained_count_as_tried(problem: Exception, tmp_path: Path) -> None:
    def fails(changed: Mapping[str, Any], report: Report) -> float:
        if changed != START:
            raise problem
        return 0.5

    found = search(tmp_path / "study.db", SPACE, START, fails, Budget(3), seed=1)
    assert [tried.state for tried in found.trials] == ["complete", "fail", "fail"]
    with pytest.raises(ModelError, match="none of 2 trials"):
        search(tmp_path / "other.db", SPACE, {**START, "n": 3}, fails, Budget(2), seed=1)


def test_time_that_is_up_ends_the_search_after_its_first_value(tmp_path: Path) -> None:
    found = search(tmp_path / "study.db", SPACE, START, hill, Budget(10, minutes=0.0), seed=1)
    assert [tried.changed for tried in found.trials] == [START]


def test_settings_that_no_memory_is_enough_for_count_as_tried(tmp_path: Path) -> None:
    def takes_too_much(changed: Mapping[str, Any], report: Report) -> float:
        return 0.5 if changed == START else float(torch.empty(10**16).sum())

    found = search(tmp_path / "study.db", SPACE, START, takes_too_much, Budget(2), seed=1)
    assert [tried.state for tried in found.trials] == ["complete", "fail"]


def test_time_that_is_up_ends_a_search_without_a_value(tmp_path: Path) -> None:
    def refuses(changed: Mapping[str, Any], report: Report) -> float:
        raise ModelError("the loss is nan", "")

    with pytest.raises(ModelError, match=r"none of \d+ trials gave a value"):
        search(tmp_path / "study.db", SPACE, START, refuses, Budget(100_000, minutes=0.001), seed=1)


def test_the_network_and_a_peer_are_measured_without_the_test(tmp_path: Path) -> None:
    snapshot = small_shop()
    settings = RunSettings(model=MODEL, train=TRAIN.model_copy(update={"epochs": 1, "threads": 1}))
    split = make_split(snapshot, SplitConfig())
    nothing: Case = None  # type: ignore[assignment]  # whoever looks at the test falls over it
    split = replace(split, test=nothing)
    reported: list[int] = []
    ours = network_measure(snapshot, split, settings, tmp_path)
    assert ours({"model.layers": 0}, lambda epoch, value: reported.append(epoch)) > 0
    assert reported == [1]
    peer = peer_measure("itemknn", snapshot, split, settings, tmp_path)
    assert 0 < peer({}, lambda epoch, value: None) <= 1


def test_what_was_found_is_a_configuration_file(tmp_path: Path) -> None:
    found = search(tmp_path / "study.db", SPACE, START, hill, Budget(8), seed=1)
    settings = RunSettings(model=ModelConfig(dimension=64))
    best = tmp_path / "out" / "best.toml"
    files = write_outcome(tmp_path, found, settings.model_dump(mode="json"), "of a test", best)
    assert RunSettings.model_validate(tomllib.loads(best.read_text())) == settings
    assert start_of({"model.dimension": Choice((64,))}, settings) == {"model.dimension": 64}
    assert {file.name for file in files} == {"best.toml", "trials.json", "importance.png"}
    assert (tmp_path / "importance.png").read_bytes().startswith(b"\x89PNG")
