"""Opening a data file: what is wrong with its bytes becomes one error that names the file and the place."""

import codecs
import gzip
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa

from kg.errors import DataError

_GZIP = b"\x1f\x8b"
_BLOCK_BYTES = 4 << 20


def text_lines(path: Path, *, newline: str = "\n") -> Iterator[str]:
    """Yield the lines of a text file, gzipped or not; they end as `newline` of `open` says.

    Bytes that are not UTF-8 come as lone surrogates (`surrogateescape`), for the quality check to find.

    Raises:
        DataError: the file is not there, empty, or its gzip is truncated or damaged.
    """
    require_content(path)
    number = 0
    with reading(path, lambda: number):
        opener: Callable[..., Any] = gzip.open if is_gzip(path) else open
        with opener(path, "rt", encoding="utf-8-sig", errors="surrogateescape", newline=newline) as file:
            for line in file:
                number += 1
                yield line
    if not number:
        raise _empty(path)


def require_content(path: Path) -> None:
    """Check that a file is there and has at least a byte.

    Raises:
        DataError: it has not.
    """
    if not path.is_file():
        raise DataError(f"{path} {'is a folder' if path.is_dir() else 'does not exist'}", "Check the path.")
    if not path.stat().st_size:
        raise _empty(path)


def is_gzip(path: Path) -> bool:
    """Return whether a file is gzipped, by its first bytes: its name may lie."""
    with path.open("rb") as file:
        return file.read(2) == _GZIP


def is_utf8(path: Path) -> bool:
    """Return whether a text file, gzipped or not, is UTF-8 throughout."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    with reading(path), gzip.open(path) if is_gzip(path) else path.open("rb") as file:
        try:
            while block := file.read(_BLOCK_BYTES):
                decoder.decode(block)
            decoder.decode(b"", final=True)
        except UnicodeDecodeError:
            return False
    return True


@contextmanager
def reading(path: Path, line: Callable[[], int] | None = None) -> Iterator[None]:
    """Turn the errors of reading a file into one `DataError`; `line` tells how far the reader came."""
    place = ""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        place = f" after line {line():,}" if line else ""
        raise _truncated(path, place) from error
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{path} can't be read: {reason}", "Check that the file is whole and of its type.") from error
    except OSError as error:
        if "compressed stream" in str(error) or "zlib" in str(error).lower():
            raise _truncated(path, place) from error
        raise DataError(
            f"{path} can't be read: {error.strerror or error}", "Check that it is whole, and its permissions."
        ) from error


def _truncated(path: Path, place: str) -> DataError:
    return DataError(f"{path} is truncated or damaged gzip{place}", "Download or copy it again.")


def _empty(path: Path) -> DataError:
    return DataError(f"{path} is empty", "Check that it was written or downloaded whole.")
