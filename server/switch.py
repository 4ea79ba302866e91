"""Which models answer whom, changed here and everywhere: swapped in, noted on disk, told to the other servers.

Others hear of it through the graph's commits (`server.follow`), and this one hears of theirs; of the last one also each
time that the graph opens, however old it is. The later commit wins: a server that has noted commit n passes over
everything up to n. Without the graph a change is this server's own.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from kg.commits import Change, ChangeKind, Commit
from kg.errors import KgrankError
from server.errors import UnknownModelError
from server.graph_link import GraphLink
from server.journal import Journal
from server.lineup import Lineup
from server.models import ModelFolder
from server.serving import Serving
from server.traffic import Traffic, read_traffic

if TYPE_CHECKING:
    from kg.store import Graph

_log = structlog.get_logger(__name__)

_FIRST_RETRY_S = 5.0
_LONGEST_RETRY_S = 300.0
_WAIT_S = 5.0
"""How long a change waits for a graph that is away: right after a start it may not be open yet."""

T = TypeVar("T")
To = Callable[[Traffic | None], Traffic]


class Switch:
    """Changes which models are in service. Its methods belong to the event loop's thread.

    Args:
        serving: where engines are swapped.
        models: where the traffic is noted.
        journal: what engines that are built meanwhile must hear of.
        activated: called after each change, of this server or followed.
        link: the graph through which other servers hear of it.
    """

    def __init__(
        self,
        serving: Serving,
        models: ModelFolder,
        journal: Journal,
        activated: Callable[[], Awaitable[None]],
        link: "GraphLink[Graph] | None" = None,
    ) -> None:
        self._serving = serving
        self._models = models
        self._journal = journal
        self._activated = activated
        self._link = link
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself keeps tasks weakly
        self._chosen = models.chosen is not None
        self._commit: int | None = None
        self._latest: Change | None = None
        self._to_begin: Traffic | None = None
        self._leaves = False
        self._told: tuple[str, ...] = ()

    async def start(self, noted: Traffic) -> None:
        """Serve what was in service before the start: at first the active model for everybody, then its trials too.

        What a caller or another server has changed meanwhile stays. Trials that can't be served yet (an artifact has
        not come to this host) are tried again, until something else is put into service.
        """
        plain = noted.with_trials((), None)
        async with self._one_at_a_time:
            if self._serving.active is not None or not await self._begun_with(plain):
                return
            self._to_begin = noted if noted != plain else None
        await self._activated()
        if not await self._trials_begun():
            self._begin(self._again_until(self._trials_begun, after_s=_FIRST_RETRY_S))

    async def _trials_begun(self) -> bool:
        """Serve the trials that were served before the start; return whether there is nothing left to do."""
        async with self._one_at_a_time:
            trials, latest = self._to_begin, self._latest
            if trials is None or (latest is not None and latest.commit > trials.commit):
                return True
            if not await self._begun_with(trials):
                return False
            self._to_begin = None
        await self._activated()
        return True

    async def _begun_with(self, traffic: Traffic) -> bool:
        """Serve what was served before the start; return whether it is."""
        try:
            await self._serve(traffic)
        except KgrankError as error:
            self._tell_refusal("model_refused", traffic, error)
            return False
        except Exception:
            _log.exception("model_failed", models=traffic.versions)
            return False
        return True

    async def _serve(self, traffic: Traffic) -> None:
        """Serve what is tried again where it fails: no model is loaded while the folder of another is not there."""
        coming = set(traffic.versions) - set(self._serving.versions())
        if gone := await asyncio.to_thread(self._models.lacking, sorted(coming)):
            raise UnknownModelError(f"there is no model {gone[0]}", f"Bring its folder to {self._models.folder}.")
        await self._serving.change_traffic(lambda _: traffic, self._journal)
        self._told = ()

    def _tell_refusal(self, event: str, traffic: Traffic, error: KgrankError) -> None:
        """Log why models are not served, once for as long as each try fails for the same reason."""
        told = (event, *traffic.versions, error.problem)
        if told != self._told:
            self._told = told
            _log.error(event, models=traffic.versions, reason=error.problem, remedy=error.remedy)

    def leave(self) -> None:
        """Try nothing again: the server leaves."""
        self._leaves = True

    async def change(self, to: To) -> Lineup:
        """Change the traffic for this server and all others; once begun, it is finished whether or not anybody waits.

        Raises:
            UnknownModelError: there is no such model; nothing has changed.
            ModelRefusedError: one is damaged, or does not fit any snapshot; nothing has changed.
        """
        return await asyncio.shield(self._begin(self._change(to)))

    async def follow(self, changes: Sequence[Change]) -> None:
        """Hear of changes that were committed; the last one counts. The models are loaded beside all else.

        One that can't be followed (its artifact has not come to this host yet) is tried again, until there is another.
        """
        self._latest = changes[-1]
        self._begin(self._follow(changes[-1]))

    def graph_reached(self, commit: int, told: Change | None) -> None:
        """Hear of the graph's last commit, and of the last that changed the models, before any is followed.

        What a server follows begins at its snapshot, and goes after a month; the last switch may be older.
        """
        if self._chosen:  # at the start, instead of what was switched until then
            self._chosen, self._commit = False, max(self._commit or 0, commit)
        elif told is not None and (self._latest is None or self._latest.commit < told.commit):
            self._latest = told
            self._begin(self._follow(told))

    def _begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _change(self, to: To) -> Lineup:
        async with self._one_at_a_time:
            known = await self._known_commit()
            try:
                lineup = await self._serving.change_traffic(to, self._journal)
            except KgrankError as error:
                _log.warning("traffic_refused", reason=error.problem, remedy=error.remedy)
                raise
            self._latest = self._to_begin = None  # what was to come before is not wanted any more
            await self._activated()
            self._commit = await self._tell(lineup.traffic) or max(known, self._commit or 0)
            await self._note(lineup.traffic)
            return lineup

    async def _follow(self, change: Change) -> None:
        self._told = ()
        await self._again_until(lambda: self._followed(change))

    async def _again_until(self, done: Callable[[], Awaitable[bool]], after_s: float = 0.0) -> None:
        """Try something again and again, after ever longer waits, until it is done or the server leaves."""
        wait_s = _FIRST_RETRY_S
        await asyncio.sleep(after_s)
        while not self._leaves and not await done():
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, _LONGEST_RETRY_S)

    async def _followed(self, change: Change) -> bool:
        """Follow a change; return whether there is nothing left to do."""
        if self._latest is not change:
            return True
        async with self._one_at_a_time:
            told = read_traffic(change.key)
            if told is None or change.commit <= await self._known_commit():
                return True
            try:
                present = self._serving.present
                if present is None or told != present.traffic:
                    await self._serve(told)
                    await self._activated()
                    _log.info("traffic_followed", commit=change.commit, active=told.active)
            except KgrankError as error:
                # It serves on with what it has.
                self._tell_refusal("traffic_not_followed", told, error)
            except Exception:
                _log.exception("traffic_not_followed", models=told.versions)
            else:
                self._commit, self._to_begin = change.commit, None
                await self._note(told)
                return True
            return False

    async def _tell(self, traffic: Traffic) -> int | None:
        """Commit the traffic for others to hear; return the commit's number, None where nobody does."""
        link = self._link
        if link is None or not link.configured:
            return None

        def work(commit: Commit) -> int:
            commit.note(ChangeKind.MODEL, traffic.as_json())
            return commit.number

        def told() -> int:
            with link.graph(_WAIT_S) as graph:
                return graph.commit(work)

        try:
            return await asyncio.to_thread(told)
        except KgrankError as error:
            remedy = "Other servers have not heard of it: change it again once the graph is there."
            _log.error("traffic_not_told", active=traffic.active, reason=error.problem, remedy=remedy)
            return None

    async def _known_commit(self) -> int:
        """Return the last commit whose traffic this server has had.

        At first that is told by the traffic in service, or by the file where that is about to be read. Later the file
        has what others have noted since: servers on one host share it.
        """
        if self._commit is None:
            present = self._serving.present
            if present is None:
                return await asyncio.to_thread(self._noted_commit)
            self._commit = present.traffic.commit
        return self._commit

    def _noted_commit(self) -> int:
        try:
            noted = self._models.traffic
        except OSError:  # as the start tells
            return 0
        return 0 if noted is None else noted.commit

    async def _note(self, traffic: Traffic) -> None:
        try:
            await asyncio.to_thread(self._models.note, replace(traffic, commit=self._commit or 0))
        except OSError as error:
            # It serves; only a restart would begin with another one.
            _log.error("traffic_not_noted", active=traffic.active, reason=error.strerror or str(error))
