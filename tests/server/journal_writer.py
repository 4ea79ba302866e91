"""A process that writes events to a journal for ever, and prints the ids of each batch once they are acknowledged."""

import sys
from itertools import count
from pathlib import Path

from kg.tables import InteractionType
from server.contract import WrittenEvent
from server.journal import Journal


def main(path: str, run: str) -> None:
    """Write until killed."""
    journal = Journal(Path(path))
    waiting = []
    for number in count():
        ids = [f"{run}-{number}-{each}" for each in range(number % 5 + 1)]
        events = [WrittenEvent(each, "writer", "product-01", InteractionType.VIEW, 5, None) for each in ids]
        waiting.append((ids, journal.append(events)))
        if len(waiting) == 8:
            told, stored = waiting.pop(0)
            stored.result(60)
            sys.stdout.write(" ".join(told) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
