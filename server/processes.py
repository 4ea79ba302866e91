"""Several server processes on one port: started, watched, replaced when they die, restarted one after the other.

Each has a journal of its own, and hears of the others' events through the graph. The kernel spreads connections over
them (SO_REUSEPORT). SIGTERM ends all, each in order; SIGHUP restarts one after the other, each once all others serve,
so that some always do. A SIGHUP to the whole process group reaches the one that watches alone.
"""

import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

import structlog

from kg.errors import KgrankError
from server.listening import cannot_listen

_log = structlog.get_logger(__name__)

_LOOK_EVERY_S = 0.1
_SOUND_AFTER_S = 60.0
_LONGEST_WAIT_S = 30.0


class ProcessFailedError(KgrankError):
    """A server process ended before it was ready."""


class Worker:
    """One place among the processes, and the process that has it now.

    Args:
        number: from 0.
        command: starts the process; it prints one line of JSON once it serves, and leaves when its stdin ends.
    """

    def __init__(self, number: int, command: Sequence[str]) -> None:
        self.number = number
        self.ready = threading.Event()
        self.told: dict[str, Any] = {}
        self._command = command
        self._process: subprocess.Popen[str] | None = None
        self._started = self._asked = 0.0

    def start(self) -> None:
        """Start a process here."""
        self.ready.clear()
        self._started = time.monotonic()
        # The process inherits it: a SIGHUP to the whole process group is for us alone.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        threading.Thread(target=self._listen, args=(self._process,), daemon=True).start()

    def ended(self) -> int | None:
        """Return how the process ended; None while it runs, or where there is none."""
        return None if self._process is None else self._process.poll()

    @property
    def serves(self) -> bool:
        """Whether the process has said so, and has not ended."""
        return self.ready.is_set() and self.ended() is None

    @property
    def lived_s(self) -> float:
        """How long ago the process was started."""
        return time.monotonic() - self._started

    def leave(self) -> None:
        """Ask the process to end in order."""
        if self._process is not None and self._process.poll() is None:
            self._asked = time.monotonic()
            self._process.terminate()

    def wait(self, patience_s: float | None = None) -> None:
        """Wait until the process has ended; one that does not within its time is killed.

        Args:
            patience_s: how long it may take; as long as it likes when None.
        """
        if self._process is not None:
            try:
                self._process.wait(patience_s)
            except subprocess.TimeoutExpired:
                _log.error("process_killed", process=self.number, waited_s=round(time.monotonic() - self._asked, 1))
                self._process.kill()
                self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                if pipe is not None:
                    pipe.close()

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None  # for mypy: it is a pipe
        line = process.stdout.readline()
        if line and process is self._process:
            self.told = json.loads(line)
            self.ready.set()


@dataclass
class _Wish:
    """What signals ask for."""

    leave: bool = False
    restart: bool = False


def supervise(
    count: int,
    host: str,
    port: int,
    command: Callable[[int, int], Sequence[str]],
    on_ready: Callable[[int, str | None], None],
    patience_s: float,
) -> None:
    """Run processes until SIGTERM or SIGINT.

    Args:
        count: how many.
        host: address to listen on.
        port: port to share; 0 takes a free one.
        command: returns the command line of a process, by its number and the port.
        on_ready: called once all serve, with the port and the model version.
        patience_s: how long a process may take to end in order before it is killed.

    Raises:
        PortTakenError: somebody else listens there.
        ProcessFailedError: one ended before it was ready for the first time; the others are ended too.
    """
    wish = _Wish()
    _hear(wish)
    with _reserved(host, port) as reserved:
        port = reserved.getsockname()[1]
        workers = [Worker(number, command(number, port)) for number in range(count)]
        try:
            for worker in workers:
                worker.start()
            if _all_ready(workers, wish):
                on_ready(port, workers[0].told.get("model_version"))
                _watch(workers, wish, patience_s)
        finally:
            for worker in workers:
                worker.leave()
            for worker in workers:
                worker.wait(patience_s)


def _hear(wish: _Wish) -> None:
    def leave(number: int, frame: FrameType | None) -> None:
        wish.leave = True

    def restart(number: int, frame: FrameType | None) -> None:
        wish.restart = True

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGHUP, restart)


def _reserved(host: str, port: int) -> socket.socket:
    """Return a socket that is bound to the port and does not listen: nobody but us can share it."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        _refuse_listener(family, place)
        reserved = socket.socket(family, kind, protocol)
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        reserved.bind(place)
    except OSError as error:
        raise cannot_listen("the servers", host, port, error) from error
    return reserved


def _refuse_listener(family: int, place: Any) -> None:
    """Raise OSError where somebody listens, be it one who would share."""
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(place)


def _all_ready(workers: Sequence[Worker], wish: _Wish) -> bool:
    """Wait until all serve; return False if that is not wanted any more."""
    while not all(worker.ready.wait(_LOOK_EVERY_S / len(workers)) for worker in workers):
        for worker in workers:
            ended = worker.ended()
            if ended is not None and not worker.ready.is_set():
                raise ProcessFailedError(
                    f"server process {worker.number} ended before it was ready (status {ended})",
                    "Its own lines above say why.",
                )
        if wish.leave:
            return False
    return True


class _Keeper:
    """Replaces processes that end: at once, and those that soon end again after ever longer waits."""

    def __init__(self, workers: Sequence[Worker], wish: _Wish) -> None:
        self._workers, self._wish = workers, wish
        self._waits_s = dict.fromkeys(workers, 0.0)
        self._due: dict[Worker, float] = {}

    def look(self, but: Worker | None = None) -> None:
        """Replace those that have ended and are due, except one that somebody else sees to."""
        for worker in self._workers:
            ended = worker.ended()
            if ended is None or worker is but:
                self._due.pop(worker, None)
                continue
            if worker not in self._due:
                wait_s = 0.0 if worker.lived_s > _SOUND_AFTER_S else self._waits_s[worker]
                self._waits_s[worker] = min(max(1.0, wait_s * 2), _LONGEST_WAIT_S)
                self._due[worker] = time.monotonic() + wait_s
                _log.error("process_ended", process=worker.number, status=ended, replaced_in_s=wait_s)
            if time.monotonic() >= self._due[worker]:
                del self._due[worker]
                worker.wait()
                worker.start()

    def until(self, reached: Callable[[], bool], but: Worker | None = None) -> bool:
        """Go on looking until something is reached; return False where we are to leave before."""
        while not self._wish.leave:
            if reached():
                return True
            self.look(but)
            time.sleep(_LOOK_EVERY_S)
        return False


def _watch(workers: Sequence[Worker], wish: _Wish, patience_s: float) -> None:
    """Replace processes that end, and restart all when it is asked for, until we are to leave."""
    keeper = _Keeper(workers, wish)
    while keeper.until(lambda: wish.restart):
        wish.restart = False
        for worker in workers:
            if not _restart(worker, [other for other in workers if other is not worker], keeper, patience_s):
                break


def _restart(worker: Worker, others: Sequence[Worker], keeper: _Keeper, patience_s: float) -> bool:
    """End a process in order once all others serve, and start another; return False where none further may follow."""
    if down := [other.number for other in others if not other.serves]:
        _log.warning("restart_waits", process=worker.number, for_processes=down)
    if not keeper.until(lambda: all(other.serves for other in others)):
        return False
    served = worker.told.get("model_version")
    worker.leave()
    killed_at = time.monotonic() + patience_s
    if not keeper.until(lambda: worker.ended() is not None or time.monotonic() > killed_at, but=worker):
        return False
    worker.wait(0)
    worker.start()
    if not keeper.until(lambda: worker.ready.is_set() or worker.ended() is not None, but=worker):
        return False
    if not worker.ready.is_set():  # the watch replaces it
        return _stopped(worker, "it ended before it was ready")
    if served is not None and worker.told.get("model_version") is None:
        return _stopped(worker, "it serves no model")
    _log.info("process_restarted", process=worker.number)
    return True


def _stopped(worker: Worker, reason: str) -> bool:
    remedy = "Its own lines say why. Mend that, and send SIGHUP again; the others were left as they are."
    _log.error("restart_stopped", process=worker.number, reason=reason, remedy=remedy)
    return False


def own_command(arguments: Sequence[str]) -> list[str]:
    """Return the command line of `kgrank` with these arguments, by the interpreter that runs now."""
    return [sys.executable, "-m", "server.main", *arguments]
