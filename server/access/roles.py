"""Roles, and which of them each call of the contract needs: one table."""

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What a caller may do."""

    READ = "read"
    WRITE_EVENTS = "write_events"
    WRITE_CATALOGUE = "write_catalogue"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Need:
    """What a call needs: a role, and whether it is recorded in the audit log. An admin may do everything."""

    role: Role
    audited: bool = False


_READ = Need(Role.READ)
_EVENTS = Need(Role.WRITE_EVENTS)
_CATALOGUE = Need(Role.WRITE_CATALOGUE)
_CATALOGUE_AUDITED = Need(Role.WRITE_CATALOGUE, audited=True)
_ADMIN = Need(Role.ADMIN, audited=True)

NEEDS: dict[str, Need] = {
    "kgrank.v1.RankingService.Recommend": _READ,
    "kgrank.v1.RankingService.Rank": _READ,
    "kgrank.v1.RankingService.SimilarProducts": _READ,
    "kgrank.v1.RankingService.Search": _READ,
    "kgrank.v1.RankingService.Explain": _READ,
    "kgrank.v1.RankingService.BatchRecommend": _READ,
    "kgrank.v1.EventService.WriteEvent": _EVENTS,
    "kgrank.v1.EventService.WriteEvents": _EVENTS,
    "kgrank.v1.EventService.IngestEvents": _EVENTS,
    "kgrank.v1.CatalogService.UpsertProducts": _CATALOGUE,
    "kgrank.v1.CatalogService.GetProduct": _READ,
    "kgrank.v1.CatalogService.ListProducts": _READ,
    "kgrank.v1.CatalogService.DeleteProducts": _CATALOGUE_AUDITED,
    "kgrank.v1.CatalogService.UpsertFacts": _CATALOGUE,
    "kgrank.v1.CatalogService.ListFacts": _READ,
    "kgrank.v1.CatalogService.DeleteFacts": _CATALOGUE_AUDITED,
    "kgrank.v1.RuleService.UpsertRule": _CATALOGUE_AUDITED,
    "kgrank.v1.RuleService.ListRules": _READ,
    "kgrank.v1.RuleService.DeleteRule": _CATALOGUE_AUDITED,
    "kgrank.v1.ModelService.ListModels": _READ,
    "kgrank.v1.ModelService.ActivateModel": _ADMIN,
    "kgrank.v1.ModelService.RollBackModel": _ADMIN,
    "kgrank.v1.ModelService.GetTraffic": _READ,
    "kgrank.v1.ModelService.SetTraffic": _ADMIN,
    "kgrank.v1.UserService.GetUserProfile": _READ,
    "kgrank.v1.UserService.ExportUser": _ADMIN,
    "kgrank.v1.UserService.EraseUser": _ADMIN,
}
"""A call's need by its full name. One that is missing here needs an admin, and fails a test."""


def need_of(method: str) -> Need:
    """Return what a call needs, by the full name of its method."""
    return NEEDS.get(method, _ADMIN)
