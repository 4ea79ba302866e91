"""Histories that are about to come into service: what was written, and who was erased, while they were made.

They are made beside those in service, in seconds, from a snapshot that may have been opened before a user was taken out
of it. Until they are in service, `server.memory` does not reach them; the journal says what they missed.
"""

import asyncio
from collections.abc import Collection, Iterable, Sequence

from kg.erasure import Erasure, user_key
from kg.snapshot import Snapshot
from server.engine import Engine
from server.histories import LiveHistories
from server.journal import Journal
from server.journal_users import Found
from server.memory import extend, forget, remake

_ALL = 1 << 30
_AT_ONCE = 1_000
_LITTLE = 100


class CatchingUp:
    """Brings histories to what the journal has; of the event loop's thread.

    Args:
        coming: histories that are not in service yet, each with an engine that answers from them.
        journal: the own one, with the events and the erasures.
    """

    def __init__(self, coming: Iterable[tuple[LiveHistories, Engine]], journal: Journal) -> None:
        self._coming = [_Coming(histories, engine.snapshot) for histories, engine in coming]
        self._journal = journal
        self._sought: set[str] = set()
        self._found = Found({}, {})  # where the journal had events of those

    async def catch_up(self) -> None:
        """Take what is missing: when this returns, nothing is until the caller awaits something. May be repeated.

        What takes long is done beside the event loop, which is left with what comes meanwhile.
        """
        caught_up = False
        pending: list[str] = []
        concerned: set[str] = set()
        while not caught_up:
            caught_up = True
            await self._take_most()
            pending = self._journal.pending_erasures()  # first: one that ends between the two is in both
            for each in self._coming:
                erasures = set(self._journal.erasures()) - each.looked_for
                if erasures:
                    caught_up = False  # while users are looked for, more may be erased
                    gone, written = await asyncio.to_thread(erased_in, each.histories, erasures)
                    each.gone |= gone
                    each.written |= written
                    each.looked_for |= erasures
            concerned = set(pending).union(*(each.gone | each.written for each in self._coming))
            if caught_up and not concerned <= self._sought:
                caught_up, self._sought = False, concerned
                self._found = await asyncio.to_thread(self._journal.find, concerned)
        for each in self._coming:
            extend(each.histories, each.snapshot, self._journal.read(each.histories.applied, _ALL))
        events = self._journal.of_users(concerned, self._found) if concerned else {}
        for each in self._coming:
            for user_id in each.gone.union(pending):
                # What the journal still has of one came after the erasure, or goes as that goes on.
                left = [stored for stored in events[user_id] if stored.offset <= each.histories.applied]
                forget(each.histories, each.snapshot, user_id, left)
            for user_id in each.written:
                remake(each.histories, each.snapshot, user_id, events[user_id])

    async def _take_most(self) -> None:
        """Take what was written until now, again and again until what came meanwhile is little, or gets no less."""
        behind, before = self._behind(), None
        while behind > _LITTLE and (before is None or behind < before):
            await asyncio.to_thread(self._take, self._journal.last_offset)
            behind, before = self._behind(), behind

    def _behind(self) -> int:
        """Return how many events are missing, at most."""
        last = self._journal.last_offset
        return max((last - each.histories.applied for each in self._coming), default=0)

    def _take(self, until: int) -> None:
        """Take what was written up to an offset, or a little more."""
        for each in self._coming:
            while each.histories.applied < until:
                events = self._journal.read(each.histories.applied, _AT_ONCE)
                if not events:  # the last ones were erased
                    break
                extend(each.histories, each.snapshot, events)


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
    of_snapshot = histories.user_keys.among(gone)
    added = {user_id: user_key(user_id) for user_id in with_keys(histories.added_users(), gone | before, [histories])}
    return (
        of_snapshot.union(user_id for user_id, key in added.items() if key in gone),
        {user_id for user_id, key in added.items() if key in before},
    )


def with_keys(user_ids: Iterable[str], keys: Collection[str], known: Sequence[LiveHistories]) -> set[str]:
    """Return those of some users who have one of some keys. May be called from any thread.

    Args:
        user_ids: the users.
        keys: of users that are looked for.
        known: histories that may know keys of some users of their snapshots: those are not made anew.
    """
    if not keys:
        return set()
    wanted, known_keys = set(keys), [each.user_keys for each in known if each.user_keys.are_made]
    found = set[str]().union(*(each.among(wanted) for each in known_keys))

    def is_meant(user_id: str) -> bool:
        if any(user_id in each for each in known_keys):
            return user_id in found
        return user_key(user_id) in wanted

    return set(filter(is_meant, set(user_ids)))
