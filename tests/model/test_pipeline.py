"""Fitting a model: what is held out is nowhere in training, and joins afterwards."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.artifact import load_artifact, save_artifact
from model.checkpoint import EpochRecord
from model.cold_splits import COLD
from model.config import FinetuneConfig, NeighbourConfig
from model.errors import ModelError
from model.finetune.run import TuningListener, finetune
from model.hold_out import without_products
from model.pipeline import Listener, _later, fit_model
from model.ranker import ModelRanker, rank
from model.refresh import refresh
from model.splits import SplitConfig, make_split
from model.train import Trained
from tests.model.plain_data import truth_of
from tests.model.small_shop import DAY_MS, MODEL, TRAIN, small_shop

SPLIT = SplitConfig(protocol="cold-products", cold_share=0.15, cold_seed=3)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("text")


def test_held_out_products_leave_the_snapshot_with_their_facts() -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SPLIT)
    assert split.held_out is not None
    smaller, part = without_products(snapshot, split, split.held_out)
    gone = [snapshot.products.id(index) for index in np.flatnonzero(split.held_out)]
    assert len(gone) == 6
    assert len(smaller.products) == len(snapshot.products) - len(gone)
    assert not set(gone) & set(smaller.products.array.to_pylist())
    for name, edges in smaller.facts.items():
        ends = np.concatenate([edges.head, edges.tail])
        assert ends.max(initial=0) < smaller.node_count
        before = snapshot.facts[name]
        touched = np.isin(before.head, np.flatnonzero(split.held_out)) | np.isin(
            before.tail, np.flatnonzero(split.held_out)
        )
        assert len(edges) == len(before) - touched.sum()
    brand = smaller.facts["HAS_BRAND"]
    for head, tail in zip(brand.head.tolist(), brand.tail.tolist(), strict=True):
        wanted = "Leaf" if smaller.products.id(head).startswith("tea") else "Bolt"
        assert smaller.nodes["id"][tail - len(smaller.products)].as_py() == wanted
    ids = [snapshot.products.id(index) for index in split.train.product_index.tolist()]
    assert [smaller.products.id(index) for index in part.train.product_index.tolist()] == ids
    assert len(part.validation.candidates) == len(smaller.products)


def test_products_that_training_never_saw_are_ranked_by_text_and_facts(cache: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SPLIT)
    trained = fit_model(snapshot, split, MODEL, TRAIN, cache)
    assert split.held_out is not None
    assert len(trained.model.matrix) == len(snapshot.products)
    assert trained.graph.product_count == len(snapshot.products) - split.held_out.sum()
    case = next(question.test for question in split.questions if question.name == COLD)
    ranked = rank(ModelRanker("m", trained.model), case, 10)
    names = np.array(snapshot.products.array.to_pylist())
    assert case.seen is not None
    for row in range(len(case)):
        taste = names[truth_of(case, row)[0]].split("-")[0]
        new = split.held_out.copy()
        new[case.seen.product_index[case.seen.rows(row)]] = False
        cold = [name for name in names[new] if name.startswith(taste)]
        shown = names[ranked[row][ranked[row] >= 0]].tolist()
        # What is cold stands with its own kind, before anything of the other taste.
        assert set(cold) <= set(shown)


def test_an_ensemble_is_one_model_that_is_stored_and_refreshed_like_one(cache: Path, tmp_path: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    model = MODEL.model_copy(update={"neighbours": NeighbourConfig(kind="ease", facts=1)})
    train = TRAIN.model_copy(update={"members": 2, "epochs": 2})
    trained = fit_model(snapshot, split, model, train, cache)
    trained = replace(trained, model=trained.model.with_blend(replace(trained.model.blend, neighbours=2.0)))
    first, second = trained.model.networks
    assert not torch.equal(first.identity.weight, second.identity.weight)
    test = split.test
    scores = ModelRanker("whole", trained.model).scores(test.histories, test.now_ms)
    artifact = load_artifact(save_artifact(tmp_path, snapshot, split, trained, train))
    np.testing.assert_array_equal(ModelRanker("kept", artifact.scorer).scores(test.histories, test.now_ms), scores)
    refreshed = refresh(artifact, small_shop(extra_products=3), cache)
    assert len(refreshed.networks) == 2
    later = ModelRanker("later", refreshed).scores(test.histories, test.now_ms)
    assert later.shape[1] == scores.shape[1] + 3


def test_a_refit_learns_from_what_chose_its_epochs(cache: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    once, again = (
        fit_model(snapshot, split, MODEL, TRAIN.model_copy(update={"epochs": 3, "refit": refit}), cache)
        for refit in ("none", "known")
    )
    assert again.model.blend == once.model.blend
    assert again.validation_ndcg == once.validation_ndcg  # chosen before; nothing is left to choose by
    assert again.best_epoch == once.best_epoch
    assert [record.ndcg for record in again.records] == [record.ndcg for record in once.records]
    assert not torch.equal(again.model.matrix, once.model.matrix)
    # It knew more of each product than the first run did.
    assert (again.model.statistics.popularity > once.model.statistics.popularity).any()


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal"])
def test_a_refit_on_everything_is_of_the_snapshots_moment(protocol: str, cache: Path, tmp_path: Path) -> None:
    snapshot = small_shop()
    windows = {"validation_days": 6, "test_days": 6}
    split = make_split(snapshot, SplitConfig.model_validate({"protocol": protocol} | windows))
    later = _later(split, snapshot, "all")
    assert len(later.train.at_ms) == len(snapshot.histories.at_ms)
    assert later.train.at_ms.max() <= later.validation.now_ms.min()
    train = TRAIN.model_copy(update={"epochs": 1, "refit": "all"})
    trained = fit_model(snapshot, split, MODEL, train, cache)
    artifact = load_artifact(save_artifact(tmp_path, snapshot, split, trained, train))
    refreshed = refresh(artifact, snapshot, cache).statistics
    for name in ("popularity", "rebuy", "newcomer"):
        np.testing.assert_array_equal(getattr(refreshed, name), getattr(trained.model.statistics, name))


def test_a_refit_can_go_on_from_the_chosen_network(cache: Path, tmp_path: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    train = TRAIN.model_copy(update={"epochs": 3, "members": 2, "refit": "known"})
    going_on = train.model_copy(update={"refit_epochs": 1, "refit_step": 1e-6})
    once = fit_model(snapshot, split, MODEL, train.model_copy(update={"refit": "none"}), cache)
    anew = fit_model(snapshot, split, MODEL, train, cache)
    heard: list[EpochRecord] = []
    on = fit_model(snapshot, split, MODEL, going_on, cache, listener=Listener(on_epoch_again=heard.append))
    assert [record.epoch for record in heard] == [1, 1]
    assert on.best_epoch == once.best_epoch
    for row, network in enumerate(on.model.networks):  # next to no step: what was chosen is still there
        weight = network.history.query.weight
        torch.testing.assert_close(weight, once.model.networks[row].history.query.weight, atol=1e-4, rtol=0)
        assert (weight - anew.model.networks[row].history.query.weight).abs().max() > 1e-3
    # A run that was killed goes on, too, and not from the checkpoint of other steps.
    fit_model(snapshot, split, MODEL, going_on, cache, checkpoint_folder=tmp_path)
    larger = going_on.model_copy(update={"refit_step": 1.0})
    for _ in range(2):
        resumed = fit_model(snapshot, split, MODEL, larger, cache, checkpoint_folder=tmp_path, resume=True)
        assert torch.equal(resumed.model.matrix, fit_model(snapshot, split, MODEL, larger, cache).model.matrix)


def test_a_refit_that_goes_on_may_meet_a_relation_that_was_not_there(cache: Path) -> None:
    """Only with the last but one interaction does anything follow another product: NEXT comes with the refit."""
    shop = small_shop()
    days, products = np.array([0, 10, 20, 50, 65]), np.array([0, 0, 0, 1, 2], np.int32)
    histories = replace(
        shop.histories,
        offsets=np.arange(0, 16, 5).astype(np.int64),
        product_index=np.tile(products, 3),
        type=shop.histories.type[:15],
        at_ms=np.tile(days * DAY_MS, 3),
        value=shop.histories.value[:15],
    )
    snapshot = replace(shop, histories=histories)
    split = make_split(snapshot, SplitConfig())
    model = MODEL.model_copy(update={"repeat": True})
    train = TRAIN.model_copy(update={"objective": "next_basket", "epochs": 1, "refit": "known", "refit_epochs": 1})
    chosen: list[Trained] = []
    tiny = train.model_copy(update={"refit_step": 1e-6})
    again = fit_model(snapshot, split, model, tiny, cache, listener=Listener(on_chosen=chosen.append))
    before, after = chosen[0].model.network, again.model.network
    assert set(after.relation_names) - set(before.relation_names) == {"NEXT"}
    weights, earlier = after.relation_weights(), before.relation_weights()
    for name, weight in earlier.items():
        assert weights[name] == pytest.approx(weight, abs=1e-4)
    assert weights["NEXT"] == pytest.approx(np.log(2), abs=1e-4), "as it begins"


@pytest.mark.parametrize(
    ("model", "train", "problem"),
    [
        ({"repeat": True}, {}, "model.repeat is learned by train.objective next_basket only"),
        ({}, {"objective": "next_basket", "window_days": 3650}, "within a window of 3650 days"),
        ({"exclude_relations": ("BOUGTH_TOGETHER",)}, {}, "does not have: is BOUGHT_TOGETHER meant"),
        ({"exclude_relations": ("has_brand",)}, {}, "does not have: is HAS_BRAND meant"),
        ({"neighbours": NeighbourConfig(kind="learned", window_days=3650)}, {}, "nobody came to a new product"),
    ],
)
def test_what_can_t_be_trained_is_refused_before_anything_is_fine_tuned(
    model: dict[str, object], train: dict[str, object], problem: str, cache: Path
) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    asked, run = MODEL.model_copy(update=model), TRAIN.model_copy(update=train)

    def hears(*told: object) -> None:
        pytest.fail("it was begun")

    listener = Listener(hears, hears, hears, hears, finetuning=TuningListener(hears, hears))
    tuning = FinetuneConfig(method="last", objective="end_to_end")
    with pytest.raises(ModelError, match=problem):
        fit_model(snapshot, split, asked, run, cache, finetune_config=tuning, listener=listener)


def test_end_to_end_fine_tuning_refuses_what_the_network_can_t_learn(tmp_path: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    tuning = FinetuneConfig(method="last", objective="end_to_end")
    for model, problem in (
        ({"repeat": True}, "model.repeat is learned by"),
        ({"exclude_relations": ("IN_CATEGORYS",)}, "is IN_CATEGORY meant"),
    ):
        with pytest.raises(ModelError, match=problem):
            finetune(snapshot, split, MODEL.model_copy(update=model), TRAIN, tuning, tmp_path)


def test_relations_of_other_shops_may_be_excluded(cache: Path) -> None:
    snapshot = small_shop()
    config = MODEL.model_copy(update={"exclude_relations": ("ALSO_BOUGHT", "IN_CAMPAIGN", "BOUGHT_TOGETHER")})
    once = TRAIN.model_copy(update={"epochs": 1})
    trained = fit_model(snapshot, make_split(snapshot, SplitConfig()), config, once, cache)
    assert set(trained.graph.relations) == {"HAS_BRAND", "IN_CATEGORY", "NEXT"}


def test_what_holds_products_out_is_not_refitted_on_them(cache: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SPLIT)
    train = TRAIN.model_copy(update={"epochs": 1})
    plain, asked = (
        fit_model(snapshot, split, MODEL, train.model_copy(update={"refit": refit}), cache) for refit in ("none", "all")
    )
    torch.testing.assert_close(asked.model.matrix, plain.model.matrix)
