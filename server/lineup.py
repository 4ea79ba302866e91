"""The engines in service: the active one, those of trials, and a shadow; swapped in whole."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from server.engine import Engine
from server.histories import LiveHistories
from server.traffic import Traffic


@dataclass(frozen=True)
class Lineup:
    """Engines, and who is answered by which.

    Args:
        traffic: the model versions in service.
        engines: the engine of each of them.
    """

    traffic: Traffic
    engines: Mapping[str, Engine]

    @property
    def active(self) -> Engine:
        """The engine that answers all users that no share takes."""
        return self.engines[self.traffic.active]

    @property
    def shadow(self) -> Engine | None:
        """The engine that scores along, unseen."""
        return None if self.traffic.shadow is None else self.engines[self.traffic.shadow]

    def engine_for(self, user_id: str) -> Engine:
        """Return the engine that answers a user; the active one for an anonymous visitor."""
        return self.engines[self.traffic.model_for(user_id)]

    def histories(self) -> "list[tuple[LiveHistories, Engine]]":
        """Return the histories in service, each once, with an engine that answers from them."""
        found = {id(engine.histories): (engine.histories, engine) for engine in self.engines.values()}
        return list(found.values())

    def mapped(self, make: Callable[[Engine], Engine]) -> "Lineup":
        """Return the same line-up with every engine replaced by what `make` returns for it."""
        return Lineup(self.traffic, {version: make(engine) for version, engine in self.engines.items()})
