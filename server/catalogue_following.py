"""Catalogue changes of the graph, taken into service: those that come, and those that a snapshot missed.

Those that come are taken in beside all else that was committed: the texts of many products are read for minutes, and no
rule, erasure or event waits for that.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import structlog

from kg.catalogue import as_they_are
from kg.commits import Change, ChangeKind
from kg.errors import GraphError, KgrankError
from kg.extending import CatalogueChange
from kg.snapshot import Snapshot
from server.graph_link import GraphLink
from server.serving import Serving

if TYPE_CHECKING:
    from kg.store import Graph

KINDS = (ChangeKind.PRODUCT, ChangeKind.PRODUCT_DELETED, ChangeKind.FACTS)

_AT_ONCE = 1_000
"""Products that one step takes in, and the rest of the last one's commit; a model that is to be loaded waits for it."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 10.0
"""Before what failed is tried again."""

_log = structlog.get_logger(__name__)


class CatalogueFollowing:
    """Reads from the graph what commits changed of the catalogue, as it is now, and hands it to the engines.

    Args:
        serving: the engines.
        link: the graph.
    """

    def __init__(self, serving: Serving, link: "GraphLink[Graph]") -> None:
        self._serving = serving
        self._link = link
        self._preparing: asyncio.Task[None] | None = None
        self._taking: asyncio.Task[None] | None = None
        # Products whose changes wait, in the order they are taken, each with the first commit that changed it so.
        self._ids: dict[str, int] = {}
        self._in_hand: dict[str, int] = {}  # those that are being taken into service
        self._missed: int | None = None
        serving.catalogue.catch_up = self.since

    async def follow(self, changes: Sequence[Change]) -> None:
        """Keep changes of the catalogue, and begin to take them into service; what was taken out goes first.

        While a model is being loaded, for minutes maybe, they wait for it.
        """
        for change in changes:
            self._ids.setdefault(change.key, change.commit)
        gone = [change.key for change in changes if change.kind is ChangeKind.PRODUCT_DELETED]
        if gone:
            self._ids = {each: self._ids[each] for each in gone} | self._ids
        if self._taking is None or self._taking.done():
            self._taking = asyncio.create_task(self._take(), name="catalogue-taking")

    @property
    def waits_of(self) -> int | None:
        """The first commit of which changes were heard of and are not in service yet; None where all are."""
        return min((*self._in_hand.values(), *self._ids.values()), default=None)

    def _next(self) -> dict[str, int]:
        """Return what is to be taken in next: whole commits, as products of one call are to see each other."""
        ids: dict[str, int] = {}
        last = None
        for product_id, commit in self._ids.items():
            if len(ids) >= _AT_ONCE and commit != last:
                break
            ids[product_id] = last = commit
        return ids

    async def _taken(self, ids: Iterable[str]) -> bool:
        """Take some products into service as they are now; return whether they are: not while a model is loaded."""
        return await self._serving.catalogue_changed(await self._link.follow(lambda graph: as_they_are(graph, ids)))

    async def _take(self) -> None:
        """Take all that waits into service, one step after the other."""
        wait_s, told = _FIRST_WAIT_S, False
        while self._ids:
            if not self._serving.loaded.is_set():
                _log.info("catalogue_waits", reason="a model is being loaded")
                await self._serving.loaded.wait()
            ids = self._in_hand = self._next()
            for each in ids:
                del self._ids[each]
            taken = False
            try:
                taken = await self._taken(ids)
                wait_s, told = _FIRST_WAIT_S, False
            except KgrankError as error:
                if not told and self._link.is_open:  # else the link tells that the graph is away
                    _log.warning("catalogue_waits", reason=error.problem, remedy=error.remedy)
                    told = True
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, _LONGEST_WAIT_S)
            except Exception:  # a defect in one change must not keep this server from all that come after it
                _log.exception("changes_not_applied", kinds=[str(kind) for kind in KINDS], products=len(ids))
                taken = True
            if not taken:  # last, as what can't be taken keeps nothing else; each with its first commit
                self._ids |= ids
            self._in_hand = {}

    def since(self, snapshot: Snapshot) -> CatalogueChange | None:
        """Return what has changed since a snapshot was exported; None where the graph is away. Runs in a thread."""
        if not self._link.configured:
            return None
        try:
            with self._link.graph() as graph:
                ids: dict[str, None] = {}
                after, forgotten = snapshot.commit, graph.forgotten_until
                if forgotten > after:
                    _log.error(
                        "catalogue_too_old",
                        commit=after,
                        forgotten_until=forgotten,
                        remedy="Export a snapshot (kgrank snapshot) and serve a model on it: what was written to the "
                        "catalogue between the two is not in the answers.",
                    )
                while changes := graph.changes_since(after):
                    ids |= dict.fromkeys(change.key for change in changes if change.kind in KINDS)
                    after = changes[-1].commit
                return as_they_are(graph, ids)
        except GraphError as error:
            _log.info("catalogue_behind", commit=snapshot.commit, reason=error.problem)
            self._miss(snapshot.commit)
            return None

    def _miss(self, after: int) -> None:
        self._missed = after if self._missed is None else min(self._missed, after)

    def missed(self) -> int | None:
        """Return the commit after which the follower must begin anew, once; None where nothing was missed."""
        missed, self._missed = self._missed, None
        return missed

    def prepare(self) -> None:
        """Make ready what new products need, or let what does that go on with more; ranking goes on meanwhile."""
        if self._link.configured and (self._preparing is None or self._preparing.done()):
            self._preparing = asyncio.create_task(self._prepare(), name="catalogue")

    async def stop(self) -> None:
        """Wait for what is being made ready, or loaded, no longer."""
        tasks = [task for task in (self._preparing, self._taking) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _prepare(self) -> None:
        try:
            await self._serving.prepare_to_grow()
        except KgrankError as error:  # new products are then ranked by their text alone
            _log.error("catalogue_not_prepared", reason=error.problem, remedy=error.remedy)
        except Exception:
            _log.exception("catalogue_not_prepared")
