"""What is in service: engines, swapped in whole, and the events that change their answers."""

import asyncio
import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import TypeVar

import structlog

from kg.extending import CatalogueChange
from model.errors import ModelError
from server.admission import Admission
from server.batching import Batcher
from server.catalogue import LiveCatalogue
from server.catching_up import CatchingUp
from server.config import ServeSettings
from server.engine import Engine
from server.engine_loading import EngineLoader, Places
from server.errors import NotServingError
from server.histories import LiveHistories
from server.journal import Journal
from server.kept_answers import KeptAnswers
from server.lineup import Lineup
from server.past_searches import PastSearches
from server.question import Fit, Question, Ranking
from server.reasons import while_wanted
from server.rulebook import RuleBook
from server.shadow import Comparison, Shadow
from server.spare_memory import give_back
from server.threads import computing_threads
from server.traffic import Traffic

_log = structlog.get_logger(__name__)

_REASON_THREADS = 2  # paths are Python: more threads would only take turns

R = TypeVar("R")

Observer = Callable[[Sequence[tuple[Engine, Question]], Sequence[Ranking]], None]
"""Hears of every batch that was answered, in the thread that scores."""


class Serving:
    """The engines in service. Its methods belong to the event loop's thread.

    Args:
        settings: limits.
        places: where models and snapshots are.
    """

    def __init__(self, settings: ServeSettings, places: Places) -> None:
        self._lineup: Lineup | None = None
        self._shadow: Shadow | None = None
        self._changing = asyncio.Lock()
        self.loaded = asyncio.Event()
        """Set while no model is being loaded, or waits for it."""
        self.loaded.set()
        self._batcher: Batcher[tuple[Engine, Question], Ranking] = Batcher(self._answer, max_batch=settings.max_batch)
        # Reading a query takes longer than scoring: in a thread of its own, so that no plain ranking waits for it.
        self._finding: Batcher[tuple[Engine, Question], Fit] = Batcher(_find, max_batch=settings.max_batch)
        self.rules = RuleBook()
        counted = settings.search and settings.past_search_weight > 0
        self.past = PastSearches(settings.past_search_half_life_hours) if counted else None
        self.kept = KeptAnswers(settings.kept_answers_mib << 20)
        self._reasons = computing_threads(_REASON_THREADS, "reasons")
        self.catalogue = LiveCatalogue(places.cache)
        self._loader = EngineLoader(settings, places, self.catalogue, self.rules)
        self.observer: Observer | None = None
        self.calls = Admission(settings.max_waiting, settings.longest_wait_s)
        self._calls_for_reasons = Admission(max(1, settings.max_waiting // 2))
        self._calls_to_find = Admission(settings.max_waiting, settings.longest_wait_s)

    @property
    def present(self) -> Lineup | None:
        """The engines in service, None while there are none."""
        return self._lineup

    @property
    def lineup(self) -> Lineup:
        """The engines in service.

        Raises:
            NotServingError: there are none yet.
        """
        if self._lineup is None:
            raise NotServingError("no model is in service", "Wait for the start, or train one and activate it.")
        return self._lineup

    @property
    def engine(self) -> Engine:
        """The active engine.

        Raises:
            NotServingError: there is none yet.
        """
        return self.lineup.active

    def versions(self) -> tuple[str, ...]:
        """Return the model versions in service."""
        return () if self._lineup is None else self._lineup.traffic.versions

    @property
    def active(self) -> str | None:
        """The active model version."""
        return None if self._lineup is None else self._lineup.traffic.active

    @property
    def ready(self) -> bool:
        """Whether ranking calls are answered: there is a model, and it is known what the shop blocks."""
        return self._lineup is not None and not self.rules.awaited

    @contextmanager
    def admitted(self, *, reasons: bool, user_id: str = "") -> Iterator[Engine]:
        """Take a call in for the length of a `with` block, and yield the engine that serves all of it.

        Args:
            reasons: whether it asks for reasons, which take long: such calls get no more than half of the places.
            user_id: whom it is for; empty: the active engine serves it.

        Raises:
            NotServingError: there is no engine yet, or the shop's rules are not known yet.
            OverloadedError: too many calls are there; nothing was done.
        """
        engine = self.lineup.engine_for(user_id)
        if self.rules.awaited:
            raise NotServingError("the shop's rules are not known yet", "Wait: the server asks the graph for them.")
        with self.calls.place(), self._calls_for_reasons.place() if reasons else nullcontext():
            yield engine

    def with_searches(self, question: Question) -> Question:
        """Return a question with what its user has searched for lately, unless it has a query of its own."""
        if self.past is None or not question.user_id or question.query:
            return question
        searched = self.past.of(question.user_id)
        return replace(question, searched=searched) if searched else question

    async def answer(self, engine: Engine, question: Question) -> Ranking:
        """Answer a question together with whatever else is waiting; a small one at once where nothing is."""
        ranking = self._batcher.answered_here((engine, question)) if engine.is_small(question) else None
        if ranking is None:
            ranking = await self._batcher.submit((engine, await self._found(engine, question)))
        if self._shadow is not None:
            self._shadow.observe(engine, question, ranking)
        return ranking

    async def similar(self, engine: Engine, product_index: int, question: Question) -> Ranking:
        """Return the products most like one."""
        return await self._batcher.run(lambda: engine.similar(product_index, question))

    async def placed(self, engine: Engine, question: Question, product_index: int) -> tuple[Ranking, int]:
        """Answer a question about one product, and return its place among all products for the user, from 1."""
        found = await self._found(engine, question)
        return await self._batcher.run(lambda: (engine.answer([found])[0], engine.place(found, product_index)))

    async def _found(self, engine: Engine, question: Question) -> Question:
        """Return a question with what fits its query, or else with where its user's searches point to.

        Raises:
            OverloadedError: too many queries wait to be read.
        """
        if question.query:
            with self._calls_to_find.place():
                return replace(question, fit=await self._finding.submit((engine, question)))
        if not question.searched or engine.selection.finder is None:
            return question
        return replace(question, lean=await self._finding.run(lambda: engine.selection.lean(question)))

    async def reason(self, function: Callable[[], R]) -> R:
        """Look for reasons in a thread beside the scoring: paths take milliseconds, and no plain ranking waits.

        When the caller goes away, the search ends with the product that it is at.
        """
        unwanted = threading.Event()
        try:
            return await asyncio.get_running_loop().run_in_executor(self._reasons, while_wanted, function, unwanted)
        finally:
            unwanted.set()

    def histories(self) -> list[tuple[LiveHistories, Engine]]:
        """Return the histories in service, each once, with an engine that answers from them."""
        return [] if self._lineup is None else self._lineup.histories()

    async def change_traffic(self, to: Callable[[Traffic | None], Traffic], journal: Journal) -> Lineup:
        """Load the models that come into service beside those that are, and swap the line-up in whole.

        Args:
            to: returns the new traffic for that in service; None: nothing is.
            journal: what was written meanwhile.

        Raises:
            UnknownModelError: there is no such model; the line-up stays.
            ModelRefusedError: one is damaged, or does not fit any snapshot; the line-up stays.
        """
        self.loaded.clear()
        try:
            return await self._change_traffic(to, journal)
        finally:
            self.loaded.set()

    async def _change_traffic(self, to: Callable[[Traffic | None], Traffic], journal: Journal) -> Lineup:
        async with self._changing:
            began, before = time.monotonic(), self._lineup
            traffic = to(None if before is None else before.traffic)
            engines = {} if before is None else {v: each for v, each in before.engines.items() if v in traffic.versions}
            for version in traffic.versions:
                if version not in engines:
                    beside = [*engines.values(), *(before.engines.values() if before else ())]
                    engines[version] = await asyncio.to_thread(self._loader.load, version, journal, beside)
            lineup = Lineup(traffic, engines)
            held = [histories for histories, _ in self.histories()]
            coming = CatchingUp((each for each in lineup.histories() if each[0] not in held), journal)
            await coming.catch_up()
            so_far = await self._end_shadow(lineup)
            await coming.catch_up()  # what came while the shadow ended; from here on `Memory` takes over
            self._put_in(lineup, so_far)
            _log.info(
                "models_in_service",
                model_version=traffic.active,
                trials={share.model_version: share.percent for share in traffic.shares},
                shadow=traffic.shadow,
                products=len(lineup.active.product_ids),
                plan=str(lineup.active.index.plan),
                seconds=round(time.monotonic() - began, 2),
            )
            return lineup

    async def catalogue_changed(self, change: CatalogueChange) -> bool:
        """Go on with engines over a changed catalogue; return whether they do: not while a model is being loaded."""
        if not self.loaded.is_set():
            return False
        async with self._changing:
            if self._lineup is not None and change.product_ids:
                await self._swap_in(await asyncio.to_thread(self.catalogue.changed, self._lineup, change))
                await asyncio.to_thread(give_back)
        return True

    async def prepare_to_grow(self) -> None:
        """Make ready what new products need, so that they are ranked in the graph as soon as they come.

        Raises:
            ModelError: a text encoder can't be loaded; the models that don't need it are ready.
        """
        failed: dict[str, ModelError] = {}  # by model
        # Looked for anew each time: models come into service and leave it meanwhile.
        while self._lineup is not None:
            unprepared = self.catalogue.unprepared(self._lineup)
            engine, snapshot = next((each for each in unprepared if each[0].model_version not in failed), (None, None))
            if engine is None or snapshot is None:
                break
            try:
                states = await asyncio.to_thread(self.catalogue.states_of, engine, snapshot)
            except ModelError as error:
                _log.error("model_not_prepared", model_version=engine.model_version, reason=error.problem)
                failed[engine.model_version] = error
                continue
            async with self._changing:
                before = self.lineup
                lineup = await asyncio.to_thread(self.catalogue.adopt, before, engine.model_version, states)
                if lineup is not before:
                    await self._swap_in(lineup)
        if failed:
            raise next(iter(failed.values()))

    async def _swap_in(self, lineup: Lineup) -> None:
        self._put_in(lineup, await self._end_shadow(lineup))

    def _put_in(self, lineup: Lineup, so_far: Comparison | None) -> None:
        # An engine belongs to one thread: a shadow that comes into service has left its own by now.
        self._lineup = lineup
        self.kept.clear()
        self.catalogue.keep(lineup)
        for histories, engine in lineup.histories():
            histories.joined(engine.snapshot.products)
            histories.copied_by(self.kept)
        if lineup.shadow is not None:
            self._shadow = Shadow(lineup.shadow, lambda: self._batcher.busy, so_far)
        # What an engine holds stays: no collection need look through its many objects. It has no cycles, so that
        # without a collection, which would hold up every call, it goes when the last call that uses it has ended.
        # What has become garbage since the last time must not be frozen with it; of that little, this takes no time.
        gc.collect()
        gc.freeze()

    async def _end_shadow(self, following: Lineup) -> Comparison | None:
        """End the shadow; return how it has differed, if the same model goes on as one."""
        shadow, self._shadow = self._shadow, None
        if shadow is None:
            return None
        await shadow.close()
        shadow.log()
        goes_on = self._lineup is not None and self._lineup.traffic.shadow == following.traffic.shadow
        return shadow.comparison if goes_on else None

    @property
    def comparison(self) -> Comparison | None:
        """How the shadow has differed from what was served; None without one."""
        return None if self._shadow is None else self._shadow.comparison

    def _answer(self, items: Sequence[tuple[Engine, Question]]) -> list[Ranking]:
        """Answer a batch, in the thread that scores."""
        rankings = answer_batch(items)
        if self.observer is not None:
            try:
                self.observer(items, rankings)
            except Exception:  # no caller should go without an answer for it
                _log.exception("observer_failed")
        return rankings

    def close(self) -> None:
        """Finish what is being worked on."""
        self._batcher.close()
        self._finding.close()
        self._reasons.shutdown(wait=True)


def _find(items: Sequence[tuple[Engine, Question]]) -> list[Fit]:
    """Return what fits the queries of a batch; those to one engine are read together."""
    fits: dict[int, Fit] = {}
    for engine in {id(engine): engine for engine, _ in items}.values():
        rows = [row for row, (asked, _) in enumerate(items) if asked is engine]
        fits |= zip(rows, engine.find([items[row][1] for row in rows]), strict=True)
    return [fits[row] for row in range(len(items))]


def answer_batch(items: Sequence[tuple[Engine, Question]]) -> list[Ranking]:
    """Answer a batch; around a swap it has questions to both engines."""
    engines = {id(engine): engine for engine, _ in items}
    if len(engines) == 1:
        return items[0][0].answer([question for _, question in items])
    answers: dict[int, Ranking] = {}
    for engine in engines.values():
        rows = [row for row, (asked, _) in enumerate(items) if asked is engine]
        answers |= zip(rows, engine.answer([items[row][1] for row in rows]), strict=True)
    return [answers[row] for row in range(len(items))]
