"""Histories that are about to come into service: what was written, and who was erased, while they were made.

They are made beside those in service, in seconds, from a snapshot that may have been opened before a user was taken out
of it. Until they are in service, `server.memory` does not reach them; the journal says what they missed.
"""

import asyncio
from collections.abc import Collection, Iterable

from kg.erasure import Erasure, user_key
from kg.snapshot import Snapshot
from server.engine import Engine
from server.histories import LiveHistories
from server.journal import Journal
from server.memory import extend, forget, remake

_ALL = 1 << 30


class CatchingUp:
    """Brings histories to what the journal has; of the event loop's thread.

    Args:
        coming: histories that are not in service yet, each with an engine that answers from them.
        journal: the own one, with the events and the erasures.
    """

    def __init__(self, coming: Iterable[tuple[LiveHistories, Engine]], journal: Journal) -> None:
        self._coming = [_Coming(histories, engine.snapshot) for histories, engine in coming]
        self._journal = journal

    async def catch_up(self) -> None:
        """Take what is missing: when this returns, nothing is until the caller awaits something. May be repeated."""
        caught_up = False
        pending: list[str] = []
        while not caught_up:
            caught_up = True
            pending = self._journal.pending_erasures()  # first: one that ends between the two is in both
            for each in self._coming:
                erasures = set(self._journal.erasures()) - each.looked_for
                if erasures:
                    caught_up = False  # while users are looked for, more may be erased
                    gone, written = await asyncio.to_thread(erased_in, each.histories, erasures)
                    each.gone |= gone
                    each.written |= written
                    each.looked_for |= erasures
        for each in self._coming:
            extend(each.histories, each.snapshot, self._journal.read(each.histories.applied, _ALL))
            for user_id in each.gone.union(pending):
                # What the journal still has of one came after the erasure, or goes as that goes on.
                left = [stored for stored in self._journal.of_user(user_id) if stored.offset <= each.histories.applied]
                forget(each.histories, each.snapshot, user_id, left)
            for user_id in each.written:
                remake(each.histories, each.snapshot, user_id, self._journal)


class _Coming:
    """Histories, their snapshot, the erasures that were looked for, and what `erased_in` found."""

    def __init__(self, histories: LiveHistories, snapshot: Snapshot) -> None:
        self.histories = histories
        self.snapshot = snapshot
        self.looked_for: set[Erasure] = set()
        self.gone: set[str] = set()
        self.written: set[str] = set()


def erased_in(histories: LiveHistories, erasures: Collection[Erasure]) -> tuple[set[str], set[str]]:
    """Return the erased users whom histories have to forget, and those of whom only the own journal's events may go.

    The latter were erased before the snapshot was exported: what it has of them came after. What was added to it is
    from the journal, and may be older. May be called from any thread.
    """
    gone = {each.user_key for each in erasures if each.commit > histories.commit}
    before = {each.user_key for each in erasures} - gone
    return (
        {user_id for user_id in set(histories.users() if gone else ()) if user_key(user_id) in gone},
        {user_id for user_id in set(histories.added_users() if before else ()) if user_key(user_id) in before},
    )
