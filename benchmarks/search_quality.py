"""Known-item search on Amazon's Beauty: words alone, meaning alone, both, and both ranked for the user who is looking.

    python -m benchmarks.search_quality ARTIFACT [--data ../shared/data] [--users 3000]

ARTIFACT is a model that was trained leave-one-out on Beauty (`configs/beauty-no-also.toml`), so that no user's last
product is known to it. That product is the one looked for, by a query made from its title:

    exact       the title
    dropped     three of its words, in their order
    typos       four of its words, two of them mistyped: a letter left out, added, changed, or swapped with the next
    synonyms    three of its words, each that has one replaced by another word for the same thing; at least one has

Half of the users learn the weights of the fusion and of the user (a grid, best mean over the kinds); the other half are
judged by MRR@10 over all products. Prints a table, and one JSON line.
"""

import argparse
import json
import os
import platform
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from kg.snapshot import Snapshot
from model.artifact import Artifact, load_artifact
from model.compare.data import DataConfig, read_snapshot
from model.scoring import TEXT, full_scores
from server.lifts import SEARCH_WEIGHT
from server.search.finder import LEAST_COSINE, MEANING_SHARE
from server.search.meaning import MeaningIndex, QueryEncoder
from server.search.reader import query_reader
from server.search.spelling import Speller
from server.search.words import WordIndex, typed_words

ROOT = Path(__file__).parent.parent
CACHE = Path(".kgrank/cache")
AT = 10
DEPTH = 200
RRF_K = 60
SHARES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)
WEIGHTS = (5.0, 10.0, 15.0, 20.0, 30.0, 50.0)
SYNONYMS = {
    "shampoo": "hair wash",
    "conditioner": "hair softener",
    "perfume": "fragrance",
    "cologne": "scent",
    "parfum": "perfume",
    "lotion": "moisturizer",
    "cream": "moisturiser",
    "moisturizer": "hydrating cream",
    "cleanser": "face wash",
    "soap": "bar wash",
    "lipstick": "lip color",
    "gloss": "lip shine",
    "mascara": "lash color",
    "eyeliner": "eye pencil",
    "eyeshadow": "lid color",
    "foundation": "base makeup",
    "concealer": "cover up",
    "blush": "cheek color",
    "polish": "lacquer",
    "nail": "manicure",
    "nails": "manicure",
    "brush": "applicator",
    "brushes": "applicators",
    "razor": "shaver",
    "deodorant": "antiperspirant",
    "sunscreen": "sunblock",
    "wig": "hairpiece",
    "dryer": "blower",
    "straightener": "flat iron",
    "curling": "curl",
    "serum": "concentrate",
    "mask": "facial pack",
    "scrub": "exfoliator",
    "toner": "astringent",
    "anti": "against",
    "aging": "wrinkles",
    "wrinkle": "fine lines",
    "acne": "pimples",
    "whitening": "brightening",
    "kit": "set",
    "set": "kit",
    "bag": "pouch",
    "case": "box",
    "oil": "essence",
}

Float32s = npt.NDArray[np.float32]
Int64s = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Looked:
    """A query, what it is to find, and what words and meaning say of the products that either of them brings.

    Shapes, N products: `product_index [N]`, `bm25 [N]`, `cosine [N]` and `base [N]`, the user's score in standard
    deviations. `alone` has the rankings of each part by itself.
    """

    target: int
    product_index: Int64s
    bm25: Float32s
    cosine: Float32s
    base: Float32s
    alone: dict[str, Int64s]


class Judge:
    """Looks queries up in every way that is compared."""

    def __init__(self, artifact: Artifact, snapshot: Snapshot) -> None:
        self._words = WordIndex.build(snapshot)
        self._speller = Speller(self._words.vocabulary)
        scorer = artifact.scorer
        self._encoder = QueryEncoder(query_reader(scorer.network.config.text, CACHE), artifact.kernel)
        self._meaning = MeaningIndex(scorer.matrix, scorer.blocks[TEXT])

    def look(self, query: str, target: int, base: Float32s) -> Looked:
        """Look a query up."""
        corrected = self._speller.corrected(query) or query
        raw_vector, vector = self._encoder.encode([query, corrected])
        raw, _ = self._words.find(query, DEPTH)
        worded, bm25 = self._words.find(corrected, DEPTH)
        near, cosine = self._meaning.find(vector, DEPTH)
        found = np.union1d(worded, near[cosine >= LEAST_COSINE])
        scored = np.zeros(len(found), np.float32)
        scored[np.searchsorted(found, worded)] = bm25
        alone = {
            "BM25": raw,
            "BM25, typing errors mended": worded,
            "text": self._meaning.find(raw_vector, DEPTH)[0],
            "text, typing errors mended": near,
        }
        return Looked(target, found, scored, self._meaning.cosine(vector, found), base[found], alone)


def fused(looked: Looked, share: float) -> Float32s:
    """Return how well each product fits, by a convex combination (`server.search.finder`)."""
    words = looked.bm25 / max(float(looked.bm25.max(initial=0)), 1e-9)
    return (1 - share) * words + share * np.maximum(looked.cosine, 0)


def by_reciprocal_rank(looked: Looked) -> Float32s:
    """Return how well each product fits, by reciprocal rank fusion (Cormack et al. 2009)."""
    score = np.zeros(len(looked.product_index), np.float32)
    for name in ("BM25, typing errors mended", "text, typing errors mended"):
        rank = {index: place for place, index in enumerate(looked.alone[name].tolist(), start=1)}
        score += [1 / (RRF_K + rank[each]) if each in rank else 0 for each in looked.product_index.tolist()]
    return score


def reciprocal_rank(ranked: Int64s, target: int) -> float:
    """Return 1 / the target's place among the first ten, 0 if it is not there."""
    place = np.flatnonzero(ranked[:AT] == target)
    return 1.0 / (1 + int(place[0])) if len(place) else 0.0


def by_score(looked: Looked, score: Float32s) -> float:
    """Return the reciprocal rank of the target in the order of a score."""
    return reciprocal_rank(looked.product_index[np.argsort(-score, kind="stable")], looked.target)


def main() -> None:
    """Judge, and print a table and one JSON line."""
    options = _options()
    torch.set_num_threads(1)
    artifact = load_artifact(options.artifact)
    snapshot = beauty_snapshot(options.data, artifact)
    judge = Judge(artifact, snapshot)
    targets, base = users_before_last(artifact, snapshot, options.users)
    titles = snapshot.catalogue["title"].to_pylist()
    generator = np.random.default_rng(0)
    kinds: dict[str, list[Looked | None]] = {name: [] for name in ("exact", "dropped", "typos", "synonyms")}
    for target, of_user in zip(targets.tolist(), base, strict=True):
        for kind, looks in kinds.items():
            query = QUERIES[kind](titles[target], generator)
            looks.append(judge.look(query, target, of_user) if query else None)
    half = len(targets) // 2
    learn = {kind: [each for each in looks[:half] if each] for kind, looks in kinds.items()}
    test = {kind: [each for each in looks[half:] if each] for kind, looks in kinds.items()}
    share = max(SHARES, key=lambda t: _mean(learn, lambda each: by_score(each, fused(each, t))))
    for_user = max(
        product(SHARES, WEIGHTS),
        key=lambda tw: _mean(learn, lambda each: by_score(each, tw[1] * fused(each, tw[0]) + each.base)),
    )
    ways: dict[str, Callable[[Looked], float]] = {
        name: lambda each, name=name: reciprocal_rank(each.alone[name], each.target)  # type: ignore[misc]  # bound now
        for name in ("BM25", "BM25, typing errors mended", "text", "text, typing errors mended")
    }
    ways["both, by reciprocal rank"] = lambda each: by_score(each, by_reciprocal_rank(each))
    ways["both"] = lambda each: by_score(each, fused(each, MEANING_SHARE))
    ways["both, and the user (served)"] = lambda each: by_score(
        each, SEARCH_WEIGHT * fused(each, MEANING_SHARE) + each.base
    )
    ways["both, weights learned here"] = lambda each: by_score(each, fused(each, share))
    ways["both, and the user, weights learned here"] = lambda each: by_score(
        each, for_user[1] * fused(each, for_user[0]) + each.base
    )
    table = {name: {kind: _mrr(looks, way) for kind, looks in test.items()} for name, way in ways.items()}
    _print(table, test)
    print(
        json.dumps(
            {
                "benchmark": "search_quality",
                "mrr@10": table,
                "queries": {kind: len(looks) for kind, looks in test.items()},
                "served": {"meaning_share": MEANING_SHARE, "search_weight": SEARCH_WEIGHT},
                "learned": {"meaning_share": share, "with_user": for_user},
                "products": len(snapshot.products),
                "model": artifact.manifest.model_version,
                "versions": {name: version(name) for name in ("tantivy", "rapidfuzz", "torch", "transformers")},
                "machine": f"{platform.machine()}, {os.cpu_count()} cores",
            }
        )
    )


def dropped(title: str, generator: np.random.Generator, most: int = 3) -> str:
    """Return some words of a title, in their order."""
    words = list(dict.fromkeys(typed_words(title)))
    kept = generator.choice(len(words), min(most, len(words)), replace=False) if words else []
    return " ".join(words[place] for place in sorted(kept))


def mistyped(title: str, generator: np.random.Generator) -> str:
    """Return four words of a title, two of them mistyped; only words of five letters and more are."""
    words = dropped(title, generator, 4).split()
    long = [place for place, word in enumerate(words) if len(word) >= 5 and word.isalpha()]
    for place in generator.permutation(long)[:2]:
        words[place] = _with_error(words[place], generator)
    return " ".join(words)


def _with_error(word: str, generator: np.random.Generator) -> str:
    at = int(generator.integers(1, len(word)))
    letter = "abcdefghijklmnopqrstuvwxyz"[generator.integers(26)]
    return (
        word[:at] + word[at + 1 :],
        word[:at] + letter + word[at:],
        word[:at] + letter + word[at + 1 :],
        word[: at - 1] + word[at] + word[at - 1] + word[at + 1 :],
    )[generator.integers(4)]


def in_other_words(title: str, generator: np.random.Generator) -> str:
    """Return three words of a title in other words where there are some; empty where none of its words has another."""
    words = list(dict.fromkeys(typed_words(title)))
    known = [word for word in words if word in SYNONYMS]
    if not known:
        return ""
    others = [word for word in words if word not in known[:1]]
    kept = {known[0], *generator.choice(others, min(2, len(others)), replace=False)} if others else {known[0]}
    return " ".join(SYNONYMS.get(word, word) for word in words if word in kept)


QUERIES: dict[str, Callable[[str, np.random.Generator], str]] = {
    "exact": lambda title, generator: title,
    "dropped": dropped,
    "typos": mistyped,
    "synonyms": in_other_words,
}


def users_before_last(artifact: Artifact, snapshot: Snapshot, count: int) -> tuple[Int64s, Float32s]:
    """Return the last product of some users, and their scores of all products `[B, P]` before they had it."""
    histories = snapshot.histories
    users = np.random.default_rng(1).choice(len(histories), min(count, len(histories)), replace=False)
    last = histories.offsets[users + 1] - 1
    keep = np.ones(len(histories.product_index), np.bool_)
    keep[last] = False
    known = histories.where(keep).take(users)
    blocks = []
    for start in range(0, len(users), 256):
        rows = np.arange(start, min(start + 256, len(users)))
        vectors = artifact.scorer.encode_users(known.take(rows), np.asarray(histories.at_ms)[last[rows]])
        scores = full_scores(artifact.scorer, vectors).numpy()
        # By the scale that serving adds a fit in.
        inner = (vectors.vectors @ artifact.scorer.matrix.T).numpy()
        blocks.append(scores / inner.std(1, keepdims=True))
    return np.asarray(histories.product_index)[last].astype(np.int64), np.concatenate(blocks)


def beauty_snapshot(data: Path, artifact: Artifact) -> Snapshot:
    tables = {name: (Path(f"amazon-beauty/{name}.parquet"),) for name in ("interactions", "products")}
    config = DataConfig(
        source="tables",
        map_file=Path("beauty-map.toml"),
        facts=(Path("amazon-beauty/relations.parquet"),),
        **tables,
    )
    snapshot = read_snapshot(config, data, ROOT / "configs", CACHE)
    if not artifact.products.array.equals(snapshot.products.array):
        raise SystemExit(f"model {artifact.manifest.model_version} was not trained on these products")
    return snapshot


def _mrr(looks: list[Looked], way: Callable[[Looked], float]) -> float:
    return round(float(np.mean([way(each) for each in looks])), 4)


def _mean(kinds: dict[str, list[Looked]], way: Callable[[Looked], float]) -> float:
    return float(np.mean([np.mean([way(each) for each in looks]) for looks in kinds.values()]))


def _print(table: dict[str, dict[str, float]], test: dict[str, list[Looked]]) -> None:
    print("| MRR@10 | " + " | ".join(f"{kind} ({len(looks)})" for kind, looks in test.items()) + " |")
    print("|---|" + "---|" * len(test))
    for name, row in table.items():
        print(f"| {name} | " + " | ".join(f"{value:.3f}".lstrip("0") for value in row.values()) + " |")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path, help="folder of a model trained leave-one-out on Beauty")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the data sets")
    parser.add_argument("--users", type=int, default=3000)
    return parser.parse_args()


if __name__ == "__main__":
    main()
