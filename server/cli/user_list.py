"""A file of user ids, as `kgrank score` and `kgrank publish` take it."""

from pathlib import Path

from kg.errors import DataError
from kg.tables import MAX_ID_BYTES


def read_users(file: Path) -> list[str]:
    """Return the ids of a file, without repeats, in the order of the lines.

    Raises:
        DataError: it can't be read, or a line is not an id.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")  # every line ends with \n now, whatever it ended with
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text (byte {error.start})", "Give a text file, one id a line.") from error
    except OSError as error:
        raise DataError(f"{file} can't be read: {error.strerror}", "Check --users.") from error
    lines = text.removesuffix("\n").split("\n") if text else []
    for number, line in enumerate(lines, 1):
        if not line or len(line.encode()) > MAX_ID_BYTES:
            what = "is empty" if not line else f"is longer than {MAX_ID_BYTES} bytes"
            raise DataError(f"{file}, line {number}: the user id {what}", "Give one id a line.")
    if not lines:
        raise DataError(f"{file} has no user id", "Give one id a line, or leave --users out for all users.")
    return list(dict.fromkeys(lines))
