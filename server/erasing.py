"""Erases users: from the journal, the graph, memory, and the snapshots on disk; whatever happens on the way.

What is to be done is written into the journal before anything is done, and crossed out after all is. A server that
starts, or whose graph comes back, first finishes what is left; what has failed with the graph there is tried again.
Other servers hear of it by the graph's commits, and erase what they have. A graph that is restored from an older backup
is told of the erasures that it has forgotten.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import grpc
import structlog

from kg.appending import append_events
from kg.commits import Change
from kg.erasure import Erasure, erase_again, erase_events, erase_user, erasures_of, erasures_since, user_key
from kg.errors import GraphError, GraphUnavailableError
from server.access.audit import Audit
from server.catching_up import erased_in, with_keys
from server.drain import BATCH, Drain, rows
from server.errors import (
    AuditError,
    ErasureUnfinishedError,
    ErasureWaitsError,
    JournalError,
    JournalFullError,
    NotServingError,
    OverloadedError,
)
from server.graph_link import GraphLink
from server.histories import LiveHistories
from server.journal import Journal
from server.memory import Memory
from server.redacting import Redacting

if TYPE_CHECKING:
    from kg.store import Graph

_log = structlog.get_logger(__name__)

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_FIRST_RETRY_S = 5.0
_LONGEST_RETRY_S = 300.0


@dataclass(frozen=True)
class Erased:
    """What an erasure took away: interactions of the graph, events of the own journal; when, ms since the epoch."""

    interactions: int
    journal_events: int
    at_ms: int


@dataclass(frozen=True)
class _Applied:
    """Erasures of other servers that were done here, by key: in which histories, and to how many users."""

    erasures: Mapping[str, Erasure]
    histories: Sequence[LiveHistories]
    users: int


@dataclass(frozen=True)
class _Begun(Generic[T_co]):
    """Erasures that are done but for the snapshots.

    Args:
        erasures: take these users out of the snapshots.
        finish: to be called after that, with whether it could be done; not in the event loop's thread.
    """

    erasures: Collection[Erasure]
    finish: Callable[[bool], T_co]


class Eraser:
    """Erases users here, and finishes what was begun.

    Args:
        journal: the own journal.
        drain: what takes its events to the graph.
        link: the graph.
        memory: the histories in service.
        snapshots: the folder of snapshots.
        audit: the record of calls, which is told of an erasure that its call could not finish; None: there is none.
    """

    def __init__(
        self,
        journal: Journal,
        drain: Drain,
        link: "GraphLink[Graph]",
        memory: Memory,
        snapshots: Path,
        audit: Audit | None = None,
    ) -> None:
        self._journal = journal
        self._drain = drain
        self._link = link
        self._memory = memory
        self._redacting = Redacting(snapshots, journal)
        self._audit = audit
        self._own: set[int] = set()  # commits of erasures that memory has heard of
        self._later: dict[str, asyncio.Task[None]] = {}
        self._unfinished: set[str] = set()  # what `reconcile` could not do
        self._applied: list[_Applied] = []  # what the event loop has not looked at yet
        self._looking: asyncio.Task[None] | None = None
        self._opened = asyncio.Event()  # the graph has, since it was last looked
        self._leaving = False

    @property
    def redacted(self) -> bool:
        """Whether the snapshots have no erased user, as far as is known."""
        return self._redacting.redacted

    async def erase(self, user_id: str) -> Erased:
        """Erase a user everywhere.

        Raises:
            ErasureWaitsError: the graph is away, or something failed; it is finished later, by this server.
            ErasureUnfinishedError: a snapshot can't be rewritten; the user is erased everywhere else.
            JournalError: it can't be written down; nothing is done.
        """
        if not self._link.configured:
            with self._link.graph():
                pass  # says why not
        await asyncio.to_thread(self._journal.intend_erasure, user_id)
        try:
            return await self._finished(await self._link.run(lambda graph: self._erase(graph, user_id)))
        except ErasureUnfinishedError:
            raise
        except Exception as error:
            self._put_off(user_id)
            raise ErasureWaitsError(
                _why(error),
                "It is written down, and is tried again until it is done. What the user does from now on is kept, "
                "unless the erasure is asked for again.",
            ) from error

    async def stop(self) -> None:
        """Leave what is not finished to the next start."""
        self._leaving = True
        tasks = [*self._later.values(), *(() if self._looking is None else (self._looking,))]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._redacting.leave()

    def close(self) -> None:
        """Wait for the snapshot that is being rewritten; after `stop`, not in the event loop's thread."""
        self._redacting.close()

    async def _finished(self, begun: _Begun[T]) -> T:
        """Take users out of the snapshots, too, while nobody waits for a thread of the graph."""
        redacted = await asyncio.wrap_future(self._redacting.redact(begun.erasures))
        return await asyncio.to_thread(begun.finish, redacted)

    def graph_opened(self) -> None:
        """Go on with what `reconcile` could not do. Belongs to the event loop's thread."""
        while self._unfinished:
            self._put_off(self._unfinished.pop())
        self._opened.set()
        self._look_soon()

    def _look_soon(self) -> None:
        if self._applied and not self._leaving and (self._looking is None or self._looking.done()):
            self._looking = asyncio.create_task(self._look_at_applied(), name="erasures-applied")

    def _put_off(self, user_id: str) -> None:
        if user_id not in self._later and not self._leaving:
            self._later[user_id] = asyncio.create_task(self._try_again(user_id), name="erasure")

    async def _try_again(self, user_id: str) -> None:
        """Finish an erasure that failed, once it can be; where the graph is away `reconcile` does that."""
        wait_s = _FIRST_RETRY_S
        try:
            while True:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, _LONGEST_RETRY_S)
                try:
                    if user_id not in await asyncio.to_thread(self._journal.pending_erasures):
                        return
                    await self._finished(await self._link.run(lambda graph: self._finish(graph, user_id)))
                except ErasureUnfinishedError:
                    continue  # the log has it; there is more to do only if the user was to be erased again meanwhile
                except Exception as error:
                    _log.warning("erasure_waits", reason=_why(error), next_attempt_s=wait_s)
                finally:
                    self._look_soon()  # what was applied counts, also where it could not be recorded
        finally:
            del self._later[user_id]

    async def follow(self, changes: Sequence[Change]) -> None:
        """Erase here whom other servers have erased, or this one before it was started."""
        keys = {each.key for each in changes if each.commit not in self._own}
        if not keys:
            return
        try:
            # A change has only the time at which it was written: what it tells of may have been long before.
            applied = await self._link.follow(lambda graph: self._apply(graph, erasures_of(graph, keys)))
            self._redacting.redact(applied.erasures.values())
            await self._look_at(applied)
        except sqlite3.Error as error:  # told as a KgrankError, so that it is tried again
            raise JournalError(
                f"the event journal failed, and an erasure waits for it: {error}", "See to the journal's disk."
            ) from error

    async def _look_at_applied(self) -> None:
        """Look at all that was applied beside the event loop; what fails once more later, or as the graph opens."""
        wait_s = _FIRST_RETRY_S
        while self._applied:
            applied = self._applied.pop(0)
            self._opened.clear()
            try:
                await self._look_at(applied)
            except Exception as error:
                self._applied.append(applied)
                _log.warning("erasure_waits", reason=_why(error), next_attempt_s=wait_s)
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._opened.wait(), wait_s)
                wait_s = min(wait_s * 2, _LONGEST_RETRY_S)

    async def _look_at(self, applied: _Applied) -> None:
        """Do in histories that came into service meanwhile what was done in the others; in the event loop's thread.

        They read the journal's erasures, and come into service, in one step of this thread: whatever is not in service
        now has these. What came before may have read them too early.
        """
        late = [each for each in self._memory.histories() if each not in applied.histories]
        users = applied.users
        if late:
            erasures = applied.erasures.values()
            found = await asyncio.to_thread(lambda: [(each, *erased_in(each, erasures)) for each in late])
            gone = set[str]().union(*(each for _, each, _ in found))
            users += await self._link.follow(lambda graph: self._forget(graph, gone, applied.erasures))
            for histories, _, written in found:
                await self._memory.remake(histories, written)
                users += len(written)
        if users:
            # Whoever has come back since did something since; it may be with the other servers.
            self._memory.look_again(min(each.commit for each in applied.erasures.values()))

    def reconcile(self, graph: "Graph") -> None:
        """Finish what was begun, and bring this server's erasures and the graph's together, before anything else.

        Raises:
            KgrankError: it failed; it is to be tried again.
        """
        for user_id in self._journal.pending_erasures():
            try:
                begun = self._finish(graph, user_id)
                begun.finish(self._redacting.redact(begun.erasures).result())
            except ErasureUnfinishedError:
                continue  # the log has it, and nobody need go without the graph for it
            except GraphUnavailableError:
                raise
            except Exception as error:  # nor for this; `graph_opened` sees to it
                self._unfinished.add(user_id)
                _log.warning("erasure_waits", reason=_why(error))
            else:
                _log.info("erasure_finished")
        there = {each.user_key: each for each in erasures_since(graph, 0)}
        here = {each.user_key: each for each in self._journal.erasures()}
        later = {user_key(user_id) for user_id in self._unfinished}
        new = {
            key: each
            for key, each in there.items()
            if key not in later and (key not in here or here[key].commit < each.commit)
        }
        if new:
            self._applied.append(self._apply(graph, new))
            self._redacting.redact(new.values())
        forgotten = [each for key, each in here.items() if key not in there or there[key].commit < each.commit]
        if forgotten:
            users = erase_again(graph, forgotten)
            _log.warning("erasures_restored", erasures=len(forgotten), users=users)

    def redact_snapshots(self) -> None:
        """Take erased users out of snapshots that were put back from a backup; before any is served."""
        self._redacting.redact(()).result()  # where it fails, they are served all the same: memory gets no erased user

    def _finish(self, graph: "Graph", user_id: str) -> _Begun[object]:
        """Erase a user as was intended: what a server received since is new, and stays.

        The same holds after the erasure of another server that the user was erased by meanwhile.

        It is put on record before it is crossed out: what fails in between is done, and on record, at the next attempt.
        """
        key, intended_ms = user_key(user_id), self._journal.intended_ms(user_id)
        done = erasures_of(graph, [key]).get(key)
        if done is None or intended_ms is None or done.at_ms < intended_ms:
            return self._erase(graph, user_id, intended_ms, by_itself=True)
        erasure, applied = done, self._apply(graph, {key: done})

        def finish(redacted: bool) -> None:
            self._applied.append(applied)
            self._record(user_id, redacted)
            self._journal.finish_erasure(erasure)

        return _Begun([erasure], finish)

    def _record(self, user_id: str, redacted: bool) -> None:
        if self._audit is not None:
            code = grpc.StatusCode.OK if redacted else grpc.StatusCode.UNAVAILABLE
            self._audit.erasure_finished(user_id, code)

    def _erase(
        self, graph: "Graph", user_id: str, before_ms: int | None = None, *, by_itself: bool = False
    ) -> _Begun[Erased]:
        """Erase a user from journal, memory and graph; what was received after `before_ms` stays, None: nothing."""
        # Nothing of the user is on its way from the journal to the graph: else it would come after the erasure.
        with self._drain.paused():
            events = self._journal.erase(user_id, before_ms).result()
            # Not before it was asked for, wherever the clock is now: that would not cross it out.
            at_ms = max(time.time_ns() // 1_000_000, self._journal.intended_ms(user_id) or 0)
            erasure, interactions = erase_user(graph, user_id, at_ms if before_ms is None else before_ms)
            # What came in between stays out of the graph: it goes here, too.
            events += self._journal.erase(user_id, erasure.at_ms).result()
            if before_ms is not None:
                self._give_back(graph, [user_id])
        self._own.add(erasure.commit)

        def finish(redacted: bool) -> Erased:
            if by_itself:
                self._record(user_id, redacted)
            self._journal.finish_erasure(erasure)
            _log.info("user_erased", interactions=interactions, journal_events=len(events), commit=erasure.commit)
            if not redacted:
                raise ErasureUnfinishedError(
                    "the user is erased, but for snapshots that can't be rewritten",
                    "The server's log names them: see to their disk, or remove what can't be read, and call again; it "
                    "is also tried with the next erasure and at the next start.",
                )
            return Erased(interactions, len(events), erasure.at_ms)

        return _Begun([erasure], finish)

    def _apply(self, graph: "Graph", new: Mapping[str, Erasure]) -> _Applied:
        """Erase here what was there before some erasures, by the hash of the user's id; `_look_at` does the rest.

        They are noted before the snapshots are rewritten, which nobody waits for: each start does that for all of them.
        """
        looked_at = self._memory.histories()
        known = set[str]().union(*(erased_in(each, new.values())[0] for each in looked_at))
        known |= with_keys([*self._memory.searched(), *self._journal.users()], new.keys(), looked_at)
        found = self._forget(graph, known, new)
        begun = {user_key(user_id) for user_id in self._journal.pending_erasures()}
        for key in new.keys() - begun:  # those take more than this did, and finish it
            self._journal.finish_erasure(new[key])
        _log.info("erasures_followed", erasures=len(new), users=found)
        return _Applied(new, looked_at, found)

    def _forget(self, graph: "Graph", known: Iterable[str], new: Mapping[str, Erasure]) -> int:
        """Erase from journal and memory those of some users who are among the erased; return how many were."""
        found = [(user_id, new[key]) for user_id in known if (key := user_key(user_id)) in new]
        for user_id, erasure in found:
            with self._drain.paused():
                events = self._journal.erase(user_id, erasure.at_ms).result()
                # What was acknowledged here before the erasure may have reached the graph after it.
                erase_events(graph, [each.event.event_id for each in events])
        if found:
            with self._drain.paused():
                self._give_back(graph, [user_id for user_id, _ in found])
        return len(found)

    def _give_back(self, graph: "Graph", user_ids: Sequence[str]) -> None:
        """Let the graph have what it took of the journal after users' erasures were asked for, and lost by them."""
        journal, found = self._journal, self._journal.find(user_ids)
        drained = max(journal.drained, graph.journal_offset(journal.name))  # a kill may have kept it from being noted
        of_users = journal.of_users(user_ids, found).values()
        events = [each for of_user in of_users for each in of_user if each.offset <= drained]
        for start in range(0, len(events), BATCH):
            batch = events[start : start + BATCH]
            append_events(graph, rows(batch), journal.name, None, [each.received_ms for each in batch])


def _why(error: Exception) -> str:
    """Return what kept an erasure from being done; the log has a defect's trace."""
    match error:
        case GraphError() | OverloadedError():
            return "the graph did not take the erasure"
        case JournalError() | JournalFullError() | sqlite3.Error():
            return "this server's journal did not take the erasure: see to its disk"
        case AuditError():
            return "the audit log did not take the erasure's end: see to its disk"
        case NotServingError():
            return "the server left before the erasure was done"
    _log.error("erasure_failed", exc_info=error)
    return "the erasure failed on the way; the server's log says why"
