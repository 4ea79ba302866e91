"""What other servers wrote, and this one too: the graph's commits, applied here in order.

Each server polls the number of the graph's last commit; where it has moved, it reads what was changed since and tells
those who hold copies: histories, catalogue, rules, models. The server that took a call applies its change in the same
way, at once (`nudge`), so that there is one path.

What was changed is read from the graph as it is then: the same change applied twice, or two at once, end alike.
"""

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import structlog

from kg.commits import FORGOTTEN_AT_ONCE, MARGIN, Change, ChangeKind, CommittedEvent, next_with_events
from kg.errors import GraphDiskError, KgrankError
from server.graph_link import GraphLink
from server.journal_file import COMMIT, JournalFile

if TYPE_CHECKING:
    from kg.store import Graph

_log = structlog.get_logger(__name__)

POLL_S = 0.5
"""How long a change of another server may wait to be noticed."""

_LONGEST_WAIT_S = 5.0
_PAGE = 1_000
_COMMITS = 200
"""Commits whose events are read together, at most: each may hold a thousand, and all are in memory at once."""
_TIDY_S = 3_600.0
_NOTED_EVERY_S = 5.0
_FIRST = (ChangeKind.USER_ERASED, ChangeKind.RULE, ChangeKind.PRODUCT, ChangeKind.PRODUCT_DELETED, ChangeKind.FACTS)
"""Erasures and rules first, which take no time; products are only handed over, and their events wait for them."""

Handler = Callable[[Sequence[Change]], Awaitable[None]]


class Histories(Protocol):
    """Takes interactions that were committed by others."""

    @property
    def followed(self) -> int:
        """The commit up to which all interactions are in here; below that of the snapshot until a first look."""

    def restart(self) -> None:
        """Look at every commit once more: the graph is another one."""

    def unknown(self, events: Sequence[CommittedEvent]) -> list[CommittedEvent]:
        """Return the events that this server's own journal does not have. May be called from any thread."""

    def follow(self, events: Sequence[CommittedEvent], after: int, until: int) -> None:
        """Take the events of commits above `after`; everything up to the commit `until` is here then."""


@dataclass(frozen=True)
class _Page:
    """What was read at once: changes up to `until`, events up to `heard`, both commits; `more` if there are later."""

    last: int
    until: int
    heard: int
    changes: list[Change]
    events: list[CommittedEvent]
    more: bool


class Follower:
    """Applies commits on the event loop, in order. All methods but `reopened` belong to the loop's thread.

    Args:
        link: the graph.
        histories: take the interactions that others wrote.
        journal: this server's own, whose events are in the histories already; it notes how far the graph was followed.
    """

    def __init__(self, link: "GraphLink[Graph]", histories: Histories, journal: JournalFile) -> None:
        self._link = link
        self._histories = histories
        self._journal = journal
        self._handlers: dict[ChangeKind, list[Handler]] = {}
        self.each_commit: Callable[[int], Awaitable[None]] | None = None
        """Told of each commit up to which all else is applied, whatever it changed; of 0: the graph is another."""
        self.waits_of: Callable[[], int | None] = lambda: None
        """Tells the first commit of which a handler keeps changes, to apply them later; None where none does."""
        self._nudged = asyncio.Event()
        self._back_to: int | None = None
        self._put_back: int | None = None  # the last commit of a graph that has lost some which were applied here
        self._task: asyncio.Task[None] | None = None
        self._tidied = time.monotonic()
        self._noted = time.monotonic()
        self._unnoted = False
        self.applied = 0
        """The commit up to which everything has been applied, or is kept by a handler."""
        self.caught_up = False
        """Whether all that had been committed at some moment after the start has been applied."""
        self._caught_up_s = 0.0
        self._looked: tuple[int, float] | None = None  # the last commit there was, and when; what it left waits

    def on(self, kind: ChangeKind, handler: Handler) -> None:
        """Call a handler with every change of a kind, in order, several at once; it is awaited before the next.

        One that is there for several kinds gets the changes of all of them together.
        """
        self._handlers.setdefault(kind, []).append(handler)

    def start(self, after: int) -> None:
        """Begin to follow after a commit, the one that the snapshot in service was exported at; once only."""
        if self._task is None and self._link.configured:
            self.applied, self._caught_up_s = after, time.monotonic()
            self._task = asyncio.create_task(self._run(), name="follower")

    @property
    def lag_s(self) -> float | None:
        """How long ago all that had been committed was applied, at least since the start; None before it."""
        return None if self._task is None else time.monotonic() - self._caught_up_s

    def go_back(self, commit: int) -> None:
        """Apply once more what came after a commit: a snapshot that is behind has come into service."""
        self._back_to = commit if self._back_to is None else min(self._back_to, commit)
        self.nudge()

    def nudge(self) -> None:
        """Look for commits now: this server has just made one, or the graph is back."""
        self._nudged.set()

    def reopened(self, graph: "Graph") -> int:
        """Let a graph that was put back from a backup go on above every commit that was heard of, here or elsewhere.

        It would else give numbers again that servers, snapshots and erasures have had. Returns the number of the last
        commit; what is read of the graph after this sees all up to it. Belongs to the link's thread, before others
        have the graph.
        """
        known = max([self.applied, self._journal.noted(COMMIT), *(each.commit for each in self._journal.erasures())])
        last = graph.last_commit_from(known)
        if last >= known:
            return last
        if last < self.applied and self._put_back is None:
            self._put_back = last
        _log.warning("commits_advanced", commit=last, known=known)
        graph.advance_commits(known, MARGIN)
        return graph.last_commit_from(known)

    async def stop(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        wait_s, told = POLL_S, False
        while True:
            try:
                more = await self._step()
                wait_s, told = POLL_S, False
                if more:
                    continue
            except KgrankError as error:
                # The link tells that the graph is away; here only what else may be, once.
                if not told and self._link.is_open:
                    _log.warning("follower_waits", reason=error.problem, remedy=error.remedy)
                    told = True
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            except Exception:
                # A defect must not end the following for good: this server would fall behind unseen.
                _log.exception("follower_failed", commit=self.applied)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            with suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._nudged.wait()
            self._nudged.clear()

    async def _step(self) -> bool:
        """Apply a page of commits; return whether there are more."""
        if self._back_to is not None:
            self.applied, self._back_to = min(self.applied, self._back_to), None
        after, behind = self.applied, min(self.applied, self._histories.followed)
        page = await self._link.follow(lambda graph: self._read(graph, after, behind))
        if page.last < after or self._put_back is not None:
            await self._begin_anew(page.last if self._put_back is None else self._put_back)
            return True
        called: list[Handler] = []
        for kind in (*_FIRST, *(kind for kind in ChangeKind if kind not in (*_FIRST, ChangeKind.EVENTS))):
            for handler in (each for each in self._handlers.get(kind, ()) if each not in called):
                called.append(handler)
                changes = [each for each in page.changes if handler in self._handlers.get(each.kind, ())]
                if changes:
                    await _call(handler, changes)
        if page.events or self._histories.followed < page.heard:
            self._histories.follow(page.events, behind, page.heard)
        await self._tell(page.until)
        self.applied = page.until
        if not page.more and self._all_applied(page.until):
            first, self.caught_up = not self.caught_up, True
            if first:  # a Neo4j that has just started plans this for seconds: no event has to wait for it
                await self._link.follow(lambda graph: graph.events_of([0]))
        return page.more

    async def _begin_anew(self, last: int) -> None:
        """Begin at the first commit: the graph was put back to an earlier state, or is another one."""
        applied = self.applied
        _log.error(
            "graph_went_back",
            commit=last,
            applied=applied,
            remedy="Was it restored from a backup? Restart the servers, so that they forget what it lacks.",
        )
        await self._link.follow(lambda graph: graph.advance_commits(applied, MARGIN))
        self.applied, self._put_back = 0, None
        self._histories.restart()
        await self._tell(0)

    def _all_applied(self, until: int) -> bool:
        """Return whether all that had been committed at some look has been applied, now that there is no more to read.

        Where the catalogue changes all the time something always waits; what waited at an earlier look may not.
        """
        now_s, waits_of = time.monotonic(), self.waits_of()
        if waits_of is None:
            self._caught_up_s, self._looked = now_s, None
            return True
        if self._looked is None:
            self._looked = until, now_s
        commit, at_s = self._looked
        if waits_of <= commit:
            return False
        self._caught_up_s, self._looked = at_s, (until, now_s)
        return True

    async def _tell(self, until: int) -> None:
        """Tell of the last commit; a defect there must not keep this server from all that comes after it."""
        try:
            if self.each_commit is not None:
                await self.each_commit(until)
        except KgrankError:
            raise
        except Exception:
            _log.exception("commits_not_followed", until=until)

    def _read(self, graph: "Graph", after: int, behind: int) -> _Page:
        """Read what commits above `after` changed, and the interactions of those above `behind`; in a thread."""
        last = graph.last_commit_from(after)
        if time.monotonic() - self._noted > _NOTED_EVERY_S:
            self._noted = time.monotonic()
            self._note(after)
        if time.monotonic() - self._tidied > _TIDY_S:
            self._tidied = time.monotonic()
            with suppress(GraphDiskError):  # a full disk must not keep this server from what others wrote
                if graph.forget_old_changes() >= FORGOTTEN_AT_ONCE:
                    self._tidied -= _TIDY_S  # there are more: at the next look, so that none waits for all of them
        if last < after or (last == after and behind == after):
            return _Page(last, after, after, [], [], more=False)
        changes = graph.changes_since(after, _PAGE)
        full = len(changes) >= _PAGE
        end = changes[-1].commit if full else max([last, *(each.commit for each in changes[-1:])])
        untold = behind < max(after, graph.forgotten_until)  # there may be events that no change tells of
        heard = min(end, _read_until(graph, behind, end) if untold else _told_until(changes, end))
        until = max(after, heard)
        changes = [each for each in changes if each.commit <= until]
        if untold:
            found = [event for block in graph.events_since(behind, heard) for event in block]
        else:
            others = {
                each.commit for each in changes if each.kind == ChangeKind.EVENTS and each.key != self._journal.name
            }
            found = graph.events_of(sorted(others))
        return _Page(last, until, heard, changes, self._histories.unknown(found), more=full or heard < end)

    def _note(self, commit: int) -> None:
        """Note how far the graph was followed; a full disk must not keep this server from what others wrote."""
        try:
            self._journal.note(COMMIT, commit)
        except sqlite3.Error as error:
            if not self._unnoted:
                remedy = "See to the journal's disk; the note is only for a graph that is put back from a backup."
                _log.warning("commit_not_noted", commit=commit, reason=str(error), remedy=remedy)
            self._unnoted = True
        else:
            self._unnoted = False


def _told_until(changes: Sequence[Change], end: int) -> int:
    """Return the commit up to which changes, in order, are of `_COMMITS` commits at most; `end` if all of them are."""
    told = list(dict.fromkeys(each.commit for each in changes))
    return told[_COMMITS - 1] if len(told) > _COMMITS else end


def _read_until(graph: "Graph", behind: int, end: int) -> int:
    """Return the commit up to which at most `_COMMITS` above one have events; numbers passed over cost nothing.

    A graph that was put back has a million of those (`kg.commits.MARGIN`).
    """
    if behind + _COMMITS >= end:
        return end
    following = next_with_events(graph, behind)
    return end if following is None else following - 1 + _COMMITS


async def _call(handler: Handler, changes: Sequence[Change]) -> None:
    """Call a handler; a defect in one change must not keep this server from all that come after it."""
    try:
        await handler(changes)
    except KgrankError:
        raise  # the graph is away, say: it is tried again
    except Exception:
        kinds = sorted({str(each.kind) for each in changes})
        _log.exception("changes_not_applied", kinds=kinds, until=changes[-1].commit)
