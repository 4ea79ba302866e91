"""What is told of the answers themselves: how much of the catalogue they show, and whether scores have drifted."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from kg.rules import Action, Rule, Target
from kgrank.client import Client
from kgrank.v1.common_pb2 import Filter, Mix
from server.question import Ranking, UserState
from server.watch.answers import Coverage, stability_index
from tests.server.shop import Shop
from tests.server.test_watch import values, watched

USERS = [f"user-{number:02}" for number in range(40)]


def drift(port: int) -> dict[str, float]:
    """Return the drift that is told, by model."""
    return {name[1]: value for name, value in values(port).items() if name[0] == "kgrank_score_drift"}


def ask(client: Client, times: int = 8, **asked: object) -> str:
    """Let each of the training's users ask some times; return the model that answered."""
    answers = [client.recommend(user, k=5, **asked) for _ in range(times) for user in USERS]  # type: ignore[arg-type]
    return answers[-1].model_version


PINS = [Rule("p", Action.PIN, Target.PRODUCT, "product-05"), Rule("q", Action.PIN, Target.BRAND, "Bolt", position=3)]


@pytest.mark.parametrize("rules", [[], PINS], ids=["no rules", "pins"])
def test_scores_of_the_training_s_own_users_have_not_drifted(home: Path, rules: Sequence[Rule]) -> None:
    with watched(home) as (server, port), Client(server.target) as client:
        server.server._serving.rules.replace(rules)
        version = ask(client)
        told = drift(port)
    assert told[version] < 0.1


def test_what_a_question_narrows_down_or_a_rule_lifts_is_no_drift(home: Path) -> None:
    with watched(home) as (server, port), Client(server.target) as client:
        ask(client, filter=Filter(brands=["Acme"]))
        ask(client, mix=Mix(exploration_share=0.5))
        ask(client, exclude_product_ids=[f"product-{number:02}" for number in range(60)])
        assert drift(port) == {}
        version = ask(client)
        before = drift(port)[version]
        server.server._serving.rules.replace([Rule("b", Action.BOOST, Target.BRAND, "Acme", strength=5.0)])
        ask(client)
        assert drift(port) == {version: before}


def test_a_model_that_has_left_is_not_told_of(home: Path, shop: Shop) -> None:
    first, second = shop.versions
    with watched(home) as (server, port), Client(server.target) as client:
        client.activate_model(f"models/{first}")
        ask(client)
        assert set(drift(port)) == {first}
        client.activate_model(f"models/{second}")
        assert drift(port) == {}
        ask(client)
        assert set(drift(port)) == {second}


def test_the_stability_index_is_nought_for_the_same_and_known_for_a_shift() -> None:
    sample = np.random.default_rng(1).normal(size=100_000)
    assert stability_index(sample, sample) == pytest.approx(0, abs=1e-12)
    # All of the live half: five bins of .2 each against .1, five empty ones.
    upper = sample[sample > np.median(sample)]
    empty = 0.5 / len(upper)
    expected = 5 * (0.2 - 0.1) * np.log(2) + 5 * (empty - 0.1) * np.log(empty / 0.1)
    assert stability_index(sample, upper) == pytest.approx(expected, rel=1e-3)


def test_coverage_counts_a_product_once_and_grows_with_the_catalogue() -> None:
    coverage = Coverage(window=2)
    coverage.see(shown(0, 1), 10)
    coverage.see(shown(1, 2), 10)
    assert coverage.share == pytest.approx(0.3)
    coverage.see(shown(11), 20)
    assert coverage.share == pytest.approx(0.2)
    coverage.see(shown(11), 20)
    assert coverage.share == pytest.approx(0.05)


def test_coverage_is_not_told_while_it_grows_after_a_start() -> None:
    coverage = Coverage(window=3)
    for product in range(2):
        coverage.see(shown(product), 4)
        assert coverage.share is None
    coverage.see(shown(2), 4)
    assert coverage.share == 0.75


def shown(*products: int) -> Ranking:
    return Ranking(np.array(products), np.zeros(len(products), np.float32), {}, UserState.WARM)
