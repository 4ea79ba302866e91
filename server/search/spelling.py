"""Typing errors: a word that no product has becomes the nearest one that products have.

Nearness is the number of letters to add, take out, change or swap with the next (Damerau 1964): one for short words,
two for longer ones; among equally near words the one of most products. What was typed with a space too many or too few
is mended as well.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import OSA

from server.search.lexicon import Lexicon
from server.search.tokens import TypedWord, normalised, words_in_place
from server.search.words import MOST_WORDS

_SHORTEST = 4
"""Shorter words are left alone: nearly everything is near to them."""
_TWO_ERRORS_FROM = 7
_KEPT_WORDS = 4096


@dataclass(frozen=True, slots=True)
class _Part:
    """A word, where it stands in the query, and what is to stand there; None: what was typed."""

    word: str
    start: int
    end: int
    mended: str | None = None


class Speller:
    """Mends words by those of a catalogue. Safe to share between threads.

    Args:
        lexicon: the words that products have.
    """

    def __init__(self, lexicon: Lexicon) -> None:
        self._lexicon = lexicon
        # Not functools' cache: it would hold this object in a cycle, and a replaced engine must go at once.
        self._kept: dict[str, str] = {}

    def corrected(self, query: str) -> str:
        """Return the query with the typing errors in its first `MOST_WORDS` words mended; empty where there are none.

        What is right is left as it was typed, but for Unicode's normal form.
        """
        text = normalised(query)
        parts = self._joined([part for word in _first(words_in_place(text)) for part in self._parts(word)])
        if all(part.mended is None for part in parts):
            return ""
        written, end = "", 0
        for part in parts:
            written += text[end : part.start]
            written += text[part.start : part.end] if part.mended is None else part.mended
            end = part.end
        return written + text[end:]

    def _parts(self, typed: TypedWord) -> Iterator[_Part]:
        """Return a word as it is to be written: as two where a space is missing."""
        first, _, second = self._mended(typed.word).partition(" ")
        yield _Part(first, typed.start, typed.end, first if first != typed.word else None)
        if second:
            yield _Part(second, typed.end, typed.end, " " + second)

    def _joined(self, parts: list[_Part]) -> list[_Part]:
        """Join neighbours of which one is no word of the catalogue but both together are."""
        kept: list[_Part] = []
        for part in parts:
            before = kept[-1] if kept else part
            together = before.word + part.word
            apart_known = before.word in self._lexicon and part.word in self._lexicon
            if kept and together in self._lexicon and not apart_known:
                lead = " " if before.start == before.end else ""
                kept[-1] = _Part(together, before.start, part.end, lead + together)
            else:
                kept.append(part)
        return kept

    def _mended(self, word: str) -> str:
        kept = self._kept.get(word)
        if kept is None:
            if len(self._kept) >= _KEPT_WORDS:
                self._kept.clear()
            kept = self._kept[word] = self._mend(word)
        return kept

    def _mend(self, word: str) -> str:
        if word in self._lexicon or len(word) < _SHORTEST or any(map(str.isdigit, word)):
            return word
        most = 2 if len(word) >= _TWO_ERRORS_FROM else 1
        near = self._lexicon.near(word, most)
        distance = process.cdist([word], near, scorer=OSA.distance, score_cutoff=most, dtype=np.uint8)[0]
        if near and distance.min() <= most:
            best = [near[place] for place in np.flatnonzero(distance == distance.min())]
            # A wrong first letter is rare (Pollock and Zamora 1984); then the word of most products.
            return max(best, key=lambda each: (each[0] == word[0], self._lexicon.products(each), each))
        return self._split(word)

    def _split(self, word: str) -> str:
        """Return two words of the catalogue that were typed as one; the word itself where there are none."""
        pairs = [(word[:place], word[place:]) for place in range(3, len(word) - 2)]
        known = [pair for pair in pairs if pair[0] in self._lexicon and pair[1] in self._lexicon]
        if not known:
            return word
        return " ".join(max(known, key=lambda pair: min(self._lexicon.products(each) for each in pair)))


def _first(words: list[TypedWord]) -> Iterator[TypedWord]:
    """Return the words before those that are not looked for any more."""
    distinct: set[str] = set()
    for each in words:
        distinct.add(each.word)
        if len(distinct) > MOST_WORDS:
            return
        yield each
