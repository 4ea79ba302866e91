"""From a model version to an engine: the artifact, the snapshot that suits it, and what was written since."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import structlog

from kg.errors import KgrankError
from kg.snapshot import Snapshot
from kg.vocabulary import MISSING
from kg.wording import ENGLISH
from model.artifact import Artifact
from model.errors import ModelError
from model.refresh import refresh
from server.catalogue import LiveCatalogue
from server.config import ServeSettings
from server.contract import MOST_REASONS
from server.engine import Engine
from server.errors import ModelRefusedError
from server.histories import LiveHistories
from server.journal import Journal
from server.memory import replay
from server.models import ModelFolder, oldest_as_of_ms, snapshot_folder_for
from server.question import Question
from server.reasons import reasons_for
from server.rulebook import RuleBook
from server.search.finder import Finder
from server.user_graph import with_compiled_users

LEAST_KNOWN = 0.5
"""The share of a catalogue that a model must know from training; with less it would be guessing."""

_WARM_QUERY = "gift"

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Places:
    """Where the server finds things; `snapshot` is set when one was named on the command line."""

    models: ModelFolder
    snapshots: Path
    cache: Path
    snapshot: Path | None = None


class EngineLoader:
    """Loads models to be served. Its methods take seconds, and run outside the event loop.

    Args:
        settings: limits.
        places: where models and snapshots are.
        catalogue: what has changed in the catalogue since the snapshots.
        rules: the shop's, which engines obey.
    """

    def __init__(self, settings: ServeSettings, places: Places, catalogue: LiveCatalogue, rules: RuleBook) -> None:
        self._settings = settings
        self._places = places
        self._catalogue = catalogue
        self._rules = rules

    def load(self, model_version: str, journal: Journal, beside: Sequence[Engine]) -> Engine:
        """Load a model; it shares snapshot and histories with the engines beside it where these suit it.

        Args:
            model_version: which one.
            journal: what has been written since the snapshot.
            beside: engines that are in service already, or are coming into it.

        Raises:
            UnknownModelError: there is no such model.
            ModelRefusedError: it is damaged, does not fit any snapshot, or needs what is not here.
        """
        try:
            return self._load(model_version, journal, beside)
        except ModelError as error:
            raise ModelRefusedError(error.problem, error.remedy) from error

    def _load(self, model_version: str, journal: Journal, beside: Sequence[Engine]) -> Engine:
        artifact = self._places.models.load(model_version)
        snapshot = self._snapshot(artifact, beside)
        if artifact.manifest.snapshot_hash != snapshot.content_hash:
            artifact = self._refreshed(artifact, snapshot)
        else:
            artifact = self._catalogue.fitted(artifact, snapshot)
        artifact = replace(artifact, scorer=with_compiled_users(artifact.scorer, self._places.cache))
        shared = next((each.histories for each in beside if each.snapshot is snapshot), None)
        histories = shared or LiveHistories(snapshot, self._settings.history_limit)
        if shared is None:
            oldest_ms = oldest_as_of_ms(self._places.snapshots, self._places.models.returning())
            replay(histories, snapshot, journal, snapshot.as_of_ms if oldest_ms is None else oldest_ms)
        exclude_seen = not artifact.manifest.split.get("repeats", False)
        finder = None
        if self._settings.search:
            before = next((each.selection.finder for each in beside if each.snapshot is snapshot), None)
            finder = Finder.build(artifact, snapshot, self._places.cache, before)
        engine = Engine.build(
            artifact,
            snapshot,
            histories,
            exclude_seen=exclude_seen,
            finder=finder,
            rules=self._rules,
            past_search_weight=self._settings.past_search_weight,
        )
        _warm(engine)
        return engine

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

    def _snapshot(self, artifact: Artifact, beside: Sequence[Engine]) -> Snapshot:
        """Return the snapshot that suits a model: the named one, else the one it was trained on, else the latest."""
        places = self._places
        for engine in beside:
            if places.snapshot is not None or engine.snapshot.content_hash == artifact.manifest.snapshot_hash:
                return engine.snapshot
        folder = places.snapshot or snapshot_folder_for(places.snapshots, artifact.manifest)
        if folder is None:
            raise ModelRefusedError(
                f"there is no snapshot in {places.snapshots} to serve model {artifact.manifest.model_version} with",
                "Make one: kgrank snapshot",
            )
        try:
            return self._catalogue.opened(Snapshot.open(folder))
        except KgrankError as error:
            raise ModelRefusedError(error.problem, error.remedy) from error


def _warm(engine: Engine) -> None:
    """Do once what a first caller would wait for: look for the reasons of an answer, and read a query."""
    users = engine.snapshot.users
    question = Question(user_id=users.id(0) if len(users) else "", k=MOST_REASONS)
    products = engine.answer([question])[0].product_index.tolist()
    history = engine.history(question)
    reasons_for(engine, history, products, user_id=question.user_id, k=MOST_REASONS, wording=ENGLISH)
    if engine.selection.finder is not None:
        engine.answer([replace(question, query=_WARM_QUERY)])
