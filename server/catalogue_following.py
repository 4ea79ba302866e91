"""Catalogue changes of the graph, taken into service: those that come, and those that a snapshot missed."""

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

_RETRIED_AFTER_S = 1.0

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
        self._waiting: asyncio.Task[None] | None = None
        self._ids: dict[str, None] = {}  # of products whose changes wait
        self._missed: int | None = None
        serving.catalogue.catch_up = self.since

    async def follow(self, changes: Sequence[Change]) -> None:
        """Take changes of the catalogue into service.

        While a model is being loaded, for minutes maybe, they wait for it, and nothing else that was committed does.

        Raises:
            KgrankError: the graph is away; nothing was changed.
        """
        ids = dict.fromkeys(change.key for change in changes)
        # Not beside those that wait: they may have been read before, and would come after.
        if self._serving.loaded.is_set() and not self.waits and await self._taken(ids):
            return
        self._ids |= ids
        if not self.waits:
            _log.info("catalogue_waits", reason="a model is being loaded")
            self._waiting = asyncio.create_task(self._go_on_once_loaded(), name="catalogue-waits")

    @property
    def waits(self) -> bool:
        """Whether changes that were heard of are not in service yet."""
        return self._waiting is not None and not self._waiting.done()

    async def _taken(self, ids: Iterable[str]) -> bool:
        """Take some products into service as they are now; return whether they are: not while a model is loaded."""
        return await self._serving.catalogue_changed(await self._link.follow(lambda graph: as_they_are(graph, ids)))

    async def _go_on_once_loaded(self) -> None:
        while self._ids:
            await self._serving.loaded.wait()
            ids, self._ids = self._ids, {}
            try:
                if not await self._taken(ids):
                    self._ids |= ids
            except KgrankError as error:
                if self._link.is_open:  # else the link tells that the graph is away
                    _log.warning("catalogue_waits", reason=error.problem, remedy=error.remedy)
                self._ids |= ids
                await asyncio.sleep(_RETRIED_AFTER_S)
            except Exception:  # a defect in one change must not keep this server from all that come after it
                _log.exception("changes_not_applied", kinds=[str(kind) for kind in KINDS], products=len(ids))

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
        tasks = [task for task in (self._preparing, self._waiting) if task is not None]
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
