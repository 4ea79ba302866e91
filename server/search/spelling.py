"""Typing errors: a word that no product has becomes the nearest one that products have.

Nearness is the number of letters to add, take out, change or swap with the next (Damerau 1964): one for short words,
two for longer ones; among equally near words the one of most products. What was typed with a space too many or too few
is mended as well.
"""

from collections.abc import Mapping

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA

from server.search.words import typed_words

_SHORTEST = 4
"""Shorter words are left alone: nearly everything is near to them."""
_TWO_ERRORS_FROM = 7
_KEPT_WORDS = 4096


class Speller:
    """Mends words by a catalogue's vocabulary. Safe to share between threads.

    Args:
        vocabulary: words, and how many products have each.
    """

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._products = vocabulary
        # By length: what is nearer than two letters is no more than two longer or shorter.
        self._of_length: dict[int, list[str]] = {}
        for word in vocabulary:
            if len(word) >= _SHORTEST - 1 and not word.isdigit():
                self._of_length.setdefault(len(word), []).append(word)
        # Not functools' cache: it would hold this object in a cycle, and a replaced engine must go at once.
        self._kept: dict[str, str] = {}

    def corrected(self, query: str) -> str:
        """Return the query's words with typing errors mended; empty where nothing was."""
        words = typed_words(query)
        mended = self._joined([part for word in words for part in self._mended(word).split()])
        return " ".join(mended) if mended != words else ""

    def _joined(self, words: list[str]) -> list[str]:
        """Join neighbours of which one is no word of the catalogue but both together are."""
        kept: list[str] = []
        for word in words:
            together = kept[-1] + word if kept else ""
            apart_known = kept and kept[-1] in self._products and word in self._products
            if together in self._products and not apart_known:
                kept[-1] = together
            else:
                kept.append(word)
        return kept

    def _mended(self, word: str) -> str:
        kept = self._kept.get(word)
        if kept is None:
            if len(self._kept) >= _KEPT_WORDS:
                self._kept.clear()
            kept = self._kept[word] = self._mend(word)
        return kept

    def _mend(self, word: str) -> str:
        if word in self._products or len(word) < _SHORTEST or any(map(str.isdigit, word)):
            return word
        most = 2 if len(word) >= _TWO_ERRORS_FROM else 1
        near = [
            each for length in range(len(word) - most, len(word) + most + 1) for each in self._of_length.get(length, ())
        ]
        distance = process.cdist([word], near, scorer=OSA.distance, score_cutoff=most, dtype=np.uint8)[0]
        if near and distance.min() <= most:
            best = [near[place] for place in np.flatnonzero(distance == distance.min())]
            # A wrong first letter is rare (Pollock and Zamora 1984); then the word of most products.
            return max(best, key=lambda each: (each[0] == word[0], self._products[each], each))
        return self._split(word)

    def _split(self, word: str) -> str:
        """Return two words of the catalogue that were typed as one; the word itself where there are none."""
        pairs = [(word[:place], word[place:]) for place in range(3, len(word) - 2)]
        known = [pair for pair in pairs if pair[0] in self._products and pair[1] in self._products]
        if not known:
            return word
        return " ".join(max(known, key=lambda pair: min(self._products[each] for each in pair)))
