"""The catalogue in service: what online changes have made of snapshots, and of the engines over them.

A change makes an extended snapshot and, for each engine, another one that goes on with the one before: vectors of the
new products alone, a search index with them beside the scan, the vectors of users that are known. `Serving` swaps them
in whole. The methods belong to whoever changes engines, one at a time.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import structlog

from kg.extending import CatalogueChange, Extension, extended
from kg.snapshot import Snapshot
from model.artifact import Artifact
from model.config import TextConfig
from model.errors import ModelError
from model.joining import HiddenStates, hidden_states, joined
from model.text import TextEncoder, shared_encoder
from server.engine import Engine
from server.lineup import Lineup

_log = structlog.get_logger(__name__)

CatchUp = Callable[[Snapshot], CatalogueChange | None]
"""Returns what has changed since a snapshot was exported; None where that is not known now. Called in a thread."""


class LiveCatalogue:
    """The online changes of the snapshots in service.

    Args:
        cache: where text features are cached.
    """

    def __init__(self, cache: Path) -> None:
        self._cache = cache
        self.catch_up: CatchUp = lambda snapshot: None  # until there is who follows the graph
        self._since: dict[str, Extension] = {}  # by content hash
        self._states: dict[str, HiddenStates | None] = {}  # by model version
        self._encoders: dict[TextConfig, TextEncoder] = {}  # a line-up may have more than this process keeps else

    def opened(self, snapshot: Snapshot) -> Snapshot:
        """Return a snapshot that was just opened with all changes since."""
        known = self._since.get(snapshot.content_hash)
        if known is not None:
            return known.snapshot
        change = self.catch_up(snapshot)
        if change is None or not change.product_ids:
            return snapshot
        extension = extended(snapshot, change)
        self._since[snapshot.content_hash] = extension
        _log.info("catalogue_caught_up", products=len(change.products), deleted=len(change.deleted))
        return extension.snapshot

    def fitted(self, artifact: Artifact, snapshot: Snapshot) -> Artifact:
        """Return an artifact that was trained on a snapshot over what changes have made of it.

        One whose text encoder can't be loaded takes what needs none, as in `changed`.
        """
        since = self._since.get(snapshot.content_hash)
        if since is None or artifact.products.array.equals(snapshot.products.array):
            return artifact
        try:
            states = hidden_states(artifact.scorer, artifact.node_keys, since.before, self._cache)
            fitted, self._states[artifact.manifest.model_version] = self._joined(artifact, states, since)
        except ModelError as error:
            return _not_read(artifact, since, error)
        return fitted

    def unprepared(self, lineup: Lineup) -> list[tuple[Engine, Snapshot]]:
        """Return the engines that can give new products no place in the graph yet, with the snapshots they began at."""
        lacking = [engine for version, engine in lineup.engines.items() if self._states.get(version) is None]
        since = [self._since.get(engine.snapshot.content_hash) for engine in lacking]
        return [
            (each, each.snapshot if known is None else known.before) for each, known in zip(lacking, since, strict=True)
        ]

    def states_of(self, engine: Engine, snapshot: Snapshot) -> HiddenStates:
        """Return what the vectors of new products follow from. May be called in any thread, at any time.

        Raises:
            ModelError: the text encoder can't be loaded.
        """
        began, artifact = time.monotonic(), engine.artifact
        states = hidden_states(artifact.scorer, artifact.node_keys, snapshot, self._cache)
        if artifact.scorer.network.config.text not in self._encoders:
            shared_encoder(artifact.scorer.network.config.text)  # here, as `adopt` holds up other changes
        seconds = round(time.monotonic() - began, 2)
        _log.info("catalogue_ready_to_grow", model_version=engine.model_version, seconds=seconds)
        return states

    def adopt(self, lineup: Lineup, model_version: str, states: HiddenStates) -> Lineup:
        """Return the line-up with the products that an engine took while it had no states in their places."""
        engine = lineup.engines.get(model_version)
        if engine is None:
            return lineup
        self._encoder_of(engine.artifact)
        self._states[model_version] = states
        since = self._since.get(engine.snapshot.content_hash)
        if since is None:
            return lineup
        artifact, self._states[model_version] = self._joined(engine.artifact, states, since)
        after = engine.extended(artifact, since.snapshot)
        return lineup.mapped(lambda each: after if each is engine else each)

    def changed(self, lineup: Lineup, change: CatalogueChange) -> Lineup:
        """Return the line-up with engines over the changed catalogue.

        A model whose text encoder can't be loaded takes what needs none: what is gone, prices, what can be had.
        """
        began = time.monotonic()
        snapshots = {id(engine.snapshot): engine.snapshot for engine in lineup.engines.values()}
        steps = {key: extended(snapshot, change) for key, snapshot in snapshots.items()}
        states: dict[str, HiddenStates | None] = {}

        def grown(engine: Engine) -> Engine:
            step, version = steps[id(engine.snapshot)], engine.model_version
            try:
                artifact, states[version] = self._joined(engine.artifact, self._states.get(version), step)
            except ModelError as error:
                artifact, states[version] = _not_read(engine.artifact, step, error), None
            return engine.extended(artifact, step.snapshot)

        after = lineup.mapped(grown)
        self._states |= states
        for step in steps.values():
            known = self._since.get(step.before.content_hash)
            self._since[step.before.content_hash] = step if known is None else known.then(step)
        _log.info(
            "catalogue_changed",
            products=len(change.products),
            deleted=len(change.deleted),
            read_anew=sum(len(step.read_anew) for step in steps.values()),
            seconds=round(time.monotonic() - began, 3),
        )
        return after

    def keep(self, lineup: Lineup) -> None:
        """Forget what no engine in service needs."""
        hashes = {engine.snapshot.content_hash for engine in lineup.engines.values()}
        self._since = {name: each for name, each in self._since.items() if name in hashes}
        self._states = {version: each for version, each in self._states.items() if version in lineup.engines}
        read = {engine.artifact.scorer.network.config.text for engine in lineup.engines.values()}
        self._encoders = {config: each for config, each in self._encoders.items() if config in read}

    def _encoder_of(self, artifact: Artifact) -> TextEncoder:
        config = artifact.scorer.network.config.text
        if config not in self._encoders:
            self._encoders[config] = shared_encoder(config)
        return self._encoders[config]

    def _joined(
        self, artifact: Artifact, states: HiddenStates | None, extension: Extension
    ) -> tuple[Artifact, HiddenStates | None]:
        def encode(texts: Sequence[str]) -> npt.NDArray[np.float32]:
            # The encoder is loaded only where there is a text to read.
            return self._encoder_of(artifact).encode(texts) if texts else _no_features(artifact)

        scorer, after = joined(artifact.scorer, artifact.kernel, artifact.node_keys, states, extension, encode)
        return replace(artifact, products=extension.snapshot.products, scorer=scorer), after


def _not_read(artifact: Artifact, extension: Extension, error: ModelError) -> Artifact:
    """Return an artifact over a changed catalogue without reading a text: its new products have no vector yet."""
    version = artifact.manifest.model_version
    _log.error("texts_not_read", model_version=version, reason=error.problem, remedy=error.remedy)
    nothing, unread = _no_features(artifact), replace(extension, read_anew=extension.read_anew[:0])
    scorer, _ = joined(artifact.scorer, artifact.kernel, artifact.node_keys, None, unread, lambda _: nothing)
    return replace(artifact, products=extension.snapshot.products, scorer=scorer)


def _no_features(artifact: Artifact) -> npt.NDArray[np.float32]:
    return np.empty((0, len(artifact.kernel.mean)), np.float32)
