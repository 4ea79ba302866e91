"""A server that has no model waits for one that another process of its folder has put into service.

Without a model it follows nobody, so that it would hear of no switch; the folder's `ACTIVE` tells of one.
"""

import asyncio

from server.models import ACTIVE, ModelFolder
from server.traffic import Traffic

_LOOKED_EVERY_S = 5.0


async def noted_beside(models: ModelFolder, tried: Traffic | None) -> Traffic:
    """Wait until `ACTIVE` names other models than those that were tried already, and return them."""
    while True:
        await asyncio.sleep(_LOOKED_EVERY_S)
        noted = await asyncio.to_thread(_noted, models)
        if noted is not None and noted != tried:
            return noted


def _noted(models: ModelFolder) -> Traffic | None:
    try:
        return models.traffic if (models.folder / ACTIVE).is_file() else None
    except (OSError, ValueError):  # as the start has told already, or it is being copied
        return None
