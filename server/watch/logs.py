"""The server's log: JSON lines on stderr, other libraries' among them; text for a person at a terminal."""

import logging
import sys
from contextlib import suppress
from typing import TextIO

import structlog


class _LossyStream:
    """A stream that loses what can't be written: a log on a full disk, or one that nobody reads any more, must not end
    the threads that tell of a fault in it.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):  # ValueError: it is closed
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def log_to_stderr() -> None:
    """Log events from now on, each on a line of its own, whatever is in it."""
    at_a_terminal = sys.stderr.isatty()
    stream = _LossyStream(sys.stderr)
    # Its own tracebacks would show local variables: passwords, and ids of people.
    for_a_person = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    shared: list[structlog.types.Processor] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if at_a_terminal else [structlog.processors.format_exc_info]),
    ]
    renderer: structlog.types.Processor = for_a_person if at_a_terminal else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.WriteLoggerFactory(stream),  # type: ignore[arg-type]  # it writes and flushes
        cache_logger_on_first_use=True,
    )
    # asyncio and the libraries warn by the standard library's log: their lines are of the same kind.
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
