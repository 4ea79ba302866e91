"""RankingService: Recommend, one or many at a time, Rank, Search, SimilarProducts, Explain."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from functools import partial

import numpy as np

from kg.snapshot import Histories
from kg.tables import CODES, InteractionType
from kg.vocabulary import MISSING
from kg.wording import WORDINGS
from kgrank.v1.common_pb2 import Reason
from kgrank.v1.ranking_service_pb2 import (
    BatchError,
    BatchRecommendRequest,
    BatchRecommendResponse,
    ExplainRequest,
    ExplainResponse,
    RankRequest,
    RankResponse,
    RecommendRequest,
    RecommendResponse,
    SearchRequest,
    SearchResponse,
    SimilarProductsRequest,
    SimilarProductsResponse,
)
from server.admission import MANY
from server.attribution import Attribution
from server.contract import (
    MOST_REASONS,
    Limits,
    explain_question,
    rank_question,
    recommend_question,
    search_question,
    similar_question,
)
from server.engine import Engine
from server.errors import InvalidRequestError, OverloadedError, SearchOffError, UnknownProductError, failure
from server.question import Question, Ranking
from server.reasons import reasons_alike, reasons_for
from server.reply import USER_STATES, fill, with_results
from server.rpc import Context, Outcome, request_id
from server.searches import SearchLog
from server.serving import Serving
from server.streaming import in_any_order
from server.wire import embedded

AT_ONCE = 32
"""Requests of one stream that are worked on, wait for a place, or are answered and not read yet, at most."""

_OF_STREAMS = MANY // 2
"""Requests of all streams that take places at once; beside these, some calls are let in however long they take."""
_AGAIN_AFTER_S = 0.05

_MOST_FIELDS = 3
_RESPONSE = BatchRecommendResponse.DESCRIPTOR.fields_by_name["response"].number
_BATCH = "kgrank.v1.RankingService.BatchRecommend"


class RankingService:
    """Answers with the engine that is in service when a call begins, to the call's end.

    Args:
        serving: the engines.
        limits: of requests.
        searches: where searches of users are written down.
        attribution: names the answers.
    """

    def __init__(self, serving: Serving, limits: Limits, searches: SearchLog, attribution: Attribution) -> None:
        self._serving = serving
        self._limits = limits
        self._searches = searches
        self._attribution = attribution
        self._of_streams = asyncio.Semaphore(_OF_STREAMS)

    async def Recommend(self, request: RecommendRequest, context: Context) -> bytes:  # noqa: N802
        """Rank the whole catalogue."""
        return await self._recommend(request)

    async def BatchRecommend(  # noqa: N802
        self, requests: AsyncIterator[BatchRecommendRequest], context: Context
    ) -> AsyncIterator[Outcome]:
        """Rank the whole catalogue for many users."""
        answer = partial(self._outcome, request_id=request_id(context) or secrets.token_hex(8))
        async with aclosing(in_any_order(requests, answer, at_once=AT_ONCE)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    async def _outcome(self, each: BatchRecommendRequest, request_id: str) -> Outcome:
        try:
            answer = await self._in_its_turn(each.request)
            response = BatchRecommendResponse(sequence=each.sequence).SerializeToString() + embedded(_RESPONSE, answer)
            return Outcome(response)
        except Exception as error:
            told = failure(error, method=_BATCH, request_id=request_id)
            code: int = told.code.value[0]
            why = BatchError(code=code, message=_with_fields(told.message, error), reason=told.reason)
            return Outcome(BatchRecommendResponse(sequence=each.sequence, error=why), told.code)

    async def _in_its_turn(self, request: RecommendRequest) -> bytes:
        """Answer a request of a stream; it waits where a call is refused, until the stream ends if need be."""
        async with self._of_streams:
            while True:
                try:
                    return await self._recommend(request)
                except OverloadedError:
                    await asyncio.sleep(_AGAIN_AFTER_S)

    async def _recommend(self, request: RecommendRequest) -> bytes:
        with self._serving.admitted(reasons=request.include_reasons, user_id=request.user_id) as engine:
            question = self._serving.with_searches(recommend_question(request, self._limits, _now_ms()))
            return await self._listed(RecommendResponse, engine, question, request)

    async def Rank(self, request: RankRequest, context: Context) -> bytes:  # noqa: N802
        """Rank given candidates."""
        with self._serving.admitted(reasons=request.include_reasons, user_id=request.user_id) as engine:
            question = self._serving.with_searches(rank_question(request, self._limits, _now_ms()))
            return await self._listed(RankResponse, engine, question, request)

    async def _listed(
        self,
        answer: type[RecommendResponse] | type[RankResponse],
        engine: Engine,
        question: Question,
        request: RecommendRequest | RankRequest,
    ) -> bytes:
        """Return the answer to a question, worked out or given again; its attribution token is its own."""
        kept = self._serving.kept
        place = kept.place(engine, question, (answer, request.include_details, request.include_reasons))
        body = kept.get(place)
        if body is None:
            ranking = await self._serving.answer(engine, question)
            reasons = await self._reasons(engine, question, ranking) if request.include_reasons else []
            response = answer(
                model_version=engine.model_version,
                missing_ids=ranking.missing,
                user_state=USER_STATES[ranking.state],
            )
            body = with_results(response, engine, ranking, details=request.include_details, reasons=reasons)
            kept.put(place, body, ranking.state)
        return body + answer(attribution_token=self._attribution.token(engine.model_version)).SerializeToString()

    async def Search(self, request: SearchRequest, context: Context) -> bytes:  # noqa: N802
        """Find products by words and meaning, and rank them for the user."""
        with self._serving.admitted(reasons=request.include_reasons, user_id=request.user_id) as engine:
            question = search_question(request, self._limits, _now_ms())
            if engine.selection.finder is None:
                raise SearchOffError("this server does not answer searches", "Set serve.search to true.")
            ranking = await self._serving.answer(engine, question)
            reasons = await self._reasons(engine, question, ranking) if request.include_reasons else []
            if question.user_id and not request.untracked:
                self._searches.note(question.user_id, question.query)
            response = SearchResponse(
                model_version=engine.model_version,
                attribution_token=self._attribution.token(engine.model_version),
                missing_ids=ranking.missing,
                user_state=USER_STATES[ranking.state],
                corrected_query=ranking.corrected,
            )
            return with_results(response, engine, ranking, details=request.include_details, reasons=reasons)

    async def SimilarProducts(self, request: SimilarProductsRequest, context: Context) -> bytes:  # noqa: N802
        """Find the products most like one."""
        with self._serving.admitted(reasons=request.include_reasons) as engine:
            product_id, question = similar_question(request, self._limits)
            product_index = _known(engine, product_id)
            ranking = await self._serving.similar(engine, product_index, question)
            reasons: list[list[Reason]] = []
            if request.include_reasons:
                found = ranking.product_index.tolist()
                viewed, wording = _viewed(product_index), WORDINGS[question.language]
                reasons = await self._serving.reason(
                    lambda: reasons_alike(engine.reasoner, viewed, found, k=MOST_REASONS, wording=wording)
                )
            response = SimilarProductsResponse(
                model_version=engine.model_version,
                attribution_token=self._attribution.token(engine.model_version),
                missing_ids=ranking.missing,
            )
            return with_results(response, engine, ranking, details=request.include_details, reasons=reasons)

    async def Explain(self, request: ExplainRequest, context: Context) -> ExplainResponse:  # noqa: N802
        """Explain one score."""
        with self._serving.admitted(reasons=True, user_id=request.user_id) as engine:
            question, most = explain_question(request, _now_ms())
            question = self._serving.with_searches(question)
            product_index = _known(engine, request.product_id)
            # Beside each other: counting is one matrix product, which leaves the interpreter to the search for reasons.
            # That takes longer, and goes first.
            reasons, (ranking, place) = await asyncio.gather(
                self._reasons_of(engine, question, [product_index], most),
                self._serving.placed(engine, question, product_index),
            )
            response = ExplainResponse(
                rank=place,
                model_version=engine.model_version,
                missing_ids=ranking.missing,
                user_state=USER_STATES[ranking.state],
            )
            fill(lambda: response.result, engine, ranking, details=True, reasons=reasons)
            return response

    async def _reasons(self, engine: Engine, question: Question, ranking: Ranking) -> list[list[Reason]]:
        return await self._reasons_of(engine, question, ranking.product_index.tolist(), MOST_REASONS)

    async def _reasons_of(
        self, engine: Engine, question: Question, products: list[int], most: int
    ) -> list[list[Reason]]:
        history = engine.history(question)
        return await self._serving.reason(
            lambda: reasons_for(
                engine,
                history,
                products,
                user_id=question.user_id,
                k=most,
                wording=WORDINGS[question.language],
                seeds=question.seeds,
            )
        )


def _with_fields(message: str, error: Exception) -> str:
    """Return a message with the refused fields, which a call of its own tells in its details."""
    if not isinstance(error, InvalidRequestError):
        return message
    fields = [f"{each.field} {each.description}" for each in error.violations[:_MOST_FIELDS]]
    return f"{message}: {'; '.join(fields)}"


def _viewed(product_index: int) -> Histories:
    """Return the history of somebody who has looked at one product."""
    return Histories(
        np.array([0, 1]),
        np.array([product_index], np.int32),
        np.array([CODES[InteractionType.VIEW]], np.int8),
        np.zeros(1, np.int64),
        np.full(1, np.nan, np.float32),
    )


def _known(engine: Engine, product_id: str) -> int:
    product_index = engine.snapshot.products.index(product_id)
    if product_index == MISSING:
        raise UnknownProductError("the catalogue does not have this product", "Check product_id.")
    return product_index


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
