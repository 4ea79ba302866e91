"""The words of a catalogue as they are typed, and which of them may be near to a mistyped one.

A changed catalogue's lexicon shares the words with the one before and has what differs beside them, so that a change
costs what it touches; when an eighth of the words have changed, it is made anew.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

_CHANGED_SHARE = 8
_BITS = 63

UInt64s = npt.NDArray[np.uint64]


class Lexicon:
    """Words, and how many products have each. Immutable; safe to share between threads.

    Args:
        products: of each word.
    """

    def __init__(self, products: Mapping[str, int]) -> None:
        self._known = _Words(products)
        self._since: dict[str, int] = {}

    def __contains__(self, word: str) -> bool:
        return self.products(word) > 0

    def products(self, word: str) -> int:
        """Return how many products have a word."""
        count = self._since.get(word)
        return self._known.products.get(word, 0) if count is None else count

    def changed(self, gone: Mapping[str, int], come: Mapping[str, int]) -> "Lexicon":
        """Return the lexicon of a changed catalogue.

        Args:
            gone: how many products had a word and are no more, or read otherwise now.
            come: how many products that are new, or read otherwise now, have it.
        """
        since = dict(self._since)
        for word in gone.keys() | come.keys():
            since[word] = self.products(word) - gone.get(word, 0) + come.get(word, 0)
        if _CHANGED_SHARE * len(since) > len(self._known.products):
            together = {**self._known.products, **since}
            return Lexicon({word: count for word, count in together.items() if count > 0})
        made = Lexicon.__new__(Lexicon)
        made._known, made._since = self._known, since
        return made

    def near(self, word: str, most: int) -> list[str]:
        """Return words among which are all that are at most so many errors away; a number is none of them.

        An error makes a word one letter longer or shorter, and at most two letters stand in one word alone.
        """
        lengths, letters = range(len(word) - most, len(word) + most + 1), int(_letters([word], len(word))[0])
        found = [each for words in (self._known, self._new) for each in words.alike(letters, 2 * most, lengths)]
        return [each for each in found if each in self] if self._since else found

    @cached_property
    def _new(self) -> "_Words":
        known = self._known.products
        return _Words({word: count for word, count in self._since.items() if word not in known})


class _Words:
    """Words by length, with the letters of each."""

    def __init__(self, products: Mapping[str, int]) -> None:
        self.products = products
        self._of_length: dict[int, list[str]] = {}
        for word in products:
            if not word.isdigit():
                self._of_length.setdefault(len(word), []).append(word)
        self._letters_of_length: dict[int, UInt64s] = {}

    def alike(self, letters: int, most: int, lengths: Iterable[int]) -> list[str]:
        """Return the words of some lengths whose letters differ from others by at most so many."""
        found: list[str] = []
        for length in lengths:
            words = self._of_length.get(length)
            if words:
                if length not in self._letters_of_length:
                    self._letters_of_length[length] = _letters(words, length)
                differ = np.bitwise_count(self._letters_of_length[length] ^ np.uint64(letters))
                found += [words[place] for place in np.flatnonzero(differ <= most)]
        return found


def _letters(words: list[str], length: int) -> UInt64s:
    """Return which letters are in words of one length, as bits `[N]`; two letters may share one."""
    codes = np.array(words, f"U{length}").view(np.uint32).reshape(len(words), length)
    bits: UInt64s = np.bitwise_or.reduce(np.uint64(1) << (codes & _BITS).astype(np.uint64), axis=1)
    return bits
