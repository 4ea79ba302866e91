"""Which model answers whom: the active one, shares of the users on trial models, and a shadow that is never served.

A user's model follows from a stable hash of the id alone, so that every process, host and restart chooses alike, and a
user stays with one model for as long as the shares stand.
"""

import hashlib
import json
from dataclasses import dataclass, field, replace
from typing import Any

MOST_SHARES = 4
"""Each share keeps an engine in memory."""

_MOST_BEFORE = 20
_POINTS = 1 << 64


@dataclass(frozen=True)
class Share:
    """A trial model and the percent of the users that it answers, above 0."""

    model_version: str
    percent: float


@dataclass(frozen=True)
class Traffic:
    """Model versions in service.

    Args:
        active: answers all users that no share takes.
        shares: trial models; together at most 100 percent.
        shadow: scores along, unseen.
        before: the active ones before this, the latest last: where rolling back leads.
        commit: of the graph, by which other servers heard of it; 0 where they have not.
    """

    active: str
    shares: tuple[Share, ...] = ()
    shadow: str | None = None
    before: tuple[str, ...] = ()
    commit: int = field(default=0, compare=False)

    @property
    def versions(self) -> tuple[str, ...]:
        """Every model in service, the active one first."""
        return (self.active, *(share.model_version for share in self.shares), *([self.shadow] if self.shadow else []))

    def activated(self, model_version: str) -> "Traffic":
        """Return the traffic with another active model; every trial ends."""
        if model_version == self.active:
            return Traffic(self.active, before=self.before)
        return Traffic(model_version, before=(*self.before, self.active)[-_MOST_BEFORE:])

    def rolled_back(self) -> "Traffic | None":
        """Return the traffic with the model before active again, every trial ended; None where there was none."""
        return Traffic(self.before[-1], before=self.before[:-1]) if self.before else None

    def with_trials(self, shares: tuple[Share, ...], shadow: str | None) -> "Traffic":
        """Return the traffic with other trials."""
        return replace(self, shares=shares, shadow=shadow)

    def model_for(self, user_id: str) -> str:
        """Return the model version that answers a user; an anonymous one gets the active model."""
        if not self.shares or not user_id:
            return self.active
        at, end = place(user_id), 0.0
        for share in self.shares:
            end += share.percent
            if at < end:
                return share.model_version
        return self.active

    def as_json(self) -> str:
        """Return the traffic as text that `read_traffic` reads."""
        return json.dumps(
            {
                "active": self.active,
                "shares": [{"model": share.model_version, "percent": share.percent} for share in self.shares],
                "shadow": self.shadow,
                "before": list(self.before),
                "commit": self.commit,
            }
        )


def place(user_id: str) -> float:
    """Return a user's place from 0 to 100, spread evenly over the users and always the same."""
    digest = hashlib.blake2b(user_id.encode(), digest_size=8, person=b"kgrank-traffic").digest()
    return int.from_bytes(digest) / _POINTS * 100


def read_traffic(text: str) -> Traffic | None:
    """Return what `as_json` wrote, or the traffic of a model version written alone; None where it is neither."""
    text = text.strip()
    if not text.startswith("{"):
        return Traffic(text) if text else None
    try:
        raw: dict[str, Any] = json.loads(text)
        traffic = Traffic(
            active=str(raw["active"]),
            shares=tuple(Share(str(each["model"]), float(each["percent"])) for each in raw["shares"]),
            shadow=None if raw["shadow"] is None else str(raw["shadow"]),
            before=tuple(str(each) for each in raw["before"]),
            commit=int(raw["commit"]),
        )
    except (ValueError, KeyError, TypeError):
        return None
    twice = len(set(traffic.versions)) < len(traffic.versions)
    return traffic.with_trials((), None) if twice else traffic
