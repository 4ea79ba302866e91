"""What is in service: one engine at a time, swapped in whole, and the events that change its answers."""

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import structlog

from kg.errors import KgrankError
from kg.snapshot import Snapshot
from kg.tables import CODES
from kg.vocabulary import MISSING
from model.artifact import Artifact
from model.refresh import refresh
from server.admission import Admission
from server.batching import Batcher
from server.config import ServeSettings
from server.engine import Engine
from server.errors import JournalError, ModelRefusedError, NotServingError
from server.histories import Interaction, LiveHistories
from server.journal import Journal, StoredEvent
from server.models import ModelFolder, oldest_as_of_ms, snapshot_folder_for
from server.question import Question, Ranking

KEPT_MS = 24 * 3_600_000
"""How long an event stays in the journal at least: so long is its id known as a duplicate."""

LEAST_KNOWN = 0.5
"""The share of a catalogue that a model must know from training; with less it would be guessing."""

_log = structlog.get_logger(__name__)

_NAN = float("nan")
_REASON_THREADS = 2  # paths are Python: more threads would only take turns

R = TypeVar("R")


@dataclass(frozen=True)
class Places:
    """Where the server finds things; `snapshot` is set when one was named on the command line."""

    models: ModelFolder
    snapshots: Path
    cache: Path
    snapshot: Path | None = None


class Serving:
    """The engine in service. Its methods belong to the event loop's thread.

    Args:
        settings: limits.
        places: where models and snapshots are.
    """

    def __init__(self, settings: ServeSettings, places: Places) -> None:
        self._settings = settings
        self._places = places
        self._engine: Engine | None = None
        self._activating = asyncio.Lock()
        self._batcher: Batcher[tuple[Engine, Question], Ranking] = Batcher(_answer, max_batch=settings.max_batch)
        self._reasons = ThreadPoolExecutor(_REASON_THREADS, thread_name_prefix="reasons")
        self._calls = Admission(settings.max_waiting)
        self._calls_for_reasons = Admission(max(1, settings.max_waiting // 2))

    @property
    def engine(self) -> Engine:
        """The engine in service.

        Raises:
            NotServingError: there is none yet.
        """
        if self._engine is None:
            raise NotServingError("no model is in service", "Wait for the start, or train one and activate it.")
        return self._engine

    @property
    def active(self) -> str | None:
        """The model version in service."""
        return None if self._engine is None else self._engine.model_version

    @contextmanager
    def admitted(self, *, reasons: bool) -> Iterator[Engine]:
        """Take a call in for the length of a `with` block, and yield the engine that serves all of it.

        Args:
            reasons: whether it asks for reasons, which take long: such calls get no more than half of the places.

        Raises:
            NotServingError: there is no engine yet.
            OverloadedError: too many calls are there; nothing was done.
        """
        engine = self.engine
        with self._calls.place(), self._calls_for_reasons.place() if reasons else nullcontext():
            yield engine

    async def answer(self, engine: Engine, question: Question) -> Ranking:
        """Answer a question together with whatever else is waiting."""
        return await self._batcher.submit((engine, question))

    async def similar(self, engine: Engine, product_index: int, k: int, excluded: Sequence[str]) -> Ranking:
        """Return the products most like one."""
        return await self._batcher.run(lambda: engine.similar(product_index, k, excluded))

    async def placed(self, engine: Engine, question: Question, product_index: int) -> tuple[Ranking, int]:
        """Answer a question about one product, and return its place among all products for the user, from 1."""
        return await self._batcher.run(lambda: (engine.answer([question])[0], engine.place(question, product_index)))

    async def reason(self, function: Callable[[], R]) -> R:
        """Look for reasons in a thread beside the scoring: paths take milliseconds, and no plain ranking waits."""
        return await asyncio.get_running_loop().run_in_executor(self._reasons, function)

    def apply(self, events: Sequence[StoredEvent]) -> None:
        """Let stored events change the next answers."""
        if self._engine is not None:
            extend(self._engine.histories, self._engine.snapshot, events)

    async def activate(self, model_version: str, journal: Journal) -> Engine:
        """Load a model beside the one in service, and swap it in.

        Raises:
            UnknownModelError: there is no such model.
            ModelRefusedError: it is damaged, or does not fit any snapshot.
        """
        async with self._activating:
            began = time.monotonic()
            engine = await asyncio.to_thread(self._load, model_version, journal)
            # What was written while the engine was being built; from here on `apply` takes over.
            for event in journal.read(engine.histories.applied, 1 << 30):
                extend(engine.histories, engine.snapshot, [event])
            self._engine = engine
            # What an engine holds stays: no collection need look through its many objects. It has no cycles, so that
            # without a collection, which would hold up every call, it goes when the last call that uses it has ended.
            gc.freeze()
            _log.info(
                "model_in_service",
                model_version=model_version,
                products=len(engine.product_ids),
                plan=str(engine.index.plan),
                seconds=round(time.monotonic() - began, 2),
            )
            return engine

    def close(self) -> None:
        """Finish what is being worked on."""
        self._batcher.close()
        self._reasons.shutdown(wait=True)

    def _load(self, model_version: str, journal: Journal) -> Engine:
        artifact = self._places.models.load(model_version)
        snapshot = self._snapshot(artifact)
        if artifact.manifest.snapshot_hash != snapshot.content_hash:
            artifact = self._refreshed(artifact, snapshot)
        current = self._engine
        if current is not None and current.snapshot is snapshot:
            histories = current.histories
        else:
            histories = LiveHistories(snapshot, self._settings.history_limit)
            oldest_ms = oldest_as_of_ms(self._places.snapshots)
            replay(histories, snapshot, journal, snapshot.as_of_ms if oldest_ms is None else oldest_ms)
        exclude_seen = not artifact.manifest.split.get("repeats", False)
        return Engine.build(artifact, snapshot, histories, exclude_seen=exclude_seen)

    def _refreshed(self, artifact: Artifact, snapshot: Snapshot) -> Artifact:
        """Return a model over another snapshot than it was trained on, products that joined since among its own."""
        known = int((artifact.products.indices(snapshot.products.array.to_pylist()) != MISSING).sum())
        version = artifact.manifest.model_version
        if known < LEAST_KNOWN * len(snapshot.products):
            raise ModelRefusedError(
                f"model {version} knows {known:,} of the {len(snapshot.products):,} products of the snapshot",
                "Train it on this snapshot, or start the server with the snapshot that it was trained on.",
            )
        _log.info("model_refreshed", model_version=version, known=known, products=len(snapshot.products))
        try:
            scorer = refresh(artifact, snapshot, self._places.cache)
        except KgrankError as error:
            raise ModelRefusedError(error.problem, error.remedy) from error
        return replace(artifact, products=snapshot.products, scorer=scorer)

    def _snapshot(self, artifact: Artifact) -> Snapshot:
        """Return the snapshot that suits a model: the named one, else the one it was trained on, else the latest."""
        places, current = self._places, self._engine
        if current is not None and (
            places.snapshot is not None or current.snapshot.content_hash == artifact.manifest.snapshot_hash
        ):
            return current.snapshot
        folder = places.snapshot or snapshot_folder_for(places.snapshots, artifact.manifest)
        if folder is None:
            raise ModelRefusedError(
                f"there is no snapshot in {places.snapshots} to serve model {artifact.manifest.model_version} with",
                "Make one: kgrank snapshot",
            )
        try:
            return Snapshot.open(folder)
        except KgrankError as error:
            raise ModelRefusedError(error.problem, error.remedy) from error


def _answer(items: Sequence[tuple[Engine, Question]]) -> list[Ranking]:
    """Answer a batch; around a swap it has questions to both engines."""
    engines = {id(engine): engine for engine, _ in items}
    if len(engines) == 1:
        return items[0][0].answer([question for _, question in items])
    answers: dict[int, Ranking] = {}
    for engine in engines.values():
        rows = [row for row, (asked, _) in enumerate(items) if asked is engine]
        answers |= zip(rows, engine.answer([items[row][1] for row in rows]), strict=True)
    return [answers[row] for row in range(len(items))]


def extend(histories: LiveHistories, snapshot: Snapshot, events: Sequence[StoredEvent]) -> None:
    """Add events to histories, each once; products that the catalogue lacks are passed over."""
    for stored in events:
        interaction = _interaction(snapshot, stored)
        if stored.offset > histories.applied and interaction is not None:
            histories.append(stored.event.user_id, interaction)
        histories.applied = max(histories.applied, stored.offset)


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
    drained, keep_from_ms = journal.drained, time.time_ns() // 1_000_000 - KEPT_MS
    for stored in journal.all():
        interaction = _interaction(snapshot, stored)
        if interaction is not None and not histories.holds(stored.event.user_id, interaction):
            histories.append(stored.event.user_id, interaction)
            count += 1
        elif (
            interaction is not None
            and stored.offset <= drained
            and stored.received_ms < keep_from_ms
            and max(stored.received_ms, stored.event.at_ms) <= trimmed_to_ms
        ):
            old.append(stored.offset)
        histories.applied = stored.offset
    try:
        journal.trim(old)
    except JournalError as error:  # it is only longer than it need be
        _log.warning("journal_not_trimmed", events=len(old), reason=error.problem, remedy=error.remedy)
        old = []
    _log.info("journal_replayed", events=count, trimmed=len(old), seconds=round(time.monotonic() - began, 2))


def _interaction(snapshot: Snapshot, stored: StoredEvent) -> Interaction | None:
    event = stored.event
    product_index = snapshot.products.index(event.product_id)
    if product_index == MISSING:
        return None
    return Interaction(product_index, CODES[event.type], event.at_ms, _NAN if event.value is None else event.value)
