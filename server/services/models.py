"""ModelService: which models there are, which are in service, and for whom."""

import asyncio
import math

from google.protobuf.timestamp_pb2 import Timestamp

from kgrank.v1.model_service_pb2 import (
    ActivateModelRequest,
    ActivateModelResponse,
    GetTrafficRequest,
    GetTrafficResponse,
    ListModelsRequest,
    ListModelsResponse,
    Model,
    RollBackModelRequest,
    RollBackModelResponse,
    SetTrafficRequest,
    SetTrafficResponse,
    ShadowComparison,
    TrafficShare,
)
from kgrank.v1.model_service_pb2 import Traffic as TrafficMessage
from model.artifact import ArtifactManifest
from server.contract import Checker
from server.errors import ModelRefusedError, NoModelBeforeError
from server.models import ModelFolder
from server.page_tokens import entry_of, page_token
from server.rpc import Context
from server.serving import Serving
from server.switch import Switch
from server.traffic import MOST_SHARES, Share, Traffic

_PREFIX = "models/"
_LISTING = "models"
_DEFAULT_PAGE = 20
_LARGEST_PAGE = 100
_ROUNDING = 1e-9


class ModelService:
    """Lists the artifacts folder and swaps models."""

    def __init__(self, serving: Serving, models: ModelFolder, switch: Switch) -> None:
        self._serving = serving
        self._models = models
        self._switch = switch

    async def ListModels(self, request: ListModelsRequest, context: Context) -> ListModelsResponse:  # noqa: N802
        """List a page of models."""
        check = Checker()
        if not 0 <= request.page_size <= _LARGEST_PAGE:
            check.refuse("page_size", f"is {request.page_size}; it must be from 0 to {_LARGEST_PAGE}")
        after = _place(check, request.page_token)
        check.finish()
        manifests = await asyncio.to_thread(self._models.manifests)
        remaining = [each for each in manifests if after is None or _order(each) > after]
        size = request.page_size or _DEFAULT_PAGE
        page = remaining[:size]
        token = page_token(_LISTING, [str(each) for each in _order(page[-1])]) if len(remaining) > size else ""
        return ListModelsResponse(models=[self._model(each) for each in page], next_page_token=token)

    async def ActivateModel(self, request: ActivateModelRequest, context: Context) -> ActivateModelResponse:  # noqa: N802
        """Put a model into service."""
        check = Checker()
        version = _version(check, "name", request.name)
        check.finish()
        lineup = await self._switch.change(lambda now: Traffic(version) if now is None else now.activated(version))
        return ActivateModelResponse(model=self._model(lineup.active.artifact.manifest))

    async def RollBackModel(self, request: RollBackModelRequest, context: Context) -> RollBackModelResponse:  # noqa: N802
        """Go back to the model before."""
        lineup = await self._switch.change(_rolled_back)
        return RollBackModelResponse(model=self._model(lineup.active.artifact.manifest))

    async def GetTraffic(self, request: GetTrafficRequest, context: Context) -> GetTrafficResponse:  # noqa: N802
        """Tell which models answer whom."""
        return GetTrafficResponse(traffic=self._traffic(self._serving.lineup.traffic))

    async def SetTraffic(self, request: SetTrafficRequest, context: Context) -> SetTrafficResponse:  # noqa: N802
        """Begin and end trials."""
        active = self._serving.lineup.traffic.active  # without one there is nothing to try beside
        shares, shadow = _trials(request.traffic, active)

        def beside_active(now: Traffic | None) -> Traffic:
            if now is None or now.active != active:
                raise ModelRefusedError(
                    "another model came into service meanwhile", "Look at GetTraffic, and try again."
                )
            return now.with_trials(shares, shadow)

        lineup = await self._switch.change(beside_active)
        return SetTrafficResponse(traffic=self._traffic(lineup.traffic))

    def _traffic(self, traffic: Traffic) -> TrafficMessage:
        told = TrafficMessage(
            active=_PREFIX + traffic.active,
            shares=[TrafficShare(model=_PREFIX + each.model_version, percent=each.percent) for each in traffic.shares],
            shadow=_PREFIX + traffic.shadow if traffic.shadow else "",
        )
        comparison = self._serving.comparison
        if comparison is not None:
            told.shadow_comparison.CopyFrom(
                ShadowComparison(answers=comparison.answers, skipped=comparison.skipped, **comparison.means())
            )
        return told

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


def _version(check: Checker, field: str, name: str) -> str:
    """Return the model version that a resource name names, checked."""
    check.id(field, name)
    version = name.removeprefix(_PREFIX)
    if name and (version == name or not version or "/" in version):
        check.refuse(field, f"is not a model's name; it must be {_PREFIX} and a model version")
    return version


def _trials(traffic: TrafficMessage, active: str) -> tuple[tuple[Share, ...], str | None]:
    """Return the shares and the shadow of new traffic, checked."""
    check = Checker()
    named = {active}
    if len(traffic.shares) > MOST_SHARES:
        check.refuse("traffic.shares", f"has {len(traffic.shares)}; at most {MOST_SHARES} are allowed")
    shares = []
    for position, each in enumerate(traffic.shares[:MOST_SHARES]):
        field = f"traffic.shares[{position}]"
        share = Share(_version(check, f"{field}.model", each.model), each.percent)
        if not (math.isfinite(share.percent) and 0 < share.percent <= 100):
            check.refuse(f"{field}.percent", f"is {share.percent}; it must be above 0 and at most 100")
        if share.model_version in named:
            check.refuse(f"{field}.model", "is in service already: as the active model, or by another share")
        named.add(share.model_version)
        shares.append(share)
    together = sum(share.percent for share in shares)
    if together > 100 + _ROUNDING:
        check.refuse("traffic.shares", f"are {together:g} percent together; at most 100 are allowed")
    shadow = _version(check, "traffic.shadow", traffic.shadow) if traffic.shadow else None
    if shadow in named:
        check.refuse("traffic.shadow", "is in service already: a shadow is a model that answers nobody")
    check.finish()
    return tuple(shares), shadow


def _rolled_back(traffic: Traffic | None) -> Traffic:
    before = traffic.rolled_back() if traffic is not None else None
    if before is None:
        raise NoModelBeforeError("no model was in service before this one", "ActivateModel puts another into service.")
    return before


def _order(manifest: ArtifactManifest) -> tuple[int, str]:
    return -manifest.created_at_ms, manifest.model_version


def _place(check: Checker, token: str) -> tuple[int, str] | None:
    """Return the place in the order of models that a page token names; None for the start."""
    entry = entry_of(check, _LISTING, token, 2)
    try:
        return (int(entry[0]), entry[1]) if entry else None
    except ValueError:
        check.refuse("page_token", "is not a token of this server")
        return None
