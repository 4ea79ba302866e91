"""Names of relations as the graph writes them."""

import re

import pyarrow as pa

from kg.casting import texts

_WELL_FORMED = re.compile(r"[A-Z][A-Z0-9_]*")
_OTHER = re.compile(r"[^A-Z0-9]+")


def relation_name(name: str) -> str:
    """Return a relation's name as `[A-Z][A-Z0-9_]*`: `film.film.genre` is FILM_FILM_GENRE.

    A name that is of this form already stays as it is; so does one without a letter or digit, for the quality check to
    refuse.
    """
    if _WELL_FORMED.fullmatch(name):
        return name
    plain = _OTHER.sub("_", name.upper()).strip("_")
    return f"R_{plain}" if plain[:1].isdigit() else plain or name


def relation_names(column: pa.ChunkedArray | pa.Array) -> pa.Array:
    """Return a column with every relation's name normalised; null where it isn't text."""
    encoded = texts(column).dictionary_encode()
    names = [relation_name(name) for name in encoded.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(encoded.indices)
