"""How a file's columns become canonical ones: renamed, set to a constant, split, or read in another unit."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from kg.casting import TimeUnit
from kg.errors import DataError
from kg.tables import SCHEMAS

_KEYS = {"column", "constant", "split", "unit"}
_KEYS_OF_ATTRIBUTES = {"column", "constant"}


@dataclass(frozen=True)
class ColumnRule:
    """Where one canonical column comes from.

    Args:
        column: the file's column; the canonical name itself unless given.
        constant: a value for every row, instead of a column.
        split: separates the parts of a list in one text.
        unit: of a time given as a number.
    """

    column: str | None = None
    constant: str | None = None
    split: str | None = None
    unit: TimeUnit | None = None


@dataclass(frozen=True)
class ColumnMapping:
    """Rules by table and canonical column; `attributes.NAME` takes a file's column as an attribute, as it is."""

    rules: Mapping[str, Mapping[str, ColumnRule]] = field(default_factory=dict)

    def of(self, table: str) -> Mapping[str, ColumnRule]:
        """Return the rules of one table."""
        return self.rules.get(table, {})

    def with_rule(self, table: str, column: str, /, **changes: Any) -> "ColumnMapping":
        """Return the mapping with one column's rule changed.

        Raises:
            DataError: there is no such table or column, or it does not take what is given.
        """
        if table not in SCHEMAS:
            raise DataError(f"mapping: there is no table {table!r}", f"Use one of {', '.join(SCHEMAS)}.")
        names = SCHEMAS[table].names
        extra = column.startswith("attributes.") and "attributes" in names and len(column) > len("attributes.")
        if column not in names and not extra:
            choice = ", ".join(names) + (", attributes.NAME" if "attributes" in names else "")
            raise DataError(f"mapping: {table} has no column {column!r}", f"Use one of {choice}.")
        of_attributes = extra or column == "attributes"
        if changes.get("unit") is not None and not of_attributes and column != "at_ms":
            raise DataError(
                f"mapping: {table}.{column} has unit {str(changes['unit'])!r}; only interactions.at_ms takes one",
                "Leave it out.",
            )
        refused = [key for key in ("split", "unit") if of_attributes and changes.get(key) is not None]
        if refused:
            raise DataError(
                f"mapping: {table}.{column} has {refused[0]} {str(changes[refused[0]])!r}; attributes take none",
                "Leave it out. Several values of one attribute are a list in the file, or a text with a JSON list; an "
                "attribute called column, beside one of this name, is column = { column = ... }.",
            )
        rules = {name: dict(columns) for name, columns in self.rules.items()}
        of_table = rules.setdefault(table, {})
        of_table[column] = replace(of_table.get(column, ColumnRule()), **changes)
        return ColumnMapping(rules)

    def with_assignment(self, key: str, assignment: str) -> "ColumnMapping":
        """Return the mapping with one field of a rule set, as the command line says it: `TABLE.COLUMN=VALUE`.

        Raises:
            DataError: the text is not of that form, or names something unknown.
        """
        place, equals, value = assignment.partition("=")
        table, dot, column = place.partition(".")
        if not (equals and dot and value):
            raise DataError(f"{assignment!r} is not TABLE.COLUMN=VALUE", "Write interactions.at_ms=time, for example.")
        return self.with_rule(table, column, **{key: time_unit(value, place) if key == "unit" else value})


def read_mapping(path: Path) -> ColumnMapping:
    """Read a mapping file (TOML): a section a table, `canonical = "file's column"` or a table of the rule's fields.

    Raises:
        DataError: the file is not there or not TOML, or names something unknown.
    """
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"mapping file {path} can't be read: {error.strerror}", "Check the path.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"mapping file {path} is not valid TOML: {error}", "Mend that line.") from error
    mapping = ColumnMapping()
    for table, columns in sections.items():
        if not isinstance(columns, dict):
            raise DataError(f"mapping file {path}: {table} is not a section", f"Write [{table}].")
        for column, value in _flat(columns):
            mapping = mapping.with_rule(table, column, **_changes(path, f"{table}.{column}", value))
    return mapping


def _flat(columns: dict[str, Any]) -> Iterable[tuple[str, Any]]:
    for column, value in columns.items():
        if column == "attributes" and isinstance(value, dict) and not _is_rule_of_attributes(value):
            yield from ((f"attributes.{name}", inner) for name, inner in value.items())
        else:
            yield column, value


def _is_rule_of_attributes(table: dict[str, Any]) -> bool:
    """Return whether a table under `attributes` says where the whole column is, not where single attributes are.

    An attribute may be called unit, say, but not beside one called column: that would be a rule. A constant of the
    whole column is a JSON object.
    """
    constant = table.get("constant", "{}")
    return (
        bool(_KEYS_OF_ATTRIBUTES & set(table))
        and not set(table) - _KEYS
        and all(isinstance(value, str) for value in table.values())
        and constant.lstrip().startswith("{")
    )


def _changes(path: Path, place: str, value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        return {"column": value}
    if not isinstance(value, dict) or not value or set(value) - _KEYS:
        raise DataError(
            f"mapping file {path}: {place} is {value!r}",
            f"Write a column's name, or {{ {', '.join(sorted(_KEYS))} }} with some of these keys.",
        )
    changes = {key: str(item) for key, item in value.items()}
    if "unit" not in changes or place.endswith(".attributes"):  # these take none, whatever it is called
        return changes
    return changes | {"unit": time_unit(changes["unit"], place)}


def time_unit(text: str, place: str) -> TimeUnit:
    """Return a unit by its name.

    Raises:
        DataError: there is no such unit.
    """
    try:
        return TimeUnit(text)
    except ValueError as error:
        raise DataError(f"{place}: unit {text!r} is not known", "Use s, ms, us or ns.") from error
