"""A file by its suffix."""

from collections.abc import Collection
from pathlib import Path

import pyarrow.parquet as pq

from kg.errors import DataError
from kg.sources.delimited import read_delimited
from kg.sources.json_lines import read_json_lines
from kg.sources.opening import reading, require_content
from kg.sources.raw import REFUSALS, FileRows, with_origin


def read_file(
    path: Path, table: str, *, delimiter: str | None = None, spelled: Collection[str] = frozenset()
) -> FileRows:
    """Read a .csv, .tsv, .jsonl, .ndjson, .json or .parquet file; text may be gzipped (.gz).

    Args:
        path: the file.
        table: the canonical table it is for, named in errors and refusals.
        delimiter: of a .csv file; a comma unless given.
        spelled: columns whose values come as the file spells them, where it is text.

    Raises:
        DataError: the file is not there, empty, truncated, or not what its suffix says.
    """
    suffix = path.name.lower().removesuffix(".gz").rpartition(".")[2]
    if suffix == "parquet":
        return _read_parquet(path)
    if suffix in ("csv", "tsv"):
        return read_delimited(path, table, delimiter=delimiter or ("\t" if suffix == "tsv" else ","))
    if suffix in ("json", "jsonl", "ndjson"):
        return read_json_lines(path, table, spelled=spelled)
    raise DataError(
        f"{table}: {path} has no suffix that tells its format",
        "Name it .csv, .tsv, .jsonl or .parquet; gzipped text with .gz after it.",
    )


def _read_parquet(path: Path) -> FileRows:
    require_content(path)
    with reading(path):
        rows = pq.ParquetFile(path).read()
    repeated = sorted({name for name in rows.column_names if rows.column_names.count(name) > 1})
    if repeated:
        raise DataError(f"{path} has column {repeated[0]!r} twice", "Rename one of them.")
    return FileRows(with_origin(rows.replace_schema_metadata(None), path.name), REFUSALS.empty_table())
