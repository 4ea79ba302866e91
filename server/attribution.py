"""Which model made an answer, and which events came of it: told by the token that an answer has and events bring.

    <model version>.<random>

What users did is counted by the model that led to it, so that models on trial can be compared by what came of them.
"""

import secrets
from collections.abc import Callable, Iterable

from server.watch.metrics import Metrics

NONE, OTHER = "none", "other"
"""Where an event has no token, and where its token is of no model in service."""


class Attribution:
    """Makes tokens and counts by them. Belongs to the event loop's thread.

    Args:
        metrics: count answers and events; None: nobody does.
        versions: returns the model versions in service.
    """

    def __init__(self, metrics: Metrics | None, versions: Callable[[], Iterable[str]]) -> None:
        self._metrics = metrics
        self._versions = versions

    def token(self, model_version: str) -> str:
        """Return a name for one answer of a model, and count the answer."""
        if self._metrics is not None:
            self._metrics.answer_given(model_version)
        return f"{model_version}.{secrets.token_urlsafe(12)}"

    def written(self, token: str, kind: str) -> None:
        """Count an event that was stored, with the token that it brought; an empty one is none."""
        if self._metrics is not None:
            version = token.rpartition(".")[0]
            self._metrics.event_written(version if version in self._versions() else OTHER if token else NONE, kind)
