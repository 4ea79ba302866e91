"""Which models a run is asked for: patterns of DATA/PROTOCOL/MODEL, each of which has to match one."""

from collections.abc import Iterable, Sequence
from fnmatch import fnmatch

from kg.errors import ConfigError
from model.compare.config import CompareConfig


class Patterns:
    """Says what is asked for, and remembers which patterns have matched.

    Args:
        only: patterns, in which * and ? stand for anything; without any, everything is asked for.
    """

    def __init__(self, only: Sequence[str]) -> None:
        self._only = tuple(only)
        self._unmatched = set(only)

    def match(self, name: str) -> bool:
        """Return whether a model, by DATA/PROTOCOL/MODEL, is asked for."""
        matching = {pattern for pattern in self._only if fnmatch(name, pattern)}
        self._unmatched -= matching
        return not self._only or bool(matching)

    def match_unread(self, config: CompareConfig, data: str, protocols: Iterable[str]) -> None:
        """Take note of the patterns that match a model on data that can't be had."""
        names = [f"{data}/{protocol}/{model}" for protocol in protocols for model in config.models]
        # Their relations are not known, nor are the variants that leave one out, MODEL:RELATION.
        self._unmatched -= {
            each for each in self._unmatched if any(fnmatch(name, each.partition(":")[0]) for name in names)
        }

    def check(self, config: CompareConfig) -> None:
        """Make sure that every pattern has matched a model.

        Raises:
            ConfigError: one has matched none.
        """
        for pattern in self._only:
            if pattern in self._unmatched:
                raise ConfigError(
                    f"--only {pattern!r} matches no model of this comparison",
                    f"It is DATA/PROTOCOL/MODEL; data sets: {', '.join(config.data)}; "
                    f"protocols: {', '.join(config.protocols)}; models: {', '.join(config.models)}.",
                )
