"""What the server remembers of users: the histories in service, and everything that changes them.

Events come from the own journal (`written`), and from the graph, where other servers' events are (`follow`). Either may
have one first; each counts once, by its id. A snapshot has no ids, and may have some of what was committed while it was
exported: an event that equals one of a snapshot in user, product, type and time is taken to be that one.
"""

import asyncio
import time
from array import array
from collections.abc import Callable, Collection, Sequence

import structlog

from kg.commits import CommittedEvent
from kg.snapshot import Snapshot
from kg.tables import CODES, InteractionType
from kg.vocabulary import MISSING
from server.contract import WrittenEvent
from server.drain import AFTER_FILES
from server.engine import Engine
from server.histories import Interaction, LiveHistories
from server.journal import Journal
from server.journal_file import StoredEvent
from server.past_searches import PastSearches

_NAN = float("nan")
_NOBODY_BEHIND = 1 << 62

_log = structlog.get_logger(__name__)

Held = Callable[[], Sequence[tuple[LiveHistories, Engine]]]


class Memory:
    """All histories in service. Its methods belong to the event loop's thread, but for `unknown`.

    Args:
        held: returns the histories in service, each with an engine that answers from them.
        journal: the own journal.
        past: what users have searched for; None where that is not remembered.
    """

    def __init__(self, held: Held, journal: Journal, past: PastSearches | None = None) -> None:
        self._held = held
        self._past = past
        self._journal = journal

    def written(self, events: Sequence[StoredEvent]) -> None:
        """Let events that were just stored in the own journal change the next answers."""
        for histories, engine in self._held():
            extend(histories, engine.snapshot, events)

    def forget(self, user_id: str, left: Sequence[StoredEvent]) -> None:
        """Forget a user but for some events of the own journal, that came after the user's erasure."""
        if self._past is not None:
            self._past.forget(user_id)
        for histories, engine in self._held():
            forget(histories, engine.snapshot, user_id, left)

    async def remake(self, histories: LiveHistories, user_ids: Collection[str]) -> None:
        """Let histories have of some users what their snapshot and the own journal have; what others wrote follows."""
        if not user_ids:
            return
        found = await asyncio.to_thread(self._journal.find, user_ids)
        for held, engine in self._held():
            if held is histories:
                for user_id, events in self._journal.of_users(user_ids, found).items():
                    remake(histories, engine.snapshot, user_id, events)

    def searched(self) -> set[str]:
        """Return the id of every user whose searches are here. May be called from any thread."""
        return set() if self._past is None else self._past.users()

    def histories(self) -> list[LiveHistories]:
        """Return the histories in service. May be called from any thread."""
        return [histories for histories, _ in self._held()]

    @property
    def followed(self) -> int:
        """The commit up to which all interactions are in every history."""
        return min((histories.followed for histories, _ in self._held()), default=_NOBODY_BEHIND)

    def restart(self) -> None:
        """Look at every commit once more: the graph is another one."""
        self.look_again(-1)

    def unknown(self, events: Sequence[CommittedEvent]) -> list[CommittedEvent]:
        """Return the events that the own journal does not have. May be called from any thread."""
        known = self._journal.known([each.event_id for each in events])
        return [each for each in events if each.event_id not in known]

    def look_again(self, after: int) -> None:
        """Look once more at the interactions of commits above one; those that are here stay as they are."""
        for histories, _ in self._held():
            histories.followed = min(histories.followed, after)

    def follow(self, events: Sequence[CommittedEvent], after: int, until: int) -> None:
        """Take what others wrote by commits above `after`; everything up to the commit `until` is here then."""
        for histories, engine in self._held():
            if histories.followed < after:
                continue  # it came into service after this was read, and is behind: the next look is from there
            for each in events:
                if each.commit > histories.followed:
                    _add_once(histories, engine.snapshot, each)
            histories.followed = max(histories.followed, until)


def extend(histories: LiveHistories, snapshot: Snapshot, events: Sequence[StoredEvent]) -> None:
    """Add events of the own journal to histories, each once; one with a product that is not there yet waits for it.

    A journal takes what it does not have: an event that another server took, or that was loaded from files, may be in
    the snapshot and come to this journal after all.
    """
    for stored in events:
        interaction = interaction_of(snapshot, stored)
        if stored.offset > histories.applied and not _is_held(histories, stored.event.user_id, interaction):
            _add(histories, stored.event, interaction)
        histories.applied = max(histories.applied, stored.offset)


def forget(histories: LiveHistories, snapshot: Snapshot, user_id: str, left: Sequence[StoredEvent]) -> None:
    """Let histories forget a user but for some events of the own journal, that came after the user's erasure."""
    histories.forget([user_id])
    for stored in left:
        _add(histories, stored.event, interaction_of(snapshot, stored))


def remake(histories: LiveHistories, snapshot: Snapshot, user_id: str, events: Sequence[StoredEvent]) -> None:
    """Let histories have of a user what is not forgotten of the snapshot's, and `events`, all of the own journal."""
    histories.forget_added(user_id)
    for stored in events:
        interaction = interaction_of(snapshot, stored)
        # What is not applied yet comes with what is written after it.
        if stored.offset <= histories.applied and not _is_held(histories, user_id, interaction):
            _add(histories, stored.event, interaction)


def replay(histories: LiveHistories, snapshot: Snapshot, journal: Journal, oldest_as_of_ms: int) -> None:
    """Add the journal's events that a snapshot lacks, and let the journal forget those that it has.

    Args:
        histories: of the snapshot; they grow.
        snapshot: the one in service.
        journal: read whole.
        oldest_as_of_ms: events later than this, or received later, stay: a model that may come back into service has a
            snapshot that needs them.
    """
    began, count, held = time.monotonic(), 0, array("q")
    held_to_ms = min(snapshot.as_of_ms, oldest_as_of_ms)
    for stored in journal.all():
        event, interaction = stored.event, interaction_of(snapshot, stored)
        if not _is_held(histories, event.user_id, interaction):
            _add(histories, event, interaction)
            count += 1
        elif max(stored.received_ms, event.at_ms) <= held_to_ms:
            held.append(stored.offset)
        histories.applied = stored.offset
    journal.trim.allow(held)
    _log.info("journal_replayed", events=count, held=len(held), seconds=round(time.monotonic() - began, 2))


def interaction_of(snapshot: Snapshot, stored: StoredEvent) -> Interaction:
    """Return a stored event as an interaction; its product index is `MISSING` where the catalogue lacks the product."""
    event = stored.event
    position = AFTER_FILES + stored.offset  # as the graph gets it
    return _interaction(snapshot, event.product_id, event.type, event.at_ms, event.value, position)


def _interaction(
    snapshot: Snapshot, product_id: str, kind: InteractionType, at_ms: int, value: float | None, position: int
) -> Interaction:
    # Also of a product that was taken out: what users did with it still tells of them.
    product_index = snapshot.products.place(product_id)
    return Interaction(product_index, CODES[kind], at_ms, _NAN if value is None else value, position)


def _add(histories: LiveHistories, event: WrittenEvent | CommittedEvent, interaction: Interaction) -> None:
    if interaction.product_index == MISSING:
        histories.wait(event.event_id, event.user_id, event.product_id, interaction)
    else:
        histories.append(event.event_id, event.user_id, interaction)


def _add_once(histories: LiveHistories, snapshot: Snapshot, event: CommittedEvent) -> None:
    interaction = _interaction(snapshot, event.product_id, event.type, event.at_ms, event.value, event.position)
    if not _is_held(histories, event.user_id, interaction):
        _add(histories, event, interaction)


def _is_held(histories: LiveHistories, user_id: str, interaction: Interaction) -> bool:
    return interaction.product_index != MISSING and histories.holds(user_id, interaction)
