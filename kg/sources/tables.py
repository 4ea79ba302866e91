"""The canonical tables as CSV, JSON lines or Parquet files, with a mapping for columns of other names."""

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import as_text, attribute_texts, cast
from kg.errors import DataError
from kg.sources.files import read_file
from kg.sources.mapping import ColumnMapping, ColumnRule
from kg.sources.names import relation_names
from kg.sources.raw import ORIGIN, RAW_ATTRIBUTES, Raw, RawTable, encoded, spelled, stacked
from kg.tables import ATTRIBUTES, SCHEMAS


@dataclass(frozen=True)
class TableFiles:
    """The files of each table; a table may have none, or several that are read one after another."""

    interactions: tuple[Path, ...] = ()
    products: tuple[Path, ...] = ()
    facts: tuple[Path, ...] = ()
    users: tuple[Path, ...] = ()
    delimiter: str | None = None


def read_tables(files: TableFiles, mapping: ColumnMapping | None = None) -> Raw:
    """Read canonical tables.

    Raises:
        DataError: no file is given, one can't be read, or lacks a column that the mapping names.
    """
    mapping = mapping or ColumnMapping()
    tables: dict[str, RawTable] = {}
    refused: list[pa.Table] = []
    notes: list[str] = []
    for name in SCHEMAS:
        paths: tuple[Path, ...] = getattr(files, name)
        if not paths:
            continue
        rows: list[pa.Table] = []
        columns: dict[str, None] = {}
        for path in paths:
            rules = mapping.of(name)
            found = read_file(path, name, delimiter=files.delimiter, spelled=_attribute_columns(rules))
            rows.append(_renamed(found.rows, name, rules, path))
            columns |= dict.fromkeys(_own_columns(found.rows))
            refused.append(found.refused)
            notes += found.notes
        at = mapping.of(name).get("at_ms")
        tables[name] = RawTable(stacked(rows), at.unit if at else None, file_columns=tuple(columns))
    if not tables:
        raise DataError("no table is given", "Give --interactions FILE, --products FILE, --facts FILE or --users FILE.")
    return Raw("tables", tables, pa.concat_tables(refused), notes=tuple(notes))


def _renamed(rows: pa.Table, table: str, rules: Mapping[str, ColumnRule], path: Path) -> pa.Table:
    """Return the canonical columns of a file that has them under any name."""
    columns: dict[str, pa.ChunkedArray] = {}
    for name in SCHEMAS[table].names:
        rule = rules.get(name, ColumnRule())
        if rule.constant is not None:
            columns[name] = pa.repeat(pa.scalar(rule.constant), len(rows))
            continue
        source = rule.column or name
        if source not in rows.column_names:
            if rule.column:
                raise _no_column(path, table, name, source, rows)
            continue
        if rule.split and pa.types.is_nested(rows[source].type):
            raise DataError(
                f"{path}: column {source!r}, which {table}.{name} splits by {rule.split!r}, is a list already",
                f"Leave --split {table}.{name} out.",
            )
        columns[name] = pc.split_pattern(spelled(rows[source]), rule.split) if rule.split else rows[source]
    if table == "facts" and "relation" in columns:
        columns["relation"] = relation_names(columns["relation"])
    if extra := _attribute_rules(rules):
        mapped = _attributes(rows, extra, table, path)
        columns["attributes"] = _merged(columns["attributes"], mapped, extra) if "attributes" in columns else mapped
    return pa.table(columns | {name: rows[name] for name in ORIGIN})


def _no_column(path: Path, table: str, name: str, source: str, rows: pa.Table) -> DataError:
    return DataError(
        f"{path} has no column {source!r}, which the mapping names for {table}.{name}",
        f"Its columns are: {', '.join(_own_columns(rows))}.",
    )


def _own_columns(rows: pa.Table) -> list[str]:
    return [name for name in rows.column_names if name and name not in ORIGIN]


def _attribute_rules(rules: Mapping[str, ColumnRule]) -> dict[str, ColumnRule]:
    """Return the rules of columns that become attributes, by the attribute's name."""
    return {name.partition(".")[2]: rule for name, rule in rules.items() if name.startswith("attributes.")}


def _attribute_columns(rules: Mapping[str, ColumnRule]) -> frozenset[str]:
    return frozenset(rule.column or name for name, rule in _attribute_rules(rules).items())


def _attributes(rows: pa.Table, rules: Mapping[str, ColumnRule], table: str, path: Path) -> pa.Array:
    values: dict[str, list[list[str]]] = {}
    for name, rule in rules.items():
        if rule.constant is not None:
            values[name] = [[rule.constant]] * len(rows)
        elif (rule.column or name) in rows.column_names:
            values[name] = attribute_texts(rows[rule.column or name])
        else:
            raise _no_column(path, table, f"attributes.{name}", rule.column or name, rows)
    names = sorted(values)
    pairs = [
        [(name, encoded(value)) for name, several in zip(names, row, strict=True) for value in several]
        for row in zip(*(values[name] for name in names), strict=True)
    ]
    return pa.array(pairs, RAW_ATTRIBUTES)


def _merged(own: pa.ChunkedArray | pa.Array, mapped: pa.Array, names: Collection[str]) -> pa.Array:
    """Return a file's own attributes as JSON, with the mapped ones in place of those of the same names.

    What can't be read stays as it is, for the quality check to refuse.
    """
    read = cast(own, ATTRIBUTES)
    merged: list[bytes | None] = []
    for text, bad, pairs, more in zip(
        spelled(own).to_pylist(), read.bad, read.values.to_pylist(), mapped.to_pylist(), strict=True
    ):
        if bad:
            merged.append(text)
            continue
        values: dict[str, list[str]] = {}
        for name, value in [pair for pair in pairs or [] if pair[0] not in names] + more:
            values.setdefault(name, []).append(as_text(value))
        merged.append(encoded(json.dumps(values, ensure_ascii=False)))
    return pa.array(merged, pa.binary())
