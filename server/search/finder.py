"""What fits a query, and how well: words and meaning, fused.

    fit(q, p) = (1 − t) bm25(q, p) / max_p bm25(q, p) + t max(0, cos(q, p))          from 0 to 1

a convex combination (Bruch, Gai and Ingber 2023, arXiv:2210.11934): unlike fused ranks it keeps how far the first is
ahead of the second. The share t of meaning was learned on known-item queries (`benchmarks/search_quality.py`). Words
are looked for as they were mended; what has none of them must be near by meaning.

A very common word fits more products alike than can be ranked: the best by either part come into question, as many as
`BEST_BY_WORDS` and `BEST_BY_MEANING`, and besides them those that are named.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from kg.snapshot import Snapshot
from model.artifact import Artifact
from model.scoring import TEXT
from server.question import Fit
from server.search.meaning import MeaningIndex, QueryEncoder
from server.search.reader import query_reader
from server.search.spelling import Speller
from server.search.tokens import normalised
from server.search.words import WordIndex

MEANING_SHARE = 0.3
"""t."""

LEAST_COSINE = 0.3
"""A product without any of the words fits from here on: what has nothing to do with a query comes to .1 to .3."""

BEST_BY_WORDS = 2000
"""So many come into question, more for long lists; fewer where few of the best pass a filter: more take long."""

BEST_BY_MEANING = 200
"""So many come into question, more for long lists, and up to `BEST_BY_WORDS` where others are as near as the last."""

_ALIKE = 1e-5  # cosines of equal texts

Int64s = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Float32s = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Asked:
    """A query to find products for.

    Args:
        query: what was typed.
        k: results wanted of a search.
        allowed: `[P]` which products may be found; None: all.
        named: some of those, which are found wherever they stand among what fits, if they fit at all.
    """

    query: str
    k: int
    allowed: Bools | None = None
    named: Int64s = field(default_factory=lambda: np.empty(0, np.int64))


class Finder:
    """Finds products of one catalogue for one model. Safe to share between threads.

    Args:
        words: the catalogue's words.
        meaning: the model's text component of it; None where the model has none.
        encoder: reads queries for it.
        speller: of these words, where there is one.
    """

    def __init__(
        self,
        words: WordIndex,
        meaning: MeaningIndex | None,
        encoder: QueryEncoder | None,
        speller: Speller | None = None,
    ) -> None:
        self.words = words
        self._speller = speller or Speller(words.vocabulary)
        self._meaning = meaning
        self.encoder = encoder

    @classmethod
    def build(
        cls, artifact: Artifact, snapshot: Snapshot, cache_folder: Path, before: "Finder | None" = None
    ) -> "Finder":
        """Build a finder.

        Args:
            artifact: the model, over the snapshot's products.
            snapshot: the catalogue.
            cache_folder: where compiled text encoders are kept.
            before: of the same catalogue and another model, whose words are taken.

        Raises:
            ModelError: the text encoder can't be loaded.
        """
        words = WordIndex.build(snapshot) if before is None else before.words
        speller = None if before is None else before._speller
        matrix, columns = artifact.scorer.matrix, artifact.scorer.blocks[TEXT]
        if columns.stop == columns.start:
            return cls(words, None, None, speller)
        reader = query_reader(artifact.scorer.network.config.text, cache_folder)
        return cls(words, MeaningIndex(matrix, columns), QueryEncoder(reader, artifact.kernel), speller)

    def following(self, artifact: Artifact, snapshot: Snapshot) -> "Finder":
        """Return the finder of a changed catalogue, which keeps what queries were read.

        Args:
            artifact: the same model over it.
            snapshot: the changed catalogue.
        """
        words = self.words.following(snapshot)
        speller = self._speller if words is self.words else None
        meaning = None if self._meaning is None else self._meaning.following(artifact.scorer.matrix)
        return Finder(words, meaning, self.encoder, speller)

    def find(self, asked: Sequence[Asked]) -> list[Fit]:
        """Return what fits each of some queries; they are read together."""
        corrected = [self._speller.corrected(each.query) for each in asked]
        texts = [mended or normalised(each.query) for mended, each in zip(corrected, asked, strict=True)]
        vectors = None if self.encoder is None else self.encoder.encode(texts)
        return [
            self._fit(each, texts[row], corrected[row], None if vectors is None else vectors[row])
            for row, each in enumerate(asked)
        ]

    def lean(self, searched: Sequence[tuple[str, float]]) -> Float32s | None:
        """Return where past searches point to in the text component `[K]`, at most of length 1; None without one.

        Args:
            searched: queries as they were typed, each with its weight, above 0 and up to 1.
        """
        if self.encoder is None or not searched:
            return None
        queries = [query for query, _ in searched]
        vectors = self.encoder.encode([self._speller.corrected(query) or normalised(query) for query in queries])
        weights = np.array([weight for _, weight in searched], np.float32)
        lean: Float32s = weights @ vectors / max(np.float32(1), weights.sum())
        return lean

    def fits(self, found: Fit, product_index: Int64s) -> Float32s:
        """Return how well some more products fit a query, 0 where one does not.

        Args:
            found: what was found for it.
            product_index: `[K]`, ascending.
        """
        vector = None if self.encoder is None else self.encoder.encode([found.text])[0]
        return self._fused(vector, product_index, self.words.scores(found.text, product_index), found.best)

    def pull(self, found: Fit) -> Float32s | None:
        """Return what a product's text component times this is `[K]`: how well one without the words fits by meaning.

        None where nothing fits by meaning.
        """
        if self._meaning is None or self.encoder is None:
            return None
        pull: Float32s = np.float32(MEANING_SHARE) * self.encoder.encode([found.text])[0]
        return pull

    def _fit(self, asked: Asked, text: str, corrected: str, vector: Float32s | None) -> Fit:
        fewest = max(BEST_BY_MEANING, 2 * asked.k)
        worded, bm25, whole = self.words.best(text, max(BEST_BY_WORDS, fewest), asked.allowed, fewest)
        near, whole_near = self._near(vector, fewest, asked.allowed)
        product_index = np.union1d(worded, np.union1d(near, asked.named))
        by_words = np.zeros(len(product_index), np.float32)
        by_words[np.searchsorted(product_index, worded)] = bm25
        if not whole:  # others may have the words, too
            rest = np.flatnonzero(by_words == 0)
            by_words[rest] = self.words.scores(text, product_index[rest])
        # Of the best in the whole catalogue as it is now, so that a filter does not change how well a product fits.
        first = bm25[:1] if asked.allowed is None else self.words.find(text, 1)[1]
        best = float(first[0]) if len(first) else 0.0
        fit = self._fused(vector, product_index, by_words, best)
        return Fit(product_index[fit > 0], fit[fit > 0], corrected, whole and whole_near, whole_near, text, best)

    def _near(self, vector: Float32s | None, depth: int, allowed: Bools | None) -> tuple[Int64s, bool]:
        """Return the products that fit by meaning best, all that are as near as the last, and whether no others fit."""
        if self._meaning is None or vector is None:
            return np.empty(0, np.int64), True
        sought = depth + 1
        near, cosine = self._meaning.find(vector, sought, allowed)
        if len(near) > depth and cosine[depth] > cosine[depth - 1] - _ALIKE:
            sought = max(BEST_BY_WORDS, sought)
            near, cosine = self._meaning.find(vector, sought, allowed)
        fits = cosine >= LEAST_COSINE
        kept = fits if len(near) <= depth else fits & (cosine > cosine[depth - 1] - _ALIKE)
        return near[kept], bool((kept == fits).all()) and (len(near) < sought or not fits[-1])

    def _fused(self, vector: Float32s | None, product_index: Int64s, by_words: Float32s, best: float) -> Float32s:
        """Return how well products fit by their BM25 `[K]` and by meaning; `best` is the best BM25 of all."""
        fit = by_words / np.float32(best) if best else by_words
        if self._meaning is not None and vector is not None:
            cosine = self._meaning.cosine(vector, product_index)
            cosine = np.where((by_words > 0) | (cosine >= LEAST_COSINE), np.maximum(cosine, 0), 0)
            fit = np.float32(1 - MEANING_SHARE) * fit + np.float32(MEANING_SHARE) * cosine
        return fit
