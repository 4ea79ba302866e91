import json
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy import sparse

from kg.snapshot import Histories, Snapshot
from model.artifact import MANIFEST, TENSORS, load_artifact, read_manifest, save_artifact
from model.config import NeighbourConfig
from model.discovery import FEATURES, LEVELS, Moment, kinds_of, moment_of, pairs_of
from model.errors import ArtifactError, ModelError
from model.learned_neighbours import LearnedNeighbours, fit_learned_neighbours
from model.neighbours import Neighbours, fit_neighbours, strongest
from model.pipeline import Listener, fit_model
from model.popularity import DAY_MS
from model.ranker import ModelRanker
from model.refresh import refresh
from model.splits import SplitConfig, make_split
from tests.model.small_shop import HALF, MODEL, TRAIN, small_shop

CONFIG = NeighbourConfig(kind="learned", windows=3, window_days=3, kept=5)


@pytest.fixture(scope="module")
def shop() -> Snapshot:
    return small_shop(extra_products=1)


@pytest.fixture(scope="module")
def learned(shop: Snapshot) -> LearnedNeighbours:
    return fit_learned_neighbours(shop, shop.histories, CONFIG, (), lambda window, windows: None)


def had(histories: Histories, product_count: int) -> npt.NDArray[np.bool_]:
    made = np.zeros((len(histories), product_count), np.bool_)
    made[histories.users_of_rows(), histories.product_index] = True
    return made


def scores(learned: LearnedNeighbours, histories: Histories, now_ms: int) -> npt.NDArray[np.float32]:
    dense: npt.NDArray[np.float32] = learned.scores(histories, np.full(len(histories), now_ms, np.int64)).toarray()
    return dense


def test_only_products_that_a_user_has_not_had_gain(shop: Snapshot, learned: LearnedNeighbours) -> None:
    gained = scores(learned, shop.histories, shop.as_of_ms)
    assert (gained >= 0).all()
    assert gained.any(axis=1).all()
    assert not gained[had(shop.histories, len(shop.products))].any()


def test_a_user_of_one_taste_comes_to_more_of_it(shop: Snapshot, learned: LearnedNeighbours) -> None:
    gained = scores(learned, shop.histories, shop.as_of_ms)
    tea = np.array([name.startswith("tea") for name in shop.products.array.to_pylist()])
    tea_drinkers = np.arange(len(shop.histories)) % 2 == 0
    assert (tea[gained.argmax(axis=1)] == tea_drinkers).all()


def test_a_user_of_whom_nothing_is_known_gets_what_sells(shop: Snapshot, learned: LearnedNeighbours) -> None:
    nobody = shop.histories.where(np.zeros(len(shop.histories.product_index), np.bool_)).take(np.zeros(1, np.int64))
    gained = scores(learned, nobody, shop.as_of_ms)
    assert np.isfinite(gained).all()
    assert gained[0, learned.moment.popular].any()


def test_users_are_scored_together_as_alone(shop: Snapshot, learned: LearnedNeighbours) -> None:
    together = scores(learned, shop.histories, shop.as_of_ms)
    alone = scores(learned, shop.histories.take(np.array([7])), shop.as_of_ms)
    np.testing.assert_allclose(alone[0], together[7], rtol=1e-4, atol=1e-5)


def test_further_products_change_nothing_for_others(shop: Snapshot, learned: LearnedNeighbours) -> None:
    more = scores(learned.with_more(3), shop.histories, shop.as_of_ms)
    assert more.shape[1] == len(shop.products) + 3
    assert not more[:, len(shop.products) :].any()
    np.testing.assert_array_equal(more[:, : len(shop.products)], scores(learned, shop.histories, shop.as_of_ms))


def test_each_window_is_told_of(shop: Snapshot) -> None:
    told = []
    fit_learned_neighbours(shop, shop.histories, CONFIG, (), lambda *window: told.append(window))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_a_past_without_anything_new_is_refused(shop: Snapshot) -> None:
    with pytest.raises(ModelError, match="nobody came to a new product in any window of 9000 days") as refused:
        fit_learned_neighbours(shop, shop.histories, CONFIG.model_copy(update={"window_days": 9000}), (), print)
    assert "cosine" in str(refused.value)


@pytest.mark.parametrize("again", [True, False])
def test_one_late_event_does_not_use_up_the_windows(shop: Snapshot, again: bool) -> None:
    histories = shop.histories
    last = histories.offsets[1] - 1  # the last interaction of the first user: years later, and with the same as ever?
    at_ms, product = histories.at_ms.copy(), histories.product_index.copy()
    at_ms[last] += 1000 * DAY_MS
    product[last] = product[0] if again else product[last]
    late = replace(histories, at_ms=at_ms, product_index=product)
    told = []
    learned = fit_learned_neighbours(shop, late, CONFIG, (), lambda *window: told.append(window))
    assert told == [(0, 3), (1, 3), (2, 3), (3, 3)]
    asked = moment_of(histories, shop.as_of_ms, learned.moment.kind)  # as of when the others are there
    gained = scores(replace(learned, moment=asked), histories, shop.as_of_ms)
    tea = np.array([name.startswith("tea") for name in shop.products.array.to_pylist()])
    assert (tea[gained.argmax(axis=1)] == (np.arange(len(histories)) % 2 == 0)).all()


def test_a_kind_is_a_category_at_a_level(shop: Snapshot) -> None:
    kind = kinds_of(shop)
    assert kind.shape == (len(shop.products), LEVELS)
    tea = np.array([name.startswith("tea") for name in shop.products.array.to_pylist()])
    for level in kind.T:
        assert len(np.unique(level[tea])) == len(np.unique(level[~tea])) == 1
        assert level[tea][0] != level[~tea][0]
    assert kind.min() == 0
    assert len(np.unique(kind)) == kind.max() + 1
    assert (kinds_of(shop, ("IN_CATEGORY",)) == -1).all()


def test_a_shop_without_categories_ranks_by_the_rest(shop: Snapshot) -> None:
    learned = fit_learned_neighbours(shop, shop.histories, CONFIG, ("IN_CATEGORY",), lambda window, windows: None)
    gained = scores(learned, shop.histories, shop.as_of_ms)
    tea = np.array([name.startswith("tea") for name in shop.products.array.to_pylist()])
    assert (tea[gained.argmax(axis=1)] == (np.arange(len(shop.histories)) % 2 == 0)).mean() > 0.9
    assert not gained[had(shop.histories, len(shop.products))].any()


def test_features_are_what_they_are_called(shop: Snapshot) -> None:
    moment = moment_of(shop.histories, shop.as_of_ms, kinds_of(shop))
    now_ms = np.full(len(shop.histories), shop.as_of_ms, np.int64)
    near = fit_neighbours(shop, shop.histories, CONFIG, ())
    assert near is not None
    pairs = pairs_of(shop.histories, now_ms, near.scores(shop.histories, now_ms), moment)
    assert pairs.features.shape == (len(pairs.product_index), FEATURES)
    for user in (0, 13):
        rows = slice(pairs.offsets[user], pairs.offsets[user + 1])
        products = pairs.product_index[rows]
        assert (np.diff(products) > 0).all()
        own = shop.histories.rows(user)
        age = (shop.as_of_ms - shop.histories.at_ms[own]) / DAY_MS
        bought = shop.histories.product_index[own]
        assert not np.isin(products, bought).any()
        active = 1 + np.exp2(-age / 28).sum()
        for product, features in zip(products, pairs.features[rows], strict=True):
            whose = shop.histories.product_index == product
            ages = (shop.as_of_ms - shop.histories.at_ms[whose]) / DAY_MS
            assert features[0] == pytest.approx(np.log(np.exp2(-ages / 4).sum() + 0.01), abs=1e-5)
            of_kind = moment.kind[bought, 0] == moment.kind[product, 0]
            share = np.exp2(-age[of_kind] / 182).sum() / active
            assert features[8] == pytest.approx(np.log(share + 0.01), abs=1e-5)
            nearness = near.scores(shop.histories.take(np.array([user])), now_ms[:1])[0, product]
            assert features[-2] == pytest.approx(np.log(10 * nearness + 0.01), abs=1e-5)


def test_what_comes_later_is_not_known(shop: Snapshot) -> None:
    early = shop.histories.where(shop.histories.at_ms < 8 * DAY_MS)
    kind = kinds_of(shop)
    seen, same = moment_of(early, 8 * DAY_MS, kind), moment_of(early, 8 * DAY_MS, kind)
    whole = moment_of(shop.histories, shop.as_of_ms, kind)
    assert all(np.array_equal(getattr(seen, each.name), getattr(same, each.name)) for each in fields(Moment))
    assert not np.array_equal(seen.had, whole.had)


@given(st.integers(0, 2**32 - 1), st.integers(1, 8), st.floats(0.2, 1))
@settings(max_examples=60)
def test_the_strongest_of_many_are_those_of_few(seed: int, kept: int, density: float) -> None:
    generator = np.random.default_rng(seed)
    dense = generator.integers(-1, 4, (5, 40)) * (generator.random((5, 40)) < density)  # many are equal
    rows = sparse.csr_matrix(dense.astype(np.float32))
    expected = np.zeros_like(dense)
    for row, values in enumerate(dense):
        best = [column for column in np.argsort(-values, kind="stable") if values[column] > 0][:kept]
        expected[row, best] = values[best]
    np.testing.assert_array_equal(strongest(rows, kept).toarray(), expected)
    sparser = sparse.csr_matrix(np.hstack([dense, np.zeros((5, 2000))]).astype(np.float32))  # too few to be cut
    np.testing.assert_array_equal(strongest(sparser, kept).toarray()[:, :40], expected)


def test_neighbours_that_can_not_be_learned_are_refused_before_the_training(tmp_path: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    model = MODEL.model_copy(update={"neighbours": CONFIG.model_copy(update={"window_days": 3000})})
    steps: list[int] = []
    listener = Listener(on_step=lambda step, *_: steps.append(step))
    with pytest.raises(ModelError, match="nobody came to a new product"):
        fit_model(snapshot, split, model, TRAIN, tmp_path, listener=listener)
    assert not steps


def test_neighbours_of_a_refit_are_learned_before_the_training(tmp_path: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig())
    model = MODEL.model_copy(update={"neighbours": CONFIG})
    train = TRAIN.model_copy(update={"epochs": 1, "refit": "all"})
    heard: list[str] = []
    listener = Listener(
        on_step=lambda *_: heard.append("step"), on_window=lambda window, _: heard.append("window") if window else None
    )
    fit_model(snapshot, split, model, train, tmp_path, listener=listener)
    assert "window" in heard
    assert "window" not in heard[heard.index("step") :]


def test_products_that_were_held_out_join_with_their_categories(tmp_path: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig(protocol="cold-products", cold_share=0.2))
    model = MODEL.model_copy(update={"neighbours": CONFIG})
    trained = fit_model(snapshot, split, model, TRAIN.model_copy(update={"epochs": 1}), tmp_path)
    neighbours = trained.model.neighbours
    assert isinstance(neighbours, LearnedNeighbours)
    np.testing.assert_array_equal(neighbours.moment.kind, kinds_of(snapshot))
    assert split.held_out is not None
    assert (neighbours.moment.had[split.held_out] == neighbours.moment.had.min()).all()  # nobody has had them


def test_a_model_with_learned_neighbours_is_stored_and_refreshed(tmp_path: Path) -> None:
    snapshot = small_shop()
    split = make_split(snapshot, SplitConfig(protocol="temporal", test_days=4, validation_days=4))
    model = MODEL.model_copy(update={"neighbours": CONFIG})
    train = TRAIN.model_copy(update={"epochs": 1})
    trained = fit_model(snapshot, split, model, train, tmp_path / "cache")
    trained = replace(trained, model=trained.model.with_blend(replace(trained.model.blend, neighbours=2.0)))
    test = split.test
    expected = ModelRanker("whole", trained.model).scores(test.histories, test.now_ms)
    folder = save_artifact(tmp_path / "artifacts", snapshot, split, trained, train)
    artifact = load_artifact(folder)
    np.testing.assert_array_equal(ModelRanker("kept", artifact.scorer).scores(test.histories, test.now_ms), expected)
    again = save_artifact(tmp_path / "again", snapshot, split, trained, train)
    assert read_manifest(again).digests == read_manifest(folder).digests

    refreshed = refresh(artifact, small_shop(extra_products=3), tmp_path / "cache")
    assert isinstance(refreshed.neighbours, LearnedNeighbours)
    assert isinstance(refreshed.neighbours.near, Neighbours)
    assert len(refreshed.neighbours.moment.kind) == 2 * HALF + 3
    assert ModelRanker("later", refreshed).scores(test.histories, test.now_ms).shape[1] == 2 * HALF + 3

    tensors = load_file(folder / TENSORS)
    outside = {**tensors, "neighbours.moment.popular": tensors["neighbours.moment.popular"] + 2 * HALF}
    save_file(outside, folder / TENSORS)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["digests"][TENSORS]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ArtifactError, match="popular point outside of 20"):
        load_artifact(folder)
