"""Names of relations as the graph writes them."""

import re

import pyarrow as pa

from kg.casting import plain
from kg.sources.raw import spelled

_WELL_FORMED = re.compile(r"[A-Z][A-Z0-9_]*")
_OTHER = re.compile(r"[^A-Z0-9]+")


def relation_name(name: str) -> str:
    """Return a relation's name as `[A-Z][A-Z0-9_]*`: `film.film.genre` is FILM_FILM_GENRE.

    A name that is of this form already stays as it is. So does one without a letter or digit, or with one outside
    ASCII, for the quality check to refuse: two such names may differ in nothing else.
    """
    if _WELL_FORMED.fullmatch(name) or not all(letter.isascii() or not letter.isalnum() for letter in name):
        return name
    normal = _OTHER.sub("_", name.upper()).strip("_")
    return f"R_{normal}" if normal[:1].isdigit() else normal or name


def relation_names(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column with every relation's name normalised, in bytes: what isn't UTF-8 stays, to be refused."""
    if pa.types.is_nested(column.type):
        return plain(column)
    found = plain(spelled(column)).dictionary_encode()
    names = [_normal_bytes(name) for name in found.dictionary.to_pylist()]
    return pa.array(names, pa.binary()).take(found.indices)


def _normal_bytes(name: bytes) -> bytes:
    try:
        return relation_name(name.decode("utf-8")).encode()
    except UnicodeDecodeError:
        return name
