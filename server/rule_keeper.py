"""The rule book kept as the graph has it, and a copy on disk: a server that starts while the graph is away blocks what
was blocked.

A server that is run without a graph goes by the copy as well, if there is one. With a graph and without a copy, a new
replica knows of no rule until it has read the graph once. It does not serve before: what the shop blocks must not be
shown. How long it waits at most is a setting; when it goes on without, it says so loudly.
"""

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from kg.commits import Change
from kg.errors import GraphUnavailableError, KgrankError
from kg.rules import Action, Rule, Target, rules_page
from kg.whole_files import write_whole
from server.graph_link import GraphLink
from server.rulebook import RuleBook

if TYPE_CHECKING:
    from kg.store import Graph

RULES_FILE = "rules.json"
"""Where the copy is, beside the journal."""

_FIRST_RETRY_S = 0.5
_LONGEST_RETRY_S = 30.0

_log = structlog.get_logger(__name__)


def read_copy(file: Path) -> list[Rule]:
    """Return the rules of a copy.

    Raises:
        OSError: it can't be read.
        ValueError, TypeError, KeyError: it is damaged.
    """
    rows = json.loads(file.read_text(encoding="utf-8"))
    return [Rule(**{**row, "action": Action(row["action"]), "target": Target(row["target"])}) for row in rows]


class RuleKeeper:
    """Replaces the rules in force by those of the graph. The methods belong to the event loop's thread.

    Args:
        book: whose rules they are.
        link: the graph.
        file: where the copy is.
        wait_s: how long a server without a copy waits for the graph before it goes on without rules.
        settled: called once, where rules were awaited and are not any more.
    """

    def __init__(
        self,
        book: RuleBook,
        link: "GraphLink[Graph]",
        file: Path,
        wait_s: float = 0,
        settled: Callable[[], None] = lambda: None,
    ) -> None:
        self._book = book
        self._link = link
        self._file = file
        self._wait_s = wait_s
        self._told = settled
        self._reading = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._settled = asyncio.Event()
        self.known = True

    def recall(self) -> None:
        """Take the rules of the copy: those that held when a server of this home read them last; else, await them.

        Without a graph there is nothing to await: no copy is no rules, and a damaged one is told of.
        """
        try:
            self._book.replace(read_copy(self._file))
            self._settled.set()
            return
        except FileNotFoundError:
            self.known = not self._link.configured
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("rules_not_recalled", file=str(self._file), reason=type(error).__name__)
            self.known = False
        if self._link.configured:
            self._book.awaited = True
            self._begin(self._go_on_without())
            return
        self._settled.set()
        if not self.known:
            self._say_without(0)

    async def settled(self) -> None:
        """Wait until the rules are known, or are waited for no longer."""
        await self._settled.wait()

    async def follow(self, changes: Sequence[Change]) -> None:
        """Take the rules as they are now: some were changed."""
        async with self._reading:
            rules = tuple(await self._link.follow(rules_page))
            if await asyncio.to_thread(self._prepared, rules) or not self.known:
                self._book.replace(rules)
                _log.info("rules_in_force", rules=len(rules))
            self.known = True
            self._settle()
            await asyncio.to_thread(self._keep, rules)

    def graph_opened(self) -> None:
        """Take the rules of a graph that is there (again)."""
        self._begin(self._refresh())

    async def stop(self) -> None:
        """Wait for nothing any longer."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _refresh(self) -> None:
        wait_s = _FIRST_RETRY_S
        while True:
            try:
                await self.follow(())
                return
            except GraphUnavailableError:
                return  # it went away again; the next time that it opens this is done anew
            except KgrankError as error:
                _log.warning("rules_not_read", reason=error.problem, next_attempt_s=wait_s)
            except Exception:
                _log.exception("rules_not_read", next_attempt_s=wait_s)
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_RETRY_S)

    async def _go_on_without(self) -> None:
        try:
            async with asyncio.timeout(self._wait_s):
                await self._settled.wait()
        except TimeoutError:
            self._say_without(self._wait_s)
            self._settle()

    def _say_without(self, waited_s: float) -> None:
        graph = "Mend the graph, or put" if self._link.configured else "Put"
        remedy = f"{graph} the rules.json of another server beside this one's journal."
        _log.error("serving_without_rules", waited_s=waited_s, file=str(self._file), remedy=remedy)

    def _prepared(self, rules: tuple[Rule, ...]) -> bool:
        """Have it worked out what rules come to, if they are others than before; return whether they are.

        Where they are many that takes long: it runs in a thread, not in the event loop when a question comes.
        """
        others = rules != self._book.rules
        if others:
            self._book.prepare(rules, time.time_ns() // 1_000_000)
        return others

    def _settle(self) -> None:
        if not self._settled.is_set():
            self._book.awaited = False
            self._settled.set()
            self._told()

    def _keep(self, rules: Sequence[Rule]) -> None:
        try:
            write_whole(self._file, json.dumps([asdict(rule) for rule in rules]).encode())
        except OSError as error:
            _log.warning("rules_not_kept", file=str(self._file), reason=error.strerror or str(error))
