"""The server's life: listen, load, serve, drain, leave."""

import asyncio
import signal
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING

import grpc.aio
import structlog

from kg.commits import ChangeKind, last_model_change
from kgrank.v1 import (
    catalog_service_pb2,
    event_service_pb2,
    model_service_pb2,
    ranking_service_pb2,
    rule_service_pb2,
    user_service_pb2,
)
from server.access.audit import Audit
from server.access.exposure import refuse_exposure
from server.access.gate import Gate
from server.access.tls import credentials
from server.attribution import Attribution
from server.awaited_model import noted_beside, to_begin_with
from server.catalogue_following import KINDS, CatalogueFollowing
from server.config import ServeSettings
from server.contract import Limits
from server.drain import Drain
from server.engine_loading import Places
from server.erasing import Eraser
from server.follow import Follower
from server.graph_link import GraphLink
from server.journal import Journal
from server.journal_file import StoredEvent
from server.listening import Listening, PortTakenError, make_server
from server.memory import Memory
from server.readiness import Readiness
from server.rpc import Front
from server.rule_keeper import RULES_FILE, RuleKeeper
from server.searches import SearchLog
from server.searches_following import SearchesFollowing
from server.services.catalogue import CatalogService
from server.services.events import EventService
from server.services.models import ModelService
from server.services.ranking import RankingService
from server.services.rules import RuleService
from server.services.users import UserService
from server.serving import Serving
from server.switch import Switch
from server.watch.answers import AnswerWatch
from server.watch.metrics import Gauges, Metrics
from server.watch.state import State
from server.watch.traces import Traces
from server.watch.web import Web

if TYPE_CHECKING:
    from kg.store import Graph

_log = structlog.get_logger(__name__)

RANKING = ranking_service_pb2.DESCRIPTOR.services_by_name["RankingService"]
EVENTS = event_service_pb2.DESCRIPTOR.services_by_name["EventService"]
MODELS = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
USERS = user_service_pb2.DESCRIPTOR.services_by_name["UserService"]
CATALOG = catalog_service_pb2.DESCRIPTOR.services_by_name["CatalogService"]
RULES = rule_service_pb2.DESCRIPTOR.services_by_name["RuleService"]
_REFRESHED_EVERY_S = 1.0
_RECORDED_WITHIN_S = 5.0


Connect = Callable[[], AbstractContextManager["Graph"]]


class Server:
    """One server process: made, started and stopped in one event loop.

    Args:
        settings: address and limits.
        places: where models and snapshots are.
        journal_file: the event journal.
        connect: opens the graph that events drain to and that is followed; None leaves events in the journal.

    Raises:
        JournalError: the journal can't be opened.
        ConfigError: the settings would let others listen in or call in, or a file that they name can't be used.
    """

    def __init__(self, settings: ServeSettings, places: Places, journal_file: Path, connect: Connect | None) -> None:
        refuse_exposure(settings)
        self._settings = settings
        self._places = places
        self._secured = credentials(settings.tls)
        self._front = _front(settings)
        self._loop = asyncio.get_running_loop()
        kept_ms = round(settings.journal_days * 24 * 3_600_000)
        self._journal = Journal(
            journal_file,
            self._committed,
            self._erased,
            hand_over=self._loop.call_soon_threadsafe,
            kept_ms=kept_ms,
        )
        self._serving = Serving(settings, places)
        self._memory = Memory(self._serving.histories, self._journal, self._serving.past)
        self._link = GraphLink(connect, self._graph_opening, self._graph_opened)
        self._drain = Drain(self._journal, self._link.graph, configured=self._link.configured)
        self._follower = Follower(self._link, self._memory, self._journal)
        self._eraser = Eraser(self._journal, self._drain, self._link, self._memory, places.snapshots, self._front.audit)
        self._follower.on(ChangeKind.USER_ERASED, self._eraser.follow)
        self._rules = RuleKeeper(
            self._serving.rules,
            self._link,
            journal_file.with_name(RULES_FILE),
            settings.rules_wait_s,
            self._rules_settled,
        )
        self._follower.on(ChangeKind.RULE, self._rules.follow)
        self._catalogue = CatalogueFollowing(self._serving, self._link)
        self._follower.waits_of = lambda: self._catalogue.waits_of
        for kind in KINDS:
            self._follower.on(kind, self._catalogue.follow)
        if self._serving.past is not None:
            self._follower.each_commit = SearchesFollowing(self._link, self._serving.past).follow
        self._switch = Switch(self._serving, places.models, self._journal, self._activated, self._link)
        self._follower.on(ChangeKind.MODEL, self._switch.follow)
        self._readiness = Readiness(
            self._serving,
            self._follower,
            self._link,
            always=[MODELS.full_name],
            then=[service.full_name for service in (RANKING, EVENTS, USERS, CATALOG, RULES)],
        )
        self._web = self._watch()
        self._server = self._make()
        secured = self._secured
        self._listening = Listening(self._server, settings, None if secured is None else secured.credentials)
        self._loading: asyncio.Task[None] | None = None
        self._refreshing: asyncio.Task[None] | None = None
        self._looking: asyncio.Task[None] | None = None
        self._saying: asyncio.Task[None] | None = None

    async def start(self) -> int:
        """Listen, say NOT_SERVING, and begin to load the model; return the port.

        Where others listen on a port that is shared, listen once there is a model.

        Raises:
            PortTakenError: somebody else listens there.
        """
        self._readiness.begin()
        port = await self._listening.begin()
        self._rules.recall()
        self._link.start()
        self._loading = asyncio.create_task(self._load())
        self._refreshing = asyncio.create_task(self._refresh())
        self._looking = asyncio.create_task(self._look_again(self._loading))
        return port

    @property
    def metrics_port(self) -> int | None:
        """The port of metrics and probes; None where there is none."""
        return None if self._web is None else self._web.port

    async def ready(self) -> bool:
        """Wait until the model is loaded and the rules are known, or waited for no longer; return whether it serves."""
        if self._loading is not None:
            await self._loading
        if self._serving.active is not None:
            await self._rules.settled()
            await self._say()
        return self._readiness.ready

    @property
    def graph_open(self) -> bool:
        """Whether the graph is there, as far as is known."""
        return self._link.is_open

    @property
    def active(self) -> str | None:
        """The model version in service."""
        return self._serving.active

    async def stop(self) -> None:
        """Drain: take no new calls, finish the running ones, store and pass on what is journalled, leave."""
        self._readiness.leave()
        self._switch.leave()
        for task in (self._loading, self._looking, self._refreshing):
            if task is not None:
                task.cancel()
        await self._server.stop(self._settings.drain_s)
        await self._follower.stop()
        await self._rules.stop()
        await self._catalogue.stop()
        await self._eraser.stop()
        await asyncio.to_thread(self._serving.close)
        await asyncio.to_thread(self._journal.close)
        await asyncio.to_thread(self._drain.close, self._settings.drain_s)
        await asyncio.to_thread(self._eraser.close)
        await asyncio.to_thread(self._link.close)
        if self._front.kept:  # what is done by now is recorded by then
            await asyncio.wait(self._front.kept, timeout=_RECORDED_WITHIN_S)
        await asyncio.to_thread(self._close_front)
        self._readiness.end()
        _log.info("stopped")

    def _make(self) -> grpc.aio.Server:
        # Without a graph searches would wait in the journal for ever.
        journal = self._journal if self._link.configured else None
        metrics = self._front.metrics
        searches = SearchLog(
            journal,
            self._drain.wake,
            self._serving.past,
            self._settings.max_undrained,
            *(() if metrics is None else (metrics.search_lost,)),
        )
        limits = Limits(self._settings.max_results, self._settings.max_candidates)
        attribution = Attribution(metrics, self._serving.versions)
        most = self._settings.max_undrained if self._link.configured else None
        servicers = {
            RANKING: RankingService(self._serving, limits, searches, attribution),
            EVENTS: EventService(self._serving, self._journal, attribution, most),
            USERS: UserService(self._serving, self._link, self._journal, self._eraser, self._places.snapshots),
            CATALOG: CatalogService(self._link, self._follower),
            RULES: RuleService(self._link, self._follower, limits),
            MODELS: ModelService(self._serving, self._places.models, self._switch),
        }
        places = {RANKING: self._serving.calls}
        return make_server(self._settings, servicers, places, self._front, self._readiness.health)

    def _watch(self) -> Web | None:
        """Begin to tell of this server over HTTP, where that is wanted."""
        metrics = self._front.metrics
        if metrics is None:
            return None
        answers = AnswerWatch(metrics)
        self._serving.observer = answers
        self._serving.kept.heard = metrics.kept_answer
        ends_s = None if self._secured is None else self._secured.ends_s
        state = State(
            self._serving, self._rules, self._follower, self._link, self._journal, self._eraser, answers, ends_s
        )
        metrics.registry.register(Gauges(state.readers()))
        return Web(self._settings.watch, metrics.registry, self._readiness)

    async def _refresh(self) -> None:
        """Take up new tokens and keys as their files change."""
        while True:
            await asyncio.sleep(_REFRESHED_EVERY_S)
            try:
                await asyncio.to_thread(self._front.gate.refresh)
            except Exception:
                # A defect must not end it for good: tokens that are revoked would stay good.
                _log.exception("tokens_not_refreshed")

    def _close_front(self) -> None:
        if self._web is not None:
            self._web.close()
        if self._front.traces is not None:
            self._front.traces.close()
        if self._front.audit is not None:
            self._front.audit.close()

    async def _load(self) -> None:
        """Put the models that were in service into service; without one, wait for another."""
        try:
            await asyncio.to_thread(self._eraser.redact_snapshots)
            models = self._places.models
            traffic = await asyncio.to_thread(to_begin_with, models)
        except Exception:
            _log.exception("models_not_found", folder=str(self._places.models.folder))
            return
        if traffic is None:
            _log.warning("no_model", folder=str(models.folder), remedy="train one and activate it")
            return
        await self._switch.start(traffic)

    async def _look_again(self, loading: "asyncio.Task[None]") -> None:
        """Take up what another process has put into service, as long as nothing is here."""
        await asyncio.wait([loading])
        noted = noted_beside(self._places.models)
        while self._serving.active is None:
            await self._switch.start(await anext(noted))

    async def _activated(self) -> None:
        self._follower.start(self._serving.engine.snapshot.commit)
        if (missed := self._catalogue.missed()) is not None:
            self._follower.go_back(missed)
        self._catalogue.prepare()
        await self._readiness.follow()
        await self._say()

    def _rules_settled(self) -> None:
        self._saying = asyncio.create_task(self._say())

    async def _say(self) -> None:
        """Say that calls may come, if they may, and let them come."""
        self._readiness.say()
        if self._readiness.ready:
            try:
                await self._listening.go_on()
            except PortTakenError as error:
                _log.error("not_listening", reason=error.problem, remedy=error.remedy)

    def _committed(self, events: list[StoredEvent]) -> None:
        """Hear from the journal's thread what is on disk now."""
        self._loop.call_soon_threadsafe(self._memory.written, events)
        self._drain.wake()

    def _erased(self, user_id: str, left: list[StoredEvent]) -> None:
        """Hear from the journal's thread of a user who is gone."""
        self._loop.call_soon_threadsafe(self._memory.forget, user_id, left)

    def _graph_opening(self, graph: "Graph") -> None:
        """Hear from the link's thread that the graph is about to be there."""
        last, told = self._follower.reopened(graph), last_model_change(graph)
        self._loop.call_soon_threadsafe(self._switch.graph_reached, last, told)
        self._eraser.reconcile(graph)

    def _graph_opened(self) -> None:
        """Hear from the link's thread that the graph is there."""
        self._drain.start()
        self._loop.call_soon_threadsafe(self._follower.nudge)
        self._loop.call_soon_threadsafe(self._eraser.graph_opened)
        self._loop.call_soon_threadsafe(self._rules.graph_opened)


def _front(settings: ServeSettings) -> Front:
    """Return what stands before the services."""
    return Front(
        gate=Gate(settings.access),
        audit=None if settings.access.audit_file is None else Audit(settings.access.audit_file),
        metrics=None if settings.watch.metrics_port is None else Metrics(),
        traces=Traces.open(settings.watch),
        log_calls=settings.watch.log_calls,
    )


async def serve(server: Server, on_ready: Callable[[int, str | None], None], *, supervised: bool = False) -> None:
    """Run a server until SIGTERM or SIGINT; one that is supervised leaves too when its stdin, the supervisor, ends.

    One that is alone leaves at SIGHUP as well, unless it was told to ignore that (`nohup`).
    """
    leave = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave.set)
    if not supervised and signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
        loop.add_signal_handler(signal.SIGHUP, leave.set)
    if supervised:
        loop.add_reader(sys.stdin.fileno(), leave.set)
    port = await server.start()
    ready = asyncio.create_task(server.ready())
    leaving = asyncio.create_task(leave.wait())
    await asyncio.wait({ready, leaving}, return_when=asyncio.FIRST_COMPLETED)
    if ready.done():
        on_ready(port, server.active)
    await leaving
    if supervised:
        loop.remove_reader(sys.stdin.fileno())
    await server.stop()
