"""Rankings as the contract's results."""

from collections.abc import Callable, Sequence

from kgrank.v1 import common_pb2, ranking_service_pb2
from model.scoring import (
    DIVERSITY,
    EXPLORATION,
    GRAPH,
    HISTORY,
    NEIGHBOURS,
    NEWCOMER,
    POPULARITY,
    QUERY,
    RULE,
    TEXT,
)
from server.engine import Engine
from server.question import Ranking, UserState
from server.wire import is_plain

Listing = (
    ranking_service_pb2.RecommendResponse
    | ranking_service_pb2.RankResponse
    | ranking_service_pb2.SearchResponse
    | ranking_service_pb2.SimilarProductsResponse
)

USER_STATES = {state: common_pb2.UserState.Value(f"USER_STATE_{state.name}") for state in UserState}

_FURTHER = (QUERY, RULE, DIVERSITY, EXPLORATION)
"""Components of few answers: the contract calls them by the same names."""


def fill(
    add: Callable[[], common_pb2.Result],
    engine: Engine,
    ranking: Ranking,
    *,
    details: bool = False,
    reasons: Sequence[Sequence[common_pb2.Reason]] = (),
) -> None:
    """Write a ranking's products as results, best first.

    Args:
        add: returns a new result of the response; writing in place costs a third of handing over made ones.
        engine: the engine that made the ranking.
        ranking: K products.
        details: with title and brand.
        reasons: of each product, or none at all.
    """
    ids = engine.product_ids
    indices = ranking.product_index.tolist()
    nothing = [0.0] * len(indices)
    graph, text, history, popularity, neighbours, newcomer = (
        ranking.parts[name].tolist() if name in ranking.parts else nothing
        for name in (GRAPH, TEXT, HISTORY, POPULARITY, NEIGHBOURS, NEWCOMER)
    )
    further = [(name, ranking.parts[name].tolist()) for name in _FURTHER if name in ranking.parts]
    rows = (
        engine.snapshot.catalogue.select(["title", "brand"]).take(ranking.product_index).to_pylist() if details else []
    )
    for place, (index, score) in enumerate(zip(indices, ranking.score.tolist(), strict=True)):
        result = add()
        result.product_id = ids[index]
        result.score = score
        components = result.components
        components.graph = graph[place]
        components.text = text[place]
        components.history = history[place]
        components.popularity = popularity[place]
        components.neighbours = neighbours[place]
        components.newcomer = newcomer[place]
        for name, part in further:
            setattr(components, name, part[place])
        if reasons:
            result.reasons.extend(reasons[place])
        if details:
            result.title, result.brand = rows[place]["title"], rows[place]["brand"]


def with_results(
    response: Listing,
    engine: Engine,
    ranking: Ranking,
    *,
    details: bool,
    reasons: Sequence[Sequence[common_pb2.Reason]],
) -> bytes:
    """Return a response with a ranking's products as its results, best first, as it is sent.

    Args:
        response: all but the results.
        engine: the engine that made the ranking.
        ranking: K products.
        details: with title and brand.
        reasons: of each product, or none at all.
    """
    if not details and not reasons and is_plain(ranking):
        return engine.writer.results(ranking) + response.SerializeToString()
    fill(response.results.add, engine, ranking, details=details, reasons=reasons)
    return response.SerializeToString()
