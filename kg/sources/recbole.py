"""RecBole's atomic files: .inter, .item, .user, .kg and .link, tab separated, with typed headers.

https://recbole.io/docs/user_guide/data/atomic_files.html. Its published data sets work unchanged. An entity of the .kg
file that .link joins to an item is that product; any other is a node of kind `entity`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import TimeUnit, cast, plain
from kg.errors import DataError
from kg.sources.delimited import read_delimited
from kg.sources.names import relation_name, relation_names
from kg.sources.raw import ORIGIN, RAW_ATTRIBUTES, REFUSALS, Raw, RawTable, stacked
from kg.sources.recbole_fields import Fields, fields_of_interactions, fields_of_items, guess_unit

SUFFIXES = (".inter", ".item", ".user", ".kg", ".link")
_TYPES = ("token", "token_seq", "float", "float_seq")


@dataclass(frozen=True)
class Atomic:
    """One atomic file: rows with the header's names, and each name's type."""

    path: Path
    rows: pa.Table
    types: Mapping[str, str]
    refused: pa.Table

    def names(self, *types: str) -> list[str]:
        """Return the columns of some types."""
        return [name for name, kind in self.types.items() if kind in types]


def read_recbole(place: Path, fields: Fields | None = None) -> Raw:
    """Read a data set's atomic files.

    Args:
        place: its folder, or one of its files.
        fields: names of columns that are not RecBole's usual ones.

    Raises:
        DataError: there are no atomic files, or a header is not RecBole's.
    """
    files = _files(place)
    found = {suffix: _read(path, suffix) for suffix, path in files.items()}
    notes: list[str] = []
    left_out: dict[str, int] = {}
    tables: dict[str, RawTable] = {}
    if ".inter" in found:
        tables["interactions"] = _interactions(found[".inter"], fields or Fields(), notes, left_out)
    facts: list[pa.Table] = []
    if ".item" in found:
        tables["products"], more = _products(found[".item"], notes)
        facts += more
    if ".user" in found:
        tables["users"] = _users(found[".user"], notes)
    if ".kg" in found:
        facts.append(_facts(found[".kg"], found.get(".link"), notes))
    if facts:
        tables["facts"] = RawTable(stacked(facts))
    refused = pa.concat_tables([REFUSALS.empty_table(), *(atomic.refused for atomic in found.values())])
    return Raw("recbole", tables, refused, {reason: rows for reason, rows in left_out.items() if rows}, tuple(notes))


def _files(place: Path) -> dict[str, Path]:
    if not place.exists():
        raise DataError(f"{place} does not exist", "Give the folder of a RecBole data set, or one of its files.")
    candidates = sorted(place.iterdir()) if place.is_dir() else sorted(place.parent.glob(f"{escape(place.stem)}.*"))
    files: dict[str, Path] = {}
    for path in candidates:
        if path.suffix not in SUFFIXES:
            continue
        if path.suffix in files:
            raise DataError(f"{place} has several {path.suffix} files", "Give one of them instead of the folder.")
        files[path.suffix] = path
    if not {".inter", ".item", ".kg"} & set(files):
        raise DataError(f"{place} has no RecBole files", f"Expected files that end in {', '.join(SUFFIXES)}.")
    return files


def _read(path: Path, suffix: str) -> Atomic:
    table = {".inter": "interactions", ".item": "products", ".user": "users"}.get(suffix, "facts")
    found = read_delimited(path, table, delimiter="\t", quoted=False)
    types: dict[str, str] = {}
    for column in found.rows.column_names:
        if column in ORIGIN:
            continue
        name, _, kind = column.rpartition(":")
        if not name or kind not in _TYPES:
            raise DataError(
                f"{path} line 1: column {column!r} has no type", f"RecBole's headers are name:type, of {_TYPES}."
            )
        if name in types or name in ORIGIN:
            raise DataError(f"{path} line 1 has a column {name!r} too many", "Rename it.")
        types[name] = kind
    return Atomic(path, found.rows.rename_columns([*types, *ORIGIN]), types, found.refused)


def _interactions(atomic: Atomic, given: Fields, notes: list[str], left_out: dict[str, int]) -> RawTable:
    fields = fields_of_interactions(atomic.path, atomic.types, given)
    rows = atomic.rows
    if fields.label:
        none = pc.fill_null(pc.less_equal(cast(rows[fields.label], pa.float64()).values, 0), False)
        rows = rows.filter(pc.invert(none))
        left_out["rows with label 0"] = len(atomic.rows) - len(rows)
        notes.append(f"{atomic.path.name}: {fields.label} is taken for clicked or not; rows with 0 are left out")
    columns = {"user_id": rows[fields.user], "product_id": rows[fields.item]}
    columns["type"] = pa.repeat(pa.scalar(fields.type), len(rows))
    unit = TimeUnit.MILLISECONDS
    if fields.rating:
        columns["value"] = rows[fields.rating]
    if fields.time:
        columns["at_ms"] = rows[fields.time]
        unit = guess_unit(rows[fields.time])
        notes.append(f"{atomic.path.name}: {fields.time} is taken for {unit.name.lower()}")
    else:
        columns["at_ms"] = pa.array(np.zeros(len(rows), np.int64))
        notes.append(f"{atomic.path.name} has no time: every interaction is set to 1970, in the file's order")
    used = {fields.user, fields.item, fields.rating, fields.time, fields.label}
    _note_unused(atomic, [name for name in atomic.types if name not in used], notes)
    return RawTable(pa.table(columns | {name: rows[name] for name in ORIGIN}), unit)


def _products(atomic: Atomic, notes: list[str]) -> tuple[RawTable, list[pa.Table]]:
    """Return the products, and facts for the columns that hold several values each (genres, say)."""
    fields = fields_of_items(atomic.types)
    rows = atomic.rows
    columns = {"product_id": rows[fields.item]}
    for target, name in (("title", fields.title), ("description", fields.description), ("brand", fields.brand)):
        if name:
            columns[target] = rows[name]
    if fields.price:
        columns["price"] = rows[fields.price]
    used = {fields.item, fields.title, fields.description, fields.brand, fields.price}
    columns["attributes"] = _attributes(rows, [name for name in atomic.names("token") if name not in used])
    many = [name for name in atomic.names("token_seq") if name not in used]
    _note_unused(atomic, [name for name in atomic.names("float", "float_seq") if name not in used], notes)
    facts = [_facts_of(rows, fields.item, name) for name in many]
    return RawTable(pa.table(columns | {name: rows[name] for name in ORIGIN})), facts


def _facts_of(rows: pa.Table, item: str, name: str) -> pa.Table:
    values = pc.split_pattern(plain(rows[name]), " ")
    owners = rows.select([item, *ORIGIN]).take(pc.list_parent_indices(values))
    facts = pa.table(
        {
            "head": owners[item],
            "relation": pa.repeat(pa.scalar(relation_name(f"HAS_{name}")), len(owners)),
            "tail": pc.list_flatten(values),
            "head_kind": pa.repeat(pa.scalar("product"), len(owners)),
            "tail_kind": pa.repeat(pa.scalar(relation_name(name).lower()), len(owners)),
        }
        | {column: owners[column] for column in ORIGIN}
    )
    return facts.filter(pc.not_equal(facts["tail"], b""))


def _users(atomic: Atomic, notes: list[str]) -> RawTable:
    names = list(atomic.types)
    user = "user_id" if "user_id" in names else names[0]
    _note_unused(atomic, [name for name in atomic.names("float_seq") if name != user], notes)
    extra = [name for name in atomic.names("token", "token_seq", "float") if name != user]
    columns = {"user_id": atomic.rows[user], "attributes": _attributes(atomic.rows, extra)}
    return RawTable(pa.table(columns | {name: atomic.rows[name] for name in ORIGIN}))


def _attributes(rows: pa.Table, names: list[str]) -> pa.Array:
    values = [rows[name].to_pylist() for name in names]
    if not names:
        return pa.array([[]] * len(rows), RAW_ATTRIBUTES)
    pairs = [
        [(name, value) for name, value in zip(names, row, strict=True) if value] for row in zip(*values, strict=True)
    ]
    return pa.array(pairs, RAW_ATTRIBUTES)


def _facts(kg: Atomic, link: Atomic | None, notes: list[str]) -> pa.Table:
    for name in ("head_id", "relation_id", "tail_id"):
        if name not in kg.types:
            raise DataError(f"{kg.path} has no column {name}", "A .kg file has head_id, relation_id and tail_id.")
    columns = {"relation": relation_names(kg.rows["relation_id"])}
    entities = items = pa.array([], pa.binary())
    if link is None:
        notes.append(f"{kg.path.name} has no .link file: none of its entities is a product")
    else:
        entities, items = _links(link)
    for end in ("head", "tail"):
        ids = plain(kg.rows[f"{end}_id"])
        linked = pc.index_in(ids, value_set=entities)
        columns[end] = pc.coalesce(items.take(linked), ids)
        columns[f"{end}_kind"] = pc.if_else(pc.is_valid(linked), "product", "entity")
    return pa.table(columns | {name: kg.rows[name] for name in ORIGIN})


def _links(link: Atomic) -> tuple[pa.Array, pa.Array]:
    """Return entity ids, each once, and the item of each."""
    item = next((name for name in link.types if name != "entity_id"), None)
    if "entity_id" not in link.types or item is None:
        raise DataError(f"{link.path} has no column entity_id beside an item's", "A .link file has item_id, entity_id.")
    entities, items = plain(link.rows["entity_id"]), plain(link.rows[item])
    _, first = np.unique(entities.dictionary_encode().indices.to_numpy(), return_index=True)
    chosen = pa.array(np.sort(first))
    return entities.take(chosen), items.take(chosen)


def _note_unused(atomic: Atomic, names: list[str], notes: list[str]) -> None:
    if names:
        notes.append(f"{atomic.path.name}: not used: {', '.join(names)}")
