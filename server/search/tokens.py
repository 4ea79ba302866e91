"""The words of texts and queries.

A text is read in Unicode's normal form NFKC. Its words are lower case and without accents; each Chinese or Japanese
character is a word of its own.
"""

import unicodedata
from typing import NamedTuple

import tantivy

_SPLIT = r"[\p{Han}\p{Hiragana}\p{Katakana}]|[\p{L}\p{M}\p{N}&&[^\p{Han}\p{Hiragana}\p{Katakana}]]+"
_LONGEST_WORD = 64
# NFKC makes letters of these, which would become part of the word before.
_NO_LETTERS = str.maketrans(dict.fromkeys("™℠Ⓡ", " "))


class TypedWord(NamedTuple):
    """A word as `typed_words` returns it, and the slice of the text that it stands in."""

    word: str
    start: int
    end: int


def normalised(text: str) -> str:
    """Return a text in normal form: a letter and its accent are one, wide and narrow letters are plain."""
    return text if text.isascii() else unicodedata.normalize("NFKC", text.translate(_NO_LETTERS))


def stems(text: str) -> list[str]:
    """Return the words of a text, reduced to their English stems."""
    return STEMMED.analyze(normalised(text))


def typed_words(text: str) -> list[str]:
    """Return the words of a text as they are typed."""
    return AS_TYPED.analyze(normalised(text))


def words_in_place(text: str) -> list[TypedWord]:
    """Return the words of a normalised text as they are typed, and where they are."""
    found, end = [], 0
    for piece in _PIECES.analyze(text):
        start = text.index(piece, end)
        end = start + len(piece)
        found += [TypedWord(word, start, end) for word in AS_TYPED.analyze(piece)]
    return found


def _analyzer(*filters: tantivy.Filter) -> tantivy.TextAnalyzer:
    builder = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.regex(_SPLIT))
    for each in filters:
        builder = builder.filter(each)
    return builder.build()


_PLAIN = (tantivy.Filter.lowercase(), tantivy.Filter.ascii_fold(), tantivy.Filter.remove_long(_LONGEST_WORD))
_PIECES = _analyzer()
AS_TYPED = _analyzer(*_PLAIN)
"""tantivy's analyzer that `typed_words` uses; of normalised texts."""
STEMMED = _analyzer(*_PLAIN, tantivy.Filter.stemmer("english"))
"""tantivy's analyzer that `stems` uses; of normalised texts."""
