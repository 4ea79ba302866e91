"""The event journal: what is acknowledged is on disk first.

SQLite with a write-ahead log and full synchronisation. One thread commits whatever is waiting in one transaction
(group commit), so that many callers share the price of one sync to disk; each is told after the commit. An event's id
is unique: one that is stored already is acknowledged and not stored again. Offsets only grow; `name` tells this journal
from any other, so that the graph can keep how far it has taken each.
"""

import fcntl
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import structlog

from kg.errors import KgrankError
from server.contract import WrittenEvent
from server.errors import JournalError, NotServingError, OverloadedError
from server.group_commit import GroupCommit
from server.journal_copy import LONGEST_LOG_PAGES, JournalCopy
from server.journal_file import JournalFile, StoredEvent, WrittenSearch, not_written, stored_event
from server.journal_insert import Stored, insert
from server.journal_trim import JournalTrim
from server.journal_users import Found, erase

_log = structlog.get_logger(__name__)

_INSERT_SEARCH = "INSERT INTO search (event_id, user_id, query, at_ms) VALUES (?, ?, ?, ?)"
KEPT_MS = 7 * 24 * 3_600_000

_MOST_TOGETHER = 500
_MOST_WAITING = 100 * _MOST_TOGETHER
_RECONNECT_S = 0.5


@dataclass(frozen=True)
class _Waiting:
    events: Sequence[WrittenEvent]
    done: Future[list[Stored]]
    searches: Sequence[WrittenSearch] = ()

    def __len__(self) -> int:
        return len(self.events) + len(self.searches)

    def fail(self, error: KgrankError) -> None:
        """Tell the caller of an error, unless it has been told something already."""
        if not self.done.done():
            self.done.set_exception(error)


@dataclass(frozen=True)
class _ToErase:
    """A user whose events go, but for those received after `before_ms`."""

    user_id: str
    before_ms: int
    found: Found
    done: Future[list[StoredEvent]]

    def fail(self, error: KgrankError) -> None:
        """Tell the caller of an error, unless it has been told something already."""
        if not self.done.done():
            self.done.set_exception(error)


class Journal(JournalFile):
    """A durable, ordered log of events. Appending is safe from any thread.

    Args:
        path: the SQLite file; made, with its folder, where it is missing.
        on_commit: called by the writing thread with what a transaction stored, in order, before its callers are told.
        on_erase: called by the writing thread, in the same order, with a user whose events it has erased, and with
            those events of the user that stay.
        hand_over: called by the writing thread once for each transaction, with what tells all of its callers: an event
            loop's `call_soon_threadsafe` wakes the loop once for all, and `append`'s futures are done in the loop.
        max_waiting: events waiting for the disk before new ones are refused.
        kept_ms: how long events stay after the graph has them: their ids are known as duplicates, and a graph that is
            restored from a backup is given them again.
        lock: what `locked` returned to the caller, who goes on holding it; None: a lock of its own, until it is closed.

    Raises:
        JournalError: the file can't be opened, or is not a journal.
    """

    def __init__(
        self,
        path: Path,
        on_commit: Callable[[list[StoredEvent]], None] = lambda stored: None,
        on_erase: Callable[[str, list[StoredEvent]], None] = lambda user_id, left: None,
        *,
        hand_over: Callable[[Callable[[], None]], object] = lambda tell: tell(),
        max_waiting: int = _MOST_WAITING,
        kept_ms: int = KEPT_MS,
        lock: IO[str] | None = None,
    ) -> None:
        self._lock = locked(path) if lock is None else None
        try:
            super().__init__(path)
        except BaseException:
            self._let_go()
            raise
        self._on_commit = on_commit
        self._on_erase = on_erase
        self._hand_over = hand_over
        self._max_waiting = max_waiting
        self._queue: queue.SimpleQueue[_Waiting | _ToErase | None] = queue.SimpleQueue()
        self._appending = threading.Lock()
        self._counting = threading.Lock()
        self._waiting_events = 0
        self._leaving = threading.Event()
        self._behind = self.undrained()
        self._searches_behind = self.searches_waiting()
        self.trim = JournalTrim(self.connection, kept_ms)
        self._copy = JournalCopy(self.connection, self.trim.go_on)
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def behind(self) -> int:
        """About how many events on disk the graph is not known to have; costs nothing to ask."""
        return max(0, self._behind)

    @property
    def searches_behind(self) -> int:
        """About how many searches on disk the graph is not known to have; costs nothing to ask."""
        return max(0, self._searches_behind)

    def forget_searches(self, offsets: Sequence[int]) -> int:
        """Forget searches: the graph has them (see `JournalFile.forget_searches`)."""
        gone = super().forget_searches(offsets)
        with self._counting:
            self._searches_behind -= gone  # maybe before the writing thread has counted them
        return gone

    def set_drained(self, offset: int) -> None:
        """Take the graph to have the events up to an offset, and no others (see `JournalFile.set_drained`)."""
        super().set_drained(offset)
        self._recount()

    def begin_anew(self) -> None:
        """Take another name (see `JournalFile.begin_anew`)."""
        super().begin_anew()
        self._recount()

    def drained_to(self, offset: int, count: int) -> None:
        """Remember that the graph has everything up to an offset, `count` events more than before."""
        self.note_drained(offset)
        with self._counting:
            self._behind -= count  # maybe before the writing thread has counted them

    def append(self, events: Sequence[WrittenEvent]) -> "Future[list[Stored]]":
        """Store events, each with an id; the future is done once they are on disk.

        Where it ends in `JournalFullError` (the disk is full) or `JournalError`, none of them is stored, unless the
        error says that this is not known.

        Raises:
            NotServingError: the journal is closed.
            OverloadedError: too many events are waiting; none of these is stored.
        """
        return self._append(_Waiting(events, Future()))

    def append_search(self, search: WrittenSearch) -> "Future[list[Stored]]":
        """Store a search; the future is done once it is on disk. Fails as `append` does."""
        return self._append(_Waiting((), Future(), (search,)))

    def _append(self, waiting: _Waiting) -> "Future[list[Stored]]":
        waiting.done.set_running_or_notify_cancel()  # what is on its way to the disk is not taken back
        with self._appending:
            if self._leaving.is_set():
                raise NotServingError("the server is leaving", "Try again; another one may be there.")
            if self._waiting_events >= self._max_waiting:
                raise OverloadedError(f"{self._waiting_events} events are waiting", "Try again a little later.")
            self._waiting_events += len(waiting)
            self._queue.put(waiting)
        return waiting.done

    def erase(self, user_id: str, before_ms: int | None = None) -> "Future[list[StoredEvent]]":
        """Erase the events of a user that were appended before this call, or during it; the future has them.

        The whole journal is read first, in this thread, which must not be the event loop's.

        Args:
            user_id: the user.
            before_ms: those that were received later, by the clock, stay; None: all go.

        Raises:
            NotServingError: the journal is closed.
        """
        done: Future[list[StoredEvent]] = Future()
        done.set_running_or_notify_cancel()
        try:
            found = self.find([user_id])
        except sqlite3.Error as error:
            _log.error("journal_erase_failed", error=str(error))
            done.set_exception(not_written())
            return done
        with self._appending:
            if self._leaving.is_set():
                raise NotServingError("the server is leaving", "Try again; it is finished at its next start.")
            self._queue.put(_ToErase(user_id, (1 << 62) if before_ms is None else before_ms, found, done))
        return done

    def close(self) -> None:
        """Store what is waiting, then stop."""
        with self._appending:
            self._leaving.set()
            self._queue.put(None)
        self._thread.join()
        self._copy.close()
        self._let_go()

    def _let_go(self) -> None:
        if self._lock is not None:
            self._lock.close()

    def _recount(self) -> None:
        with self._counting:
            self._behind = self.undrained()
            self._searches_behind = self.searches_waiting()

    def _run(self) -> None:
        """Write until the journal is closed; after a failure, with a connection of its own again."""
        while True:
            try:
                with self.connection() as connection:
                    connection.execute(f"PRAGMA wal_autocheckpoint = {LONGEST_LOG_PAGES}")
                    self._write_all(connection)
            except Exception:
                # Whoever waits for a thread that has died would wait for ever.
                _log.exception("journal_thread_failed", next_attempt_s=_RECONNECT_S)
                leaving = self._leaving.is_set()  # from then on nothing is appended
                if self._fail_waiting() or leaving:
                    return
                self._leaving.wait(_RECONNECT_S)
            else:
                return

    def _fail_waiting(self) -> bool:
        """Tell everyone in the queue that nothing is stored; return whether the journal's end was in it."""
        while True:
            try:
                waiting = self._queue.get_nowait()
            except queue.Empty:
                return False
            if waiting is None:
                return True
            waiting.fail(not_written())
            if isinstance(waiting, _Waiting):
                self._took([waiting])

    def _took(self, together: list[_Waiting]) -> None:
        with self._appending:
            self._waiting_events -= sum(map(len, together))

    def _write_all(self, connection: sqlite3.Connection) -> None:
        waiting: _Waiting | _ToErase | None = self._queue.get()
        group = GroupCommit()
        while waiting is not None:
            if isinstance(waiting, _ToErase):
                try:
                    self._erase(connection, waiting)
                finally:  # whatever failed: whoever waits for the answer keeps the drain waiting, too
                    waiting.fail(JournalError("the erasure was not finished", "Erase the user again; see the log."))
                waiting = self._queue.get()
                continue
            group.wait(lambda: 1 + self._queue.qsize())
            began_s = time.perf_counter()
            then: _ToErase | None = None
            together = [waiting]
            count = len(waiting)
            while count < _MOST_TOGETHER:
                try:
                    following = self._queue.get_nowait()
                except queue.Empty:
                    break
                if following is None:
                    self._queue.put(None)
                    break
                if isinstance(following, _ToErase):
                    then = following
                    break
                together.append(following)
                count += len(following)
            try:
                self._write(connection, together)
            except BaseException:
                if then is not None:
                    then.fail(not_written())
                for each in together:
                    each.fail(
                        JournalError(
                            "the event journal failed; whether the event is stored is not known",
                            "Write it again under the same event_id.",
                        )
                    )
                raise
            finally:
                self._took(together)
            group.wrote(len(together), time.perf_counter() - began_s)
            waiting = then or self._queue.get()

    def _erase(self, connection: sqlite3.Connection, erasing: _ToErase) -> None:
        """Delete the events of a user, overwrite them in the file, and tell who has them in memory."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            gone = erase(connection, erasing.user_id, erasing.before_ms, erasing.found)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            _log.error("journal_erase_failed", error=str(error))
            with suppress(sqlite3.Error):
                connection.rollback()
            erasing.fail(not_written())
            if connection.in_transaction:
                raise
        else:
            with self._counting:
                self._behind -= gone.undrained
                self._searches_behind -= gone.searches
            self._on_erase(erasing.user_id, [stored_event(row) for row in gone.left])
            erasing.done.set_result([stored_event(row) for row in gone.events])

    def _write(self, connection: sqlite3.Connection, together: list[_Waiting]) -> None:
        """Store the events of several callers in one transaction, and tell each."""
        try:
            connection.execute("BEGIN IMMEDIATE")
            now_ms = time.time_ns() // 1_000_000
            events = [event for waiting in together for event in waiting.events]
            stored = insert(connection, events, now_ms)
            connection.executemany(
                _INSERT_SEARCH,
                [
                    (search.event_id, search.user_id, search.query, search.at_ms)
                    for waiting in together
                    for search in waiting.searches
                ],
            )
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            failure = self.failure(error)
            _log.error("journal_write_failed", error=str(error), events=sum(len(each.events) for each in together))
            with suppress(sqlite3.Error):
                connection.rollback()
            for waiting in together:
                waiting.fail(failure)
            if connection.in_transaction:
                raise  # this connection can't begin another one
        else:
            new = [
                StoredEvent(outcome.offset, event, now_ms)
                for event, outcome in zip(events, stored, strict=True)
                if not outcome.duplicate
            ]
            self._copy.want()
            with self._counting:
                self._behind += len(new)
                self._searches_behind += sum(len(waiting.searches) for waiting in together)
            if new:
                self._on_commit(new)
            self._hand_over(lambda: _tell(together, stored))


def _tell(together: Sequence[_Waiting], stored: Sequence[Stored]) -> None:
    """Tell the callers of a transaction what became of their events."""
    at = 0
    for waiting in together:
        waiting.done.set_result(list(stored[at : at + len(waiting.events)]))
        at += len(waiting.events)


def locked(path: Path) -> IO[str]:
    """Return an open file that keeps a journal to this process for as long as it is open, however the process ends.

    Raises:
        JournalError: another process has it, or the file can't be opened.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = path.with_name(f".{path.name}.lock").open("w")
    except OSError as error:
        raise JournalError(
            f"journal {path} can't be opened: {error}", "Check the disk and the file's permissions."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise JournalError(
            f"journal {path} belongs to another server that runs",
            "Stop that one, or start more than one with `kgrank serve --processes N`: each has a journal of its own.",
        ) from error
    return lock
