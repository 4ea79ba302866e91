"""What can be wrong with a shop's data, done to it on purpose: how far does quality fall?

Everything is drawn from a generator that is passed in, so that a comparison can be run again to the same result.
"""

import hashlib
import string
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from kg.snapshot import Edges, Histories, Snapshot
from model.case import Case, Question, Split

_DEALS = 30  # each offers every edge an exchange


class NoiseConfig(BaseModel):
    """How much is wrong; each a share between 0 and 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    titles: float = Field(0, ge=0, le=1, description="share of the words of titles that have a typo or are gone")
    facts_removed: float = Field(0, ge=0, le=1, description="share of the facts of each relation that are gone")
    facts_wrong: float = Field(0, ge=0, le=1, description="share of the facts of each relation with another tail")
    events: float = Field(0, ge=0, le=1, description="share of the interactions with a random product")
    seed: int = Field(7, ge=0, le=2**31 - 1, description="seed of what goes wrong where")


def noisy_snapshot(snapshot: Snapshot, noise: NoiseConfig) -> Snapshot:
    """Return the snapshot with noise in its titles and facts; its interactions stay."""
    if not (noise.titles or noise.facts_removed or noise.facts_wrong):
        return snapshot
    generator = np.random.default_rng([noise.seed, 1])
    facts = {
        name: _noisy_facts(edges, noise.facts_removed, noise.facts_wrong, generator)
        for name, edges in snapshot.facts.items()
    }
    return renamed(
        replace(snapshot, facts=facts, catalogue=_noisy_titles(snapshot.catalogue, noise.titles, generator)),
        noise.model_dump_json(exclude={"events"}),
    )


def noisy_histories(histories: Histories, noise: NoiseConfig, stream: int) -> Histories:
    """Return histories some of whose interactions are with a random one of the products that anybody had.

    Args:
        histories: any histories.
        noise: how much.
        stream: tells apart draws of one seed.
    """
    if not noise.events or not len(histories.product_index):
        return histories
    generator = np.random.default_rng([noise.seed, 2, stream])
    had = np.unique(histories.product_index)
    wrong = generator.random(len(histories.product_index)) < noise.events
    products = np.where(wrong, generator.choice(had, len(wrong)), histories.product_index)
    return replace(histories, product_index=products.astype(np.int32))


def noisy_training(split: Split, noise: NoiseConfig) -> Split:
    """Return the split with noise in what is learned from; what is asked, and with which histories, stays."""
    if not noise.events:
        return split

    def learned(case: Case) -> Case:
        return replace(case, known=noisy_histories(case.known, noise, 0), given=case.histories)

    return replace(
        split,
        train=noisy_histories(split.train, noise, 0),
        validation=learned(split.validation),
        test=learned(split.test),
        questions=tuple(
            replace(question, validation=learned(question.validation), test=learned(question.test))
            for question in split.questions
        ),
    )


def noisy_question(question: Question, noise: NoiseConfig) -> Question:
    """Return a question asked with noise in the histories of those who ask; what may be ranked for them stays."""

    def asked(case: Case, stream: int) -> Case:
        had = case.histories if case.had is None else case.had
        return replace(case, given=noisy_histories(case.histories, noise, stream), had=had)

    return replace(question, validation=asked(question.validation, 1), test=asked(question.test, 2))


def shuffled_facts(snapshot: Snapshot, seed: int = 7) -> Snapshot:
    """Return the snapshot with the tails of each relation dealt out anew: every node keeps its number of facts."""
    generator = np.random.default_rng([seed, 3])
    facts = {name: _dealt(edges, generator) for name, edges in snapshot.facts.items()}
    return renamed(replace(snapshot, facts=facts), f"shuffled-{seed}")


def _dealt(edges: Edges, generator: np.random.Generator) -> Edges:
    """Return edges of which pairs have exchanged their tails, again and again, where that gave no edge twice."""
    head, tail = edges.head.astype(np.int64), edges.tail.astype(np.int64)
    for _ in range(_DEALS):
        one, other = generator.permutation(len(tail))[: len(tail) // 2 * 2].reshape(2, -1)
        keys = np.concatenate([head[one] << 32 | tail[other], head[other] << 32 | tail[one]])
        known = np.isin(keys, head << 32 | tail)
        _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
        loops = np.concatenate([head[one] == tail[other], head[other] == tail[one]])
        right = ~(known | loops | (counts[place] > 1)).reshape(2, -1).any(0)
        one, other = one[right], other[right]
        tail[one], tail[other] = tail[other], tail[one]
    return _unique(edges.head, tail.astype(np.int32))


def without_facts(snapshot: Snapshot) -> Snapshot:
    """Return the snapshot without facts; texts and interactions stay."""
    return renamed(replace(snapshot, facts={}), "no facts")


def renamed(snapshot: Snapshot, change: str) -> Snapshot:
    """Return a changed snapshot with a content hash that says so."""
    digest = hashlib.blake2b(change.encode(), digest_size=8).hexdigest()
    return replace(snapshot, content_hash=f"{snapshot.content_hash}-{digest}")


def typed_badly(title: str, share: float, generator: np.random.Generator) -> str:
    """Return a title each of whose words has a typo, or is gone, by chance; one word always stays."""
    words = title.split()
    kept = []
    for word, draw in zip(words, generator.random(len(words)), strict=True):
        if draw >= share:
            kept.append(word)
        elif draw >= share / 2:
            kept.append(_typo(word, generator))
    return " ".join(kept or words[:1])


def _typo(word: str, generator: np.random.Generator) -> str:
    """Return a word with two letters exchanged, one gone, or one that is wrong."""
    at = int(generator.integers(0, len(word)))
    kind = int(generator.integers(0, 3))
    if kind == 0 and len(word) > 1:
        at = min(at, len(word) - 2)
        return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
    if kind == 1 and len(word) > 1:
        return word[:at] + word[at + 1 :]
    return word[:at] + str(generator.choice(list(string.ascii_lowercase))) + word[at + 1 :]


def _noisy_titles(catalogue: pa.Table, share: float, generator: np.random.Generator) -> pa.Table:
    if not share:
        return catalogue
    titles, texts = [], []
    for title, text in zip(catalogue["title"].to_pylist(), catalogue["text"].to_pylist(), strict=True):
        clean = title.strip()
        bad = typed_badly(clean, share, generator)
        titles.append(bad)
        texts.append(bad + text[len(clean) :] if text.startswith(clean) else text)
    for name, values in (("title", titles), ("text", texts)):
        catalogue = catalogue.set_column(catalogue.column_names.index(name), name, pa.array(values, pa.string()))
    return catalogue


def _noisy_facts(edges: Edges, removed: float, wrong: float, generator: np.random.Generator) -> Edges:
    if not len(edges):
        return edges
    draw = generator.random(len(edges))
    tail = np.where(draw >= 1 - wrong, generator.choice(edges.tail, len(edges)), edges.tail)
    kept = draw >= removed
    return _unique(edges.head[kept], tail[kept])


def _unique(head: npt.NDArray[np.int32], tail: npt.NDArray[np.int32]) -> Edges:
    pairs = np.unique(np.stack([head, tail], axis=1), axis=0)
    return Edges(np.ascontiguousarray(pairs[:, 0]), np.ascontiguousarray(pairs[:, 1]))
