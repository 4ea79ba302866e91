"""Evaluation: known answers, and the refusal of what a model has seen."""

import dataclasses
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from kg.freeze import freeze
from kg.snapshot import Histories, Snapshot
from kg.tables import INTERACTIONS, PRODUCTS, Tables
from model.artifact import ArtifactManifest
from model.baselines import fit_data
from model.config import ModelConfig
from model.errors import ModelError
from model.evaluate import check_untrained, difference, evaluate, fit_baseline
from model.likeness import graph_features
from model.ranker import rank
from model.splits import SplitConfig, make_split

PRODUCT_IDS = [f"p{number}" for number in range(8)]


def snapshot() -> Snapshot:
    """Six users who bought four products each, in order; two brands, two levels of categories."""
    bought = [(f"u{user}", f"p{(user + step) % 8}", step) for user in range(6) for step in range(4)]
    interactions = pa.table(
        {
            "user_id": [user for user, _, _ in bought],
            "product_id": [product for _, product, _ in bought],
            "type": ["purchase"] * len(bought),
            "at_ms": [step * 1000 for _, _, step in bought],
            "value": pa.nulls(len(bought), pa.float32()),
            "position": list(range(len(bought))),
            "event_id": [str(row) for row in range(len(bought))],
        },
        INTERACTIONS,
    )
    products = [
        {
            "product_id": product_id,
            "title": product_id,
            "description": "",
            "brand": "even" if number % 2 == 0 else "",
            "category": ["all", "low" if number < 4 else "high"],
            "price": None,
            "attributes": [],
        }
        for number, product_id in enumerate(PRODUCT_IDS)
    ]
    return freeze(Tables(interactions, pa.Table.from_pylist(products, PRODUCTS)))


class Next:
    """Knows how this shop works: after p3 comes p4."""

    name = "next"

    def scores(self, histories: Histories, now_ms: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        last = histories.product_index[histories.offsets[1:] - 1]
        scores = np.tile(np.linspace(0.5, 0, 8, dtype=np.float32), (len(histories), 1))
        scores[np.arange(len(histories)), (last + 1) % 8] = 1
        return scores


def test_a_ranker_that_knows_is_perfect_and_its_lead_is_paired(tmp_path: Path) -> None:
    data = snapshot()
    split = make_split(data, SplitConfig())
    learned = fit_data(data, split.train, split.validation, ModelConfig(), tmp_path)
    popular = fit_baseline("popularity", learned, split.test, np.random.default_rng(0))
    report = evaluate(data, split.test, [(Next(), {}), popular], seed=1)
    best, baseline = report.results
    assert best.metrics["ndcg@10"].mean == best.metrics["mrr@5"].mean == 1
    assert best.metrics["precision@5"].mean == pytest.approx(1 / 5)
    lead = difference(best, baseline, "ndcg@10", seed=1)
    assert lead.mean == pytest.approx(1 - baseline.metrics["ndcg@10"].mean)
    assert lead.low <= lead.mean <= lead.high


def test_blocks_do_not_change_the_lists(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_split(snapshot(), SplitConfig()).test
    whole = rank(Next(), case, 5)
    monkeypatch.setattr("model.ranker._BLOCK_BYTES", 1)
    assert (rank(Next(), case, 5) == whole).all()


def test_products_are_alike_by_what_describes_them_from_above_too() -> None:
    features = graph_features(snapshot())
    likeness = (features @ features.T).toarray()
    # p0: brand, low, all. p2: the same. p1: low, all. p4: brand, high, all. p5: high, all.
    assert likeness[0, 2] == pytest.approx(1)
    assert likeness[0, 1] == pytest.approx(2 / np.sqrt(3 * 2))
    assert likeness[0, 4] == pytest.approx(2 / 3)
    assert likeness[1, 5] == pytest.approx(1 / 2)


def manifest(data: Snapshot, config: SplitConfig) -> ArtifactManifest:
    return ArtifactManifest(
        schema_version=1,
        model_version="m",
        created_at_ms=0,
        snapshot_hash=data.content_hash,
        as_of_ms=0,
        split=config.model_dump(mode="json"),
        config={},
        blend={},
        relation_weights={},
        metrics={},
        packages={},
        digests={},
    )


def test_a_model_is_refused_on_what_it_may_have_seen() -> None:
    data, config = snapshot(), SplitConfig(protocol="temporal", test_days=21)
    trained = manifest(data, config)
    check_untrained(trained, data, config)
    check_untrained(trained, data, config.model_copy(update={"repeats": True, "min_product_interactions": 5}))
    with pytest.raises(ModelError, match=r"split\.test_days = 21"):
        check_untrained(trained, data, config.model_copy(update={"test_days": 40.0}))
    with pytest.raises(ModelError, match="was trained on snapshot other"):
        check_untrained(dataclasses.replace(trained, snapshot_hash="other"), data, config)
    again = dataclasses.replace(trained, config={"train": {"refit": "known"}})
    check_untrained(again, data, config)
    with pytest.raises(ModelError, match=r"train\.refit = 'known'"):
        check_untrained(again, data, config, on_validation=True)
    with pytest.raises(ModelError, match=r"train\.refit = 'all'"):
        check_untrained(dataclasses.replace(trained, config={"train": {"refit": "all"}}), data, config)


@pytest.mark.parametrize("protocol", ["cold-users", "cold-products"])
@pytest.mark.parametrize("refit", ["none", "known", "all"])
@pytest.mark.parametrize("on_validation", [True, False])
def test_a_refit_that_its_protocol_left_out_is_no_reason_to_refuse(
    protocol: str, refit: str, on_validation: bool
) -> None:
    data, config = snapshot(), SplitConfig.model_validate({"protocol": protocol})
    trained = dataclasses.replace(manifest(data, config), config={"train": {"refit": refit}})
    check_untrained(trained, data, config, on_validation=on_validation)


def test_a_model_is_refused_where_others_would_have_been_held_out() -> None:
    data, config = snapshot(), SplitConfig(protocol="cold-users")
    check_untrained(manifest(data, config), data, config.model_copy(update={"cold_events": (5,)}))
    with pytest.raises(ModelError, match=r"split\.max\(cold_events\) = 5, not 2"):
        check_untrained(manifest(data, config), data, config.model_copy(update={"cold_events": (0, 2)}))
