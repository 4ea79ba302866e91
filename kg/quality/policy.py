"""What is done with rows that are bad, or that point outside the catalogue."""

from dataclasses import dataclass, field
from enum import StrEnum

from kg.errors import ConfigError

DEFAULT_MAX_BAD = 0.05


class Outside(StrEnum):
    """What to do with a row whose product is not in the catalogue."""

    DROP = "drop"
    """Leave it out and count it; it is not a bad row."""
    BARE = "bare"
    """Keep it: an interaction's product becomes a product with nothing but its id, a fact's end a node."""
    REFUSE = "refuse"
    """It is a bad row: quarantined, and counted against `max_bad`."""


@dataclass(frozen=True)
class Policy:
    """How strict a check is.

    Args:
        outside: for `interactions` and `facts`. Unless given, facts are dropped (most of Amazon's also_bought point
            outside any one category) and interactions refused; both are bare if the source has no products at all.
        max_bad: largest share of bad rows of a table, 0 to 1.
        strict: no bad row and no duplicate is accepted.
    """

    outside: dict[str, Outside] = field(default_factory=dict)
    max_bad: float = DEFAULT_MAX_BAD
    strict: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.max_bad <= 1:
            raise ConfigError(f"max_bad is {self.max_bad}, not between 0 and 1", "Give a share, such as 0.05 or 5%.")
        for table in self.outside:
            if table not in ("interactions", "facts"):
                raise ConfigError(f"there is no outside policy for table {table!r}", "Use interactions or facts.")

    def action(self, table: str, *, has_catalogue: bool) -> Outside:
        """Return what to do with a table's rows that point outside the catalogue."""
        default = Outside.DROP if table == "facts" else Outside.REFUSE
        return self.outside.get(table, default if has_catalogue else Outside.BARE)
