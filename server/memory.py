"""What the server remembers of users: the histories in service, and everything that changes them.

Events come from the own journal (`written`), and from the graph, where other servers' events are (`follow`). Either may
have one first; each counts once.
"""

import time
from collections.abc import Callable, Collection, Sequence

import structlog

from kg.commits import CommittedEvent
from kg.snapshot import Snapshot
from kg.tables import CODES, InteractionType
from kg.vocabulary import MISSING
from server.engine import Engine
from server.errors import JournalError
from server.histories import Interaction, LiveHistories
from server.journal import Journal
from server.journal_file import StoredEvent
from server.past_searches import PastSearches

_NAN = float("nan")
_MOST_FOLLOWED = 100_000
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
        self._followed_ids: dict[str, None] = {}  # in order, the oldest first

    def written(self, events: Sequence[StoredEvent]) -> None:
        """Let events that were just stored in the own journal change the next answers."""
        # A caller that wrote one to another server, and did not hear from it, may write it here again.
        new = [each for each in events if each.event.event_id not in self._followed_ids]
        for histories, engine in self._held():
            extend(histories, engine.snapshot, new)
            histories.applied = max(histories.applied, events[-1].offset)

    def forget(self, user_id: str, left: Sequence[StoredEvent]) -> None:
        """Forget a user but for some events of the own journal, that came after the user's erasure."""
        if self._past is not None:
            self._past.forget(user_id)
        for histories, engine in self._held():
            forget(histories, engine.snapshot, user_id, left)

    def users(self, but: Collection[LiveHistories] = ()) -> set[str]:
        """Return the id of every user with a history or a search. May be called from any thread.

        Args:
            but: histories that are passed over.
        """
        searched = set() if self._past is None else self._past.users()
        return searched.union(*(histories.users() for histories in self.histories() if histories not in but))

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
        self._followed_ids.update(dict.fromkeys(each.event_id for each in events))
        while len(self._followed_ids) > _MOST_FOLLOWED:
            del self._followed_ids[next(iter(self._followed_ids))]


def extend(histories: LiveHistories, snapshot: Snapshot, events: Sequence[StoredEvent]) -> None:
    """Add events of the own journal to histories, each once; one with a product that is not there yet waits for it."""
    for stored in events:
        if stored.offset > histories.applied:
            event = stored.event
            _add(histories, snapshot, event.user_id, event.product_id, interaction_of(snapshot, stored))
        histories.applied = max(histories.applied, stored.offset)


def forget(histories: LiveHistories, snapshot: Snapshot, user_id: str, left: Sequence[StoredEvent]) -> None:
    """Let histories forget a user but for some events of the own journal, that came after the user's erasure."""
    histories.forget([user_id])
    for stored in left:
        _add(histories, snapshot, user_id, stored.event.product_id, interaction_of(snapshot, stored))


def replay(histories: LiveHistories, snapshot: Snapshot, journal: Journal, oldest_as_of_ms: int) -> None:
    """Add the journal's events that a snapshot lacks, and trim those that it and the graph have long had.

    Args:
        histories: of the snapshot; they grow.
        snapshot: the one in service.
        journal: read whole, and trimmed where that succeeds.
        oldest_as_of_ms: events later than this, or received later, stay: the oldest snapshot needs them, should a
            model that was trained on it come back into service.
    """
    began, count, old = time.monotonic(), 0, []
    trimmed_to_ms = min(snapshot.as_of_ms, oldest_as_of_ms)
    drained, keep_from_ms = journal.drained, time.time_ns() // 1_000_000 - journal.kept_ms
    for stored in journal.all():
        event, interaction = stored.event, interaction_of(snapshot, stored)
        if interaction.product_index == MISSING or not histories.holds(event.user_id, interaction):
            _add(histories, snapshot, event.user_id, event.product_id, interaction)
            count += 1
        elif (
            stored.offset <= drained
            and stored.received_ms < keep_from_ms
            and max(stored.received_ms, event.at_ms) <= trimmed_to_ms
        ):
            old.append(stored.offset)
        histories.applied = stored.offset
    try:
        journal.trim(old)
    except JournalError as error:  # it is only longer than it need be
        _log.warning("journal_not_trimmed", events=len(old), reason=error.problem, remedy=error.remedy)
        old = []
    _log.info("journal_replayed", events=count, trimmed=len(old), seconds=round(time.monotonic() - began, 2))


def interaction_of(snapshot: Snapshot, stored: StoredEvent) -> Interaction:
    """Return a stored event as an interaction; its product index is `MISSING` where the catalogue lacks the product."""
    event = stored.event
    return _interaction(snapshot, event.product_id, event.type, event.at_ms, event.value)


def _interaction(
    snapshot: Snapshot, product_id: str, kind: InteractionType, at_ms: int, value: float | None
) -> Interaction:
    # Also of a product that was taken out: what users did with it still tells of them.
    return Interaction(snapshot.products.place(product_id), CODES[kind], at_ms, _NAN if value is None else value)


def _add(histories: LiveHistories, snapshot: Snapshot, user_id: str, product_id: str, interaction: Interaction) -> None:
    if interaction.product_index == MISSING:
        histories.wait(user_id, product_id, interaction)
    else:
        histories.append(user_id, interaction)


def _add_once(histories: LiveHistories, snapshot: Snapshot, event: CommittedEvent) -> None:
    interaction = _interaction(snapshot, event.product_id, event.type, event.at_ms, event.value)
    if interaction.product_index == MISSING or not histories.has(event.user_id, interaction):
        _add(histories, snapshot, event.user_id, event.product_id, interaction)
