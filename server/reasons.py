"""Reasons for results: paths from the history over the graph, found in the snapshot's arrays, weighed by the model."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextvars import ContextVar
from itertools import zip_longest
from threading import Event
from typing import TypeVar

import numpy as np

from kg.paths import Reasoner
from kg.reason import USER_NODE, Hop, Path
from kg.reason import Reason as Found
from kg.snapshot import Histories
from kg.wording import Wording
from kgrank.v1 import common_pb2
from model.counterfactual import score_drops, strengths
from server.engine import Engine

_FORWARD = common_pb2.Edge.DIRECTION_FORWARD
_BACKWARD = common_pb2.Edge.DIRECTION_BACKWARD

WEIGHED_EACH = 6
_WEIGHED = 24
"""Products of the history that are taken out by turns: of each result, and of all together.

The first one of each result is among them, however many these are.
"""

_unwanted: ContextVar[Event | None] = ContextVar("unwanted", default=None)

R = TypeVar("R")


def while_wanted(function: Callable[[], R], unwanted: Event) -> R:
    """Call a function; what it looks for with `reasons_for` or `reasons_alike` ends when nobody waits for it.

    Args:
        function: whose result is returned.
        unwanted: set by another thread when nobody waits; looked at before each product.

    Raises:
        CancelledError: it was set before all was found.
    """
    before = _unwanted.set(unwanted)
    try:
        return function()
    finally:
        _unwanted.reset(before)


def reasons_for(
    engine: Engine,
    history: Histories,
    products: Sequence[int],
    *,
    user_id: str,
    k: int,
    wording: Wording,
    seeds: Sequence[str] = (),
) -> list[list[common_pb2.Reason]]:
    """Return up to k reasons for each product, strongest first: the strength is what the score loses without it.

    Args:
        engine: which ranked them.
        history: one history.
        products: product indices.
        user_id: whose it is.
        k: at most so many for each.
        wording: the language.
        seeds: product ids that are in the history as looked at now.

    Raises:
        CancelledError: `while_wanted` has stopped it.
    """
    reasoner, snapshot = engine.reasoner, engine.snapshot
    around = reasoner.surroundings(
        history.product_index, history.type, snapshot.users.index(user_id), snapshot.products.indices(seeds).tolist()
    )
    paths = [reasoner.paths(around, product) for product in _wanted(products)]
    of_each = [list(dict.fromkeys(path.start for path in found))[:WEIGHED_EACH] for found in paths]
    first = {found[0] for found in of_each if found}
    by_turns = (start for of_rank in zip_longest(*of_each) for start in of_rank if start is not None)
    starts = list(dict.fromkeys(by_turns))[: max(_WEIGHED, len(first))]
    drops = score_drops(engine.artifact.scorer, history, engine.now_ms(), starts, np.array(products, np.int64))
    strong = strengths(drops)
    place = {start: row for row, start in enumerate(starts)}
    made = []
    for column, (product, found) in enumerate(zip(_wanted(products), paths, strict=True)):
        known = [path for path in found if path.start in place]
        strength = {path.start: float(strong[place[path.start], column]) for path in known}
        reasons = reasoner.reasons(around, product, k, paths=known, strength=strength, wording=wording)
        made.append([_message(reasoner, reason, user_id) for reason in reasons])
    return made


def reasons_alike(
    reasoner: Reasoner, viewed: Histories, products: Sequence[int], *, k: int, wording: Wording
) -> list[list[common_pb2.Reason]]:
    """Return up to k reasons why products are like one, strongest path first.

    Args:
        reasoner: of the snapshot in service.
        viewed: a history of the one product.
        products: product indices.
        k: at most so many for each.
        wording: the language.

    Raises:
        CancelledError: `while_wanted` has stopped it.
    """
    around = reasoner.surroundings(viewed.product_index, viewed.type)
    return [
        [
            _message(reasoner, reason, None)
            for reason in reasoner.reasons(around, product, k, wording=wording, addressed=False)
        ]
        for product in _wanted(products)
    ]


def _wanted(products: Sequence[int]) -> Iterator[int]:
    unwanted = _unwanted.get()
    for product in products:
        if unwanted is not None and unwanted.is_set():
            raise CancelledError
        yield product


def _message(reasoner: Reasoner, reason: Found, user_id: str | None) -> common_pb2.Reason:
    skipped = 1 if user_id is None else 0
    message = common_pb2.Reason(strength=reason.strength, text=reason.text)
    _fill(message, reasoner, reason.path, user_id or "", skipped)
    for path in reason.also:
        _fill(message.also.add(), reasoner, path, user_id or "", skipped)
    return message


def _fill(
    message: common_pb2.Reason | common_pb2.Path, reasoner: Reasoner, path: Path, user: str, skipped: int
) -> None:
    for index in path.nodes[skipped:]:
        node = reasoner.node(index)
        message.nodes.add(kind=node.kind, id=user if index == USER_NODE else node.id, name=node.name)
    for hop in path.hops[skipped:]:
        message.edges.add(relation=hop.relation, direction=_direction(hop), weight=hop.weight)


def _direction(hop: Hop) -> "common_pb2.Edge.Direction.ValueType":
    return _FORWARD if hop.forward else _BACKWARD
