"""A server that has no model waits for one that another process of its folder has put into service.

Without a model it follows nobody, so that it would hear of no switch; the folder's `ACTIVE` tells of one.
"""

import asyncio
import time
from collections.abc import AsyncIterator

import structlog

from server.models import ACTIVE, ModelFolder
from server.traffic import Traffic

_log = structlog.get_logger(__name__)

_LOOKED_EVERY_S = 5.0
_LONGEST_RETRY_S = 60.0


def to_begin_with(models: ModelFolder) -> Traffic | None:
    """Return what a start serves; the log says where it is not what was in service last."""
    traffic, lost = models.traffic, models.lost
    if traffic is not None and lost is not None and models.chosen is None:
        remedy = "Copy its artifact here, or activate the model that is to be served."
        _log.error("active_missing", reason=lost, begins_with=traffic.active, remedy=remedy)
    return traffic


async def noted_beside(models: ModelFolder) -> AsyncIterator[Traffic]:
    """Yield the models that `ACTIVE` names: others at once, the same ones after waits that grow up to a minute.

    What is being copied to this host is refused until all of it has come.
    """
    tried, wait_s, again_s = None, _LOOKED_EVERY_S, 0.0
    while True:
        await asyncio.sleep(_LOOKED_EVERY_S)
        noted = await asyncio.to_thread(_noted, models, tried)
        if noted is None or (noted == tried and time.monotonic() < again_s):
            continue
        wait_s = min(wait_s * 2, _LONGEST_RETRY_S) if noted == tried else _LOOKED_EVERY_S
        yield noted
        tried, again_s = noted, time.monotonic() + wait_s


def _noted(models: ModelFolder, tried: Traffic | None) -> Traffic | None:
    try:
        if not (models.folder / ACTIVE).is_file():
            return None
        noted = models.traffic
        return noted if noted == tried else to_begin_with(models)
    except (OSError, ValueError):  # as the start has told already, or it is being copied
        return None
