"""RuleService: UpsertRule, ListRules, DeleteRule."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from kg.rules import Action, Rule, Target, remove_rule, rules_page, upsert_rule
from kgrank.v1 import rule_service_pb2
from kgrank.v1.rule_service_pb2 import (
    DeleteRuleRequest,
    DeleteRuleResponse,
    ListRulesRequest,
    ListRulesResponse,
    UpsertRuleRequest,
    UpsertRuleResponse,
)
from server.contract import Checker, Limits
from server.contract_selection import name_of
from server.errors import UnknownRuleError
from server.follow import Follower
from server.graph_link import GraphLink
from server.page_tokens import entry_of, page_token
from server.products import page_size
from server.rpc import Context

if TYPE_CHECKING:
    from kg.store import Graph

LARGEST_STRENGTH = 10.0

_LISTING = "rules"

_LATEST_S = 253_402_300_799
"""The last second of the year 9999, which ends what a timestamp can say."""

_ACTIONS = {rule_service_pb2.Rule.Action.Value(f"ACTION_{action.name}"): action for action in Action}
_CODES = {action: code for code, action in _ACTIONS.items()}
_FIELDS = {"product_id": Target.PRODUCT, "brand": Target.BRAND, "category": Target.CATEGORY}

T = TypeVar("T")


class RuleService:
    """Writes the shop's rules; what is acknowledged is in the graph, and every server follows it.

    Args:
        link: the graph.
        follower: told of each write, so that this server need not wait for its next look.
        limits: no product is pinned beyond the largest number of results.
    """

    def __init__(self, link: "GraphLink[Graph]", follower: Follower, limits: Limits) -> None:
        self._link = link
        self._follower = follower
        self._limits = limits

    async def UpsertRule(self, request: UpsertRuleRequest, context: Context) -> UpsertRuleResponse:  # noqa: N802
        """Add or change a rule."""
        rule = rule_of(request.rule, self._limits)
        await self._write(lambda graph: upsert_rule(graph, rule))
        return UpsertRuleResponse(rule=_message(rule))

    async def ListRules(self, request: ListRulesRequest, context: Context) -> ListRulesResponse:  # noqa: N802
        """List a page of rules."""
        check = Checker()
        size = page_size(check, request.page_size)
        after = entry_of(check, _LISTING, request.page_token, 1)
        check.finish()
        last = after[0] if after else ""
        found = await self._link.run(lambda graph: rules_page(graph, last, size + 1))
        token = page_token(_LISTING, [found[size - 1].rule_id]) if len(found) > size else ""
        return ListRulesResponse(rules=map(_message, found[:size]), next_page_token=token)

    async def DeleteRule(self, request: DeleteRuleRequest, context: Context) -> DeleteRuleResponse:  # noqa: N802
        """Remove a rule."""
        check = Checker()
        rule_id = check.id("rule_id", request.rule_id)
        check.finish()
        if not await self._write(lambda graph: remove_rule(graph, rule_id)):
            raise UnknownRuleError("there is no rule with this id", "Check rule_id; ListRules lists those that are.")
        return DeleteRuleResponse()

    async def _write(self, work: "Callable[[Graph], T]") -> T:
        done = await self._link.run(work)
        self._follower.nudge()
        return done


def rule_of(message: rule_service_pb2.Rule, limits: Limits) -> Rule:
    """Return the rule of a request.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    action = _ACTIONS.get(message.action)
    if action is None:
        check.refuse("rule.action", f"has no value {message.action}" if message.action else "is not set")
    field = message.WhichOneof("target")
    if field is None:
        check.refuse("rule.target", "is not set; name a product_id, a brand or a category")
    strength = message.strength if message.HasField("strength") else 1.0
    if message.HasField("strength") and action in (Action.PIN, Action.BLOCK):
        check.refuse("rule.strength", "is for BOOST and BURY")
    elif not math.isfinite(strength) or not 0 <= strength <= LARGEST_STRENGTH:
        check.refuse("rule.strength", f"is {strength}; it must be from 0 to {LARGEST_STRENGTH:g}")
    position = message.position if message.HasField("position") else 1
    if message.HasField("position") and action not in (Action.PIN, None):
        check.refuse("rule.position", "is for PIN")
    else:
        check.count("rule.position", position, limits.results)
    start_ms, end_ms = (
        _moment(check, f"rule.{end}", getattr(message, end)) if message.HasField(end) else None
        for end in ("start_time", "end_time")
    )
    if start_ms is not None and end_ms is not None and end_ms <= start_ms:
        check.refuse("rule.end_time", "is not after start_time")
    name = ""
    if field == "product_id":
        name = check.id("rule.product_id", message.product_id)
    elif field is not None:
        name = name_of(check, f"rule.{field}", getattr(message, field))
    rule_id = check.id("rule.rule_id", message.rule_id)
    check.finish()
    assert action is not None and field is not None  # noqa: PT018  # for mypy: else something was refused
    return Rule(rule_id, action, _FIELDS[field], name, strength, position, start_ms, end_ms)


def _moment(check: Checker, field: str, moment: Timestamp) -> int:
    """Check a moment of any time; return it in milliseconds since the epoch."""
    if not 0 <= moment.nanos < 1_000_000_000:
        check.refuse(f"{field}.nanos", f"is {moment.nanos}; it must be from 0 to 999,999,999")
    if not 0 <= moment.seconds <= _LATEST_S:
        check.refuse(field, "is not between the years 1970 and 9999")
    return int(moment.seconds * 1000 + moment.nanos // 1_000_000)


def _message(rule: Rule) -> rule_service_pb2.Rule:
    """Return a rule as the contract has it."""
    message = rule_service_pb2.Rule(rule_id=rule.rule_id, action=_CODES[rule.action])
    setattr(message, next(field for field, target in _FIELDS.items() if target is rule.target), rule.name)
    if rule.action in (Action.BOOST, Action.BURY):
        message.strength = rule.strength
    if rule.action is Action.PIN:
        message.position = rule.position
    for field, moment in ((message.start_time, rule.start_ms), (message.end_time, rule.end_ms)):
        if moment is not None:
            field.FromMilliseconds(moment)
    return message
