"""The rule book kept as the graph has it, and a copy on disk: a server that starts while the graph is away blocks what
was blocked.
"""

import asyncio
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from kg.commits import Change
from kg.errors import GraphUnavailableError
from kg.rules import Action, Rule, Target, rules_page
from server.graph_link import GraphLink
from server.rulebook import RuleBook

if TYPE_CHECKING:
    from kg.store import Graph

_log = structlog.get_logger(__name__)


class RuleKeeper:
    """Replaces the rules in force by those of the graph. The methods belong to the event loop's thread.

    Args:
        book: whose rules they are.
        link: the graph.
        file: where the copy is.
    """

    def __init__(self, book: RuleBook, link: "GraphLink[Graph]", file: Path) -> None:
        self._book = book
        self._link = link
        self._file = file
        self._reading = asyncio.Lock()
        self._refreshing: set[asyncio.Task[None]] = set()

    def recall(self) -> None:
        """Take the rules of the copy, where there is one: those that held when a server of this home read them last."""
        if not self._file.is_file() or not self._link.configured:
            return
        try:
            rows = json.loads(self._file.read_text(encoding="utf-8"))
            self._book.replace(
                [Rule(**{**row, "action": Action(row["action"]), "target": Target(row["target"])}) for row in rows]
            )
        except (OSError, ValueError, TypeError, KeyError) as error:
            _log.warning("rules_not_recalled", file=str(self._file), reason=type(error).__name__)

    async def follow(self, changes: Sequence[Change]) -> None:
        """Take the rules as they are now: some were changed."""
        async with self._reading:
            rules = await self._link.run(rules_page)
            if tuple(rules) != self._book.rules:
                self._book.replace(rules)
                _log.info("rules_in_force", rules=len(rules))
            await asyncio.to_thread(self._keep, rules)

    def graph_opened(self) -> None:
        """Take the rules of a graph that is there (again)."""
        task = asyncio.create_task(self._refresh())
        self._refreshing.add(task)
        task.add_done_callback(self._refreshing.discard)

    async def _refresh(self) -> None:
        try:
            await self.follow(())
        except GraphUnavailableError:
            pass  # it went away again; the next time that it opens this is done anew
        except Exception:
            _log.exception("rules_not_read")

    def _keep(self, rules: Sequence[Rule]) -> None:
        partial = self._file.with_name(f".{self._file.name}.{os.getpid()}")
        try:
            partial.write_text(json.dumps([asdict(rule) for rule in rules]), encoding="utf-8")
            partial.replace(self._file)
        except OSError as error:
            _log.warning("rules_not_kept", file=str(self._file), reason=error.strerror or str(error))
