"""ModelService: ListModels, ActivateModel."""

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable

import structlog
from google.protobuf.timestamp_pb2 import Timestamp

from kg.errors import KgrankError
from kgrank.v1.model_service_pb2 import (
    ActivateModelRequest,
    ActivateModelResponse,
    ListModelsRequest,
    ListModelsResponse,
    Model,
)
from model.artifact import ArtifactManifest
from server.contract import Checker
from server.engine import Engine
from server.journal import Journal
from server.models import ModelFolder
from server.rpc import Context
from server.serving import Serving

_log = structlog.get_logger(__name__)

_PREFIX = "models/"
_DEFAULT_PAGE = 20
_LARGEST_PAGE = 100


class ModelService:
    """Lists the artifacts folder and swaps models."""

    def __init__(
        self, serving: Serving, models: ModelFolder, journal: Journal, activated: Callable[[], Awaitable[None]]
    ) -> None:
        self._serving = serving
        self._models = models
        self._journal = journal
        self._activated = activated
        self._swaps: set[asyncio.Task[Engine]] = set()  # the loop itself keeps tasks weakly

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:  # noqa: N802
        """List a page of models."""
        check = Checker()
        if not 0 <= request.page_size <= _LARGEST_PAGE:
            check.refuse("page_size", f"is {request.page_size}; it must be from 0 to {_LARGEST_PAGE}")
        after = _decode_token(request.page_token)
        if after is None:
            check.refuse("page_token", "is not a token of this server")
        check.finish()
        manifests = await asyncio.to_thread(self._models.manifests)
        remaining = [each for each in manifests if not after or _order(each) > after]
        size = request.page_size or _DEFAULT_PAGE
        page = remaining[:size]
        token = _encode_token(_order(page[-1])) if len(remaining) > size else ""
        return ListModelsResponse(models=[self._model(each) for each in page], next_page_token=token)

    async def ActivateModel(self, request: ActivateModelRequest, context: Context) -> ActivateModelResponse:  # noqa: N802
        """Put a model into service."""
        check = Checker()
        check.id("name", request.name)
        version = request.name.removeprefix(_PREFIX)
        if request.name and (version == request.name or not version or "/" in version):
            check.refuse("name", f"is not a model's name; it must be {_PREFIX} and a model version")
        check.finish()
        # Once begun, a swap is finished whether or not the caller waits for it.
        swap = asyncio.create_task(self._swap(version))
        self._swaps.add(swap)
        swap.add_done_callback(self._swaps.discard)
        engine = await asyncio.shield(swap)
        return ActivateModelResponse(model=self._model(engine.artifact.manifest))

    async def _swap(self, version: str) -> Engine:
        try:
            engine = await self._serving.activate(version, self._journal)
        except KgrankError as error:
            _log.warning("model_refused", model_version=version, reason=error.problem, remedy=error.remedy)
            raise
        await self._activated()
        try:
            await asyncio.to_thread(self._models.note_active, version)
        except OSError as error:
            # It serves; only a restart would begin with another one.
            _log.error("active_not_noted", model_version=version, reason=error.strerror or str(error))
        return engine

    def _model(self, manifest: ArtifactManifest) -> Model:
        created = Timestamp()
        created.FromMilliseconds(manifest.created_at_ms)
        numbers = {name: value for name, value in manifest.metrics.items() if isinstance(value, int | float)}
        return Model(
            name=f"{_PREFIX}{manifest.model_version}",
            model_version=manifest.model_version,
            active=manifest.model_version == self._serving.active,
            create_time=created,
            snapshot_hash=manifest.snapshot_hash,
            metrics=numbers,
        )


def _order(manifest: ArtifactManifest) -> tuple[int, str]:
    return -manifest.created_at_ms, manifest.model_version


def _encode_token(order: tuple[int, str]) -> str:
    return base64.urlsafe_b64encode(f"{order[0]} {order[1]}".encode()).decode()


def _decode_token(token: str) -> tuple[int, str] | tuple[()] | None:
    """Return the place that a page token names: () for the start, None for a token that isn't ours."""
    if not token:
        return ()
    try:
        created, _, version = base64.urlsafe_b64decode(token.encode()).decode().partition(" ")
        return int(created), version
    except (ValueError, binascii.Error):
        return None
