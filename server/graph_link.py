"""A server's one connection to the graph: kept open, and opened again when it is lost.

Ranking never waits for it. Whoever needs the graph gets it at once, or is told at once that it is away.
"""

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Generic, Protocol, TypeVar

import structlog

from kg.errors import GraphUnavailableError, KgrankError
from server.errors import NoGraphError, OverloadedError

_log = structlog.get_logger(__name__)

_FIRST_WAIT_S = 0.5
_LONGEST_WAIT_S = 10.0
_THREADS = 4
_MOST_WAITING = 256

T = TypeVar("T")
G = TypeVar("G", bound="OpenGraph")


class OpenGraph(Protocol):
    """What the link itself needs of `kg.store.Graph`."""

    def ensure_schema(self) -> None:
        """Make the constraints and indexes that are not there yet."""


class GraphLink(Generic[G]):
    """The graph, as long as it is there. Safe to use from any thread.

    Args:
        connect: opens the graph; None: the server runs without one.
        on_open: called by the link's own thread each time that the graph is there (again), before others may use it.
        then: called by the link's own thread once they may.
    """

    def __init__(
        self,
        connect: Callable[[], AbstractContextManager[G]] | None,
        on_open: Callable[[G], None] = lambda graph: None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._connect = connect
        self._on_open = on_open
        self._then = then
        self._graph: G | None = None
        self._changed = threading.Condition()
        self._leaving = False
        self._tried = False
        self._waiting = 0
        self._lost = threading.Event()
        self._thread = threading.Thread(target=self._run, name="graph-link", daemon=True)
        self._calls = ThreadPoolExecutor(_THREADS, thread_name_prefix="graph")
        self._followers = ThreadPoolExecutor(1, thread_name_prefix="graph-follower")  # callers must not hold it up

    @property
    def configured(self) -> bool:
        """Whether this server has a graph at all."""
        return self._connect is not None

    @property
    def is_open(self) -> bool:
        """Whether the graph is there, as far as is known."""
        return self._graph is not None

    @property
    def is_away(self) -> bool:
        """Whether the graph is known not to be there: it was tried."""
        return self._tried and self._graph is None

    def start(self) -> None:
        """Begin to connect, and go on trying."""
        if self._connect is not None:
            self._thread.start()

    @contextmanager
    def graph(self, wait_s: float = 0) -> Iterator[G]:
        """Yield the open graph for the length of a `with` block.

        Args:
            wait_s: how long to wait for it.

        Raises:
            GraphUnavailableError: it is away, or went away meanwhile.
        """
        if self._connect is None:
            raise NoGraphError("this server runs without a graph", "Start it without --no-graph.")
        with self._changed:
            self._changed.wait_for(lambda: self._graph is not None or self._leaving, wait_s)
            graph = self._graph
        if graph is None:
            raise GraphUnavailableError("the graph does not answer", "Try again: the server keeps on connecting to it.")
        try:
            yield graph
        except GraphUnavailableError:
            with self._changed:
                if self._graph is graph:
                    self._graph = None
                    self._lost.set()
            raise

    async def run(self, function: Callable[[G], T]) -> T:
        """Call a function with the graph in a thread, for a caller of the server, and return what it returns.

        A caller that goes away does not stop it: what is committed is committed. Belongs to the event loop's thread.

        Raises:
            GraphUnavailableError: the graph is away, or went away meanwhile.
            OverloadedError: as many callers wait for the graph as may; nothing was done.
        """
        if self._waiting >= _MOST_WAITING:
            raise OverloadedError(f"{self._waiting} calls wait for the graph, as many as may", "Try again later.")
        self._waiting += 1
        begun = self._begun(self._calls, function)
        begun.add_done_callback(self._one_less)
        return await asyncio.shield(begun)

    async def follow(self, function: Callable[[G], T]) -> T:
        """Call a function as `run` does, in a thread that serves no callers: for what follows the graph's commits.

        Raises:
            GraphUnavailableError: the graph is away, or went away meanwhile.
        """
        return await asyncio.shield(self._begun(self._followers, function))

    def _one_less(self, _: object) -> None:
        self._waiting -= 1

    def _begun(self, threads: ThreadPoolExecutor, function: Callable[[G], T]) -> "asyncio.Future[T]":
        def call() -> T:
            with self.graph() as graph:
                return function(graph)

        return asyncio.get_running_loop().run_in_executor(threads, call)

    def close(self) -> None:
        """Finish the calls that run, and let the graph go."""
        for threads in (self._calls, self._followers):
            threads.shutdown(wait=True, cancel_futures=True)
        with self._changed:
            self._leaving = True
            self._lost.set()
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        wait_s = _FIRST_WAIT_S
        while not self._leaving:
            try:
                self._hold()
                wait_s = _FIRST_WAIT_S
                continue
            except KgrankError as error:
                _log.warning("graph_away", reason=error.problem, remedy=error.remedy, next_attempt_s=wait_s)
            except Exception:
                # A defect must not end the link for good.
                _log.exception("graph_link_failed", next_attempt_s=wait_s)
            finally:
                self._graph, self._tried = None, True
            with self._changed:
                self._changed.wait_for(lambda: self._leaving, wait_s)
            wait_s = min(wait_s * 2, _LONGEST_WAIT_S)

    def _hold(self) -> None:
        """Open the graph and keep it until it is lost or the server leaves."""
        assert self._connect is not None  # else there is no thread
        with self._connect() as graph:
            graph.ensure_schema()
            self._on_open(graph)
            self._lost.clear()
            with self._changed:
                if self._leaving:
                    return
                self._graph = graph
                self._changed.notify_all()
            _log.info("graph_open")
            self._then()
            self._lost.wait()
