"""Rankings as the contract's results."""

import secrets
from collections.abc import Sequence

from kgrank.v1 import common_pb2
from model.scoring import GRAPH, HISTORY, NEIGHBOURS, POPULARITY, TEXT
from server.engine import Engine
from server.question import Ranking, UserState

USER_STATES = {state: common_pb2.UserState.Value(f"USER_STATE_{state.name}") for state in UserState}


def results(
    engine: Engine,
    ranking: Ranking,
    *,
    details: bool = False,
    reasons: Sequence[Sequence[common_pb2.Reason]] = (),
) -> list[common_pb2.Result]:
    """Return a ranking's products as results, best first.

    Args:
        engine: the engine that made the ranking.
        ranking: K products.
        details: with title and brand.
        reasons: of each product, or none at all.
    """
    ids = engine.product_ids
    nothing = [0.0] * len(ranking.score)
    graph, text, history, popularity, neighbours = (
        ranking.parts[name].tolist() if name in ranking.parts else nothing
        for name in (GRAPH, TEXT, HISTORY, POPULARITY, NEIGHBOURS)
    )
    made = []
    for place, (index, score) in enumerate(zip(ranking.product_index.tolist(), ranking.score.tolist(), strict=True)):
        components = common_pb2.ScoreComponents(
            graph=graph[place],
            text=text[place],
            history=history[place],
            popularity=popularity[place],
            neighbours=neighbours[place],
        )
        made.append(common_pb2.Result(product_id=ids[index], score=score, components=components))
    for result, each in zip(made, reasons, strict=False):
        result.reasons.extend(each)
    if details:
        rows = engine.snapshot.catalogue.select(["title", "brand"]).take(ranking.product_index).to_pylist()
        for result, row in zip(made, rows, strict=True):
            result.title, result.brand = row["title"], row["brand"]
    return made


def attribution_token(engine: Engine) -> str:
    """Return a name for one answer: the model version and a random part."""
    return f"{engine.model_version}.{secrets.token_urlsafe(12)}"
