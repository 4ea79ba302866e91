"""Noise on purpose: as much as was asked for, where it was asked for, and the same for the same seed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kg.snapshot import Edges, Snapshot
from model.case import SplitConfig
from model.compare.noise import (
    NoiseConfig,
    noisy_histories,
    noisy_question,
    noisy_snapshot,
    noisy_training,
    shuffled_facts,
    typed_badly,
    without_facts,
)
from model.splits import make_split
from tests.model.plain_data import plain_snapshot
from tests.model.small_shop import small_shop
from tests.model.test_splits import random_shop


def many_facts() -> Snapshot:
    generator = np.random.default_rng(1)
    pairs = np.unique(generator.integers([0, 60], [60, 120], (400, 2)), axis=0).astype(np.int32)
    return plain_snapshot(random_shop(1), 60, {"HAS_BRAND": Edges(pairs[:, 0], pairs[:, 1])})


def test_nothing_asked_for_is_nothing_done() -> None:
    snapshot = small_shop()
    assert noisy_snapshot(snapshot, NoiseConfig()) is snapshot
    assert noisy_histories(snapshot.histories, NoiseConfig(), 0) is snapshot.histories


def test_facts_are_removed_and_made_wrong_by_their_share() -> None:
    snapshot = many_facts()
    before = snapshot.facts["HAS_BRAND"]
    fewer = noisy_snapshot(snapshot, NoiseConfig(facts_removed=0.25)).facts["HAS_BRAND"]
    pairs = {(h, t) for h, t in zip(before.head.tolist(), before.tail.tolist(), strict=True)}
    assert {(h, t) for h, t in zip(fewer.head.tolist(), fewer.tail.tolist(), strict=True)} < pairs
    assert len(fewer) / len(before) == pytest.approx(0.75, abs=0.08)
    wrong = noisy_snapshot(snapshot, NoiseConfig(facts_wrong=0.25)).facts["HAS_BRAND"]
    kept = [pair in pairs for pair in zip(wrong.head.tolist(), wrong.tail.tolist(), strict=True)]
    assert np.mean(kept) == pytest.approx(0.78, abs=0.1)
    assert set(wrong.tail.tolist()) <= set(before.tail.tolist())


def test_shuffled_facts_keep_every_degree() -> None:
    snapshot = many_facts()
    before, after = snapshot.facts["HAS_BRAND"], shuffled_facts(snapshot, 3).facts["HAS_BRAND"]
    for end in ("head", "tail"):
        degrees = [np.bincount(getattr(each, end), minlength=snapshot.node_count) for each in (before, after)]
        assert (degrees[0] == degrees[1]).all()
    assert (after.head != after.tail).all()
    assert set(zip(before.head.tolist(), before.tail.tolist(), strict=True)) != set(
        zip(after.head.tolist(), after.tail.tolist(), strict=True)
    )
    assert not without_facts(snapshot).facts


def test_each_change_has_a_name_of_its_own_and_comes_again() -> None:
    snapshot = small_shop()
    noise = NoiseConfig(titles=0.5, facts_removed=0.1)
    variants = [
        snapshot,
        noisy_snapshot(snapshot, noise),
        noisy_snapshot(snapshot, noise.model_copy(update={"seed": 8})),
        shuffled_facts(snapshot, 1),
        shuffled_facts(snapshot, 2),
        without_facts(snapshot),
    ]
    assert len({variant.content_hash for variant in variants}) == len(variants)
    again = noisy_snapshot(snapshot, noise)
    assert again.catalogue.equals(variants[1].catalogue)
    assert again.content_hash == variants[1].content_hash


def test_titles_are_spoilt_in_the_text_that_the_language_model_reads() -> None:
    snapshot = small_shop()
    spoilt = noisy_snapshot(snapshot, NoiseConfig(titles=1)).catalogue.to_pylist()
    for before, after in zip(snapshot.catalogue.to_pylist(), spoilt, strict=True):
        assert after["title"] != before["title"]
        assert after["text"] == after["title"] + before["text"][len(before["title"]) :]
        assert after["brand"] == before["brand"]


@given(st.text(st.characters(categories=("L", "N", "Zs")), max_size=60), st.floats(0, 1), st.integers(0, 99))
def test_a_bad_title_keeps_a_word(title: str, share: float, seed: int) -> None:
    words = title.split()
    bad = typed_badly(title, share, np.random.default_rng(seed)).split()
    assert min(len(words), 1) <= len(bad) <= len(words)
    if share == 0:
        assert bad == words


def test_events_are_random_by_their_share_and_keep_their_times() -> None:
    histories = random_shop(2, users=300)
    noisy = noisy_histories(histories, NoiseConfig(events=0.3), 0)
    changed = (noisy.product_index != histories.product_index).mean()
    assert changed == pytest.approx(0.3, abs=0.05)
    assert (noisy.at_ms == histories.at_ms).all()
    assert (noisy.offsets == histories.offsets).all()


def test_noise_in_training_leaves_the_questions_and_noise_in_questions_leaves_training() -> None:
    snapshot = small_shop()
    split, noise = make_split(snapshot, SplitConfig()), NoiseConfig(events=0.5)
    learned = noisy_training(split, noise)
    assert (learned.train.product_index != split.train.product_index).any()
    assert (learned.validation.known.product_index == learned.train.product_index).all()
    question, before = learned.questions[0], split.questions[0]
    assert (question.test.histories.product_index == before.test.histories.product_index).all()
    assert (question.test.truth_product_index == before.test.truth_product_index).all()
    asked = noisy_question(before, noise)
    assert (asked.test.histories.product_index != before.test.histories.product_index).any()
    assert (asked.test.known.product_index == before.test.known.product_index).all()


@pytest.mark.parametrize("protocol", ["leave-one-out", "temporal", "cold-users"])
def test_noise_in_questions_changes_nothing_of_what_may_be_ranked(protocol: str) -> None:
    split = make_split(
        small_shop(), SplitConfig.model_validate({"protocol": protocol, "test_days": 3, "validation_days": 3})
    )
    for question in split.questions:
        asked = noisy_question(question, NoiseConfig(events=0.5))
        for before, after in ((question.validation, asked.validation), (question.test, asked.test)):
            assert (before.seen is None) == (after.seen is None)
            if before.seen is not None and after.seen is not None:
                assert (after.seen.product_index == before.seen.product_index).all()
