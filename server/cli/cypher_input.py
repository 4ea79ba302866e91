"""Where the Cypher shell's statements come from: an argument, standard input, or a person at a prompt."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from kg.errors import ConfigError

_HISTORY_LINES = 1000


def statements(argument: str | None, history_file: Path) -> Iterator[str]:
    """Yield the statements to run; each ends in a semicolon at the end of a line, or at the end of the input.

    Args:
        argument: a whole query, or None to read standard input.
        history_file: where a person's lines are kept between sessions.

    Raises:
        ConfigError: standard input is not UTF-8.
    """
    if argument is not None:
        yield argument.rstrip().removesuffix(";")
        return
    yield from _split(_prompted(history_file) if sys.stdin.isatty() else iter(sys.stdin))


def _split(lines: Iterator[str]) -> Iterator[str]:
    pending: list[str] = []
    for line in _utf8(lines):
        pending.append(line.rstrip("\n"))
        if line.rstrip().endswith(";"):
            yield "\n".join(pending).rstrip().removesuffix(";")
            pending = []
    rest = "\n".join(pending).strip()
    if rest:
        yield rest


def _utf8(lines: Iterator[str]) -> Iterator[str]:
    try:
        yield from lines
    except UnicodeDecodeError as error:
        raise ConfigError("standard input is not UTF-8 text", "Save the queries as UTF-8.") from error


def _prompted(history_file: Path) -> Iterator[str]:
    """Yield lines typed at a prompt, with editing and history, until Ctrl-D or `:exit`."""
    import readline

    with suppress(OSError):
        readline.read_history_file(history_file)
    readline.set_history_length(_HISTORY_LINES)
    sys.stderr.write("Cypher, each query ending in ;   (:exit or Ctrl-D leaves)\n")
    try:
        while True:
            line = input("cypher> ")
            if line.strip() == ":exit":
                return
            yield line
    except EOFError:
        return
    finally:
        with suppress(OSError):
            readline.write_history_file(history_file)
