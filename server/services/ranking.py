"""RankingService: Recommend, Rank, SimilarProducts, Explain."""

import asyncio
import time

from kg.vocabulary import MISSING
from kgrank.v1.ranking_service_pb2 import (
    ExplainRequest,
    ExplainResponse,
    RankRequest,
    RankResponse,
    RecommendRequest,
    RecommendResponse,
    SimilarProductsRequest,
    SimilarProductsResponse,
)
from server.contract import (
    Limits,
    explain_question,
    rank_question,
    recommend_question,
    similar_question,
)
from server.engine import Engine
from server.errors import UnknownProductError
from server.reply import USER_STATES, attribution_token, results
from server.rpc import Context
from server.serving import Serving


class RankingService:
    """Answers with the engine that is in service when a call begins, to the call's end."""

    def __init__(self, serving: Serving, limits: Limits) -> None:
        self._serving = serving
        self._limits = limits

    async def Recommend(self, request: RecommendRequest, context: Context) -> RecommendResponse:  # noqa: N802
        """Rank the whole catalogue."""
        engine = self._begin()
        question = recommend_question(request, self._limits, _now_ms())
        ranking = await self._serving.answer(engine, question)
        return RecommendResponse(
            results=results(engine, ranking, details=request.include_details),
            model_version=engine.model_version,
            attribution_token=attribution_token(engine),
            missing_ids=ranking.missing,
            user_state=USER_STATES[ranking.state],
        )

    async def Rank(self, request: RankRequest, context: Context) -> RankResponse:  # noqa: N802
        """Rank given candidates."""
        engine = self._begin()
        question = rank_question(request, self._limits, _now_ms())
        ranking = await self._serving.answer(engine, question)
        return RankResponse(
            results=results(engine, ranking, details=request.include_details),
            model_version=engine.model_version,
            attribution_token=attribution_token(engine),
            missing_ids=ranking.missing,
            user_state=USER_STATES[ranking.state],
        )

    async def SimilarProducts(  # noqa: N802
        self, request: SimilarProductsRequest, context: Context
    ) -> SimilarProductsResponse:
        """Find the products most like one."""
        engine = self._begin()
        product_id, k, exclude = similar_question(request, self._limits)
        product_index = _known(engine, product_id)
        ranking = await asyncio.to_thread(engine.similar, product_index, k, exclude)
        return SimilarProductsResponse(
            results=results(engine, ranking, details=request.include_details),
            model_version=engine.model_version,
            attribution_token=attribution_token(engine),
            missing_ids=ranking.missing,
        )

    async def Explain(self, request: ExplainRequest, context: Context) -> ExplainResponse:  # noqa: N802
        """Explain one score."""
        engine = self._begin()
        question, most = explain_question(request, _now_ms())
        product_index = _known(engine, request.product_id)
        ranking = await self._serving.answer(engine, question)
        place = await self._serving.place(engine, question, product_index)
        return ExplainResponse(
            result=results(engine, ranking, details=True)[0],
            rank=place,
            model_version=engine.model_version,
            missing_ids=ranking.missing,
            user_state=USER_STATES[ranking.state],
        )

    def _begin(self) -> Engine:
        engine = self._serving.engine
        self._serving.admit()
        return engine


def _known(engine: Engine, product_id: str) -> int:
    product_index = engine.snapshot.products.index(product_id)
    if product_index == MISSING:
        raise UnknownProductError("the catalogue does not have this product", "Check product_id.")
    return product_index


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
