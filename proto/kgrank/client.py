"""A thin client of the service: deadlines, retries only where that is safe, errors as exceptions.

    with Client() as client:
        for result in client.recommend("17", k=5).results:
            print(result.product_id, result.score)

It needs the base install alone. Every method returns the contract's own message, so that its documentation is the
contract's.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar

import grpc

from kgrank.channel import Credentials, open_channel
from kgrank.errors import CallError, decode, decode_batch
from kgrank.messages import event, fact, identified, product
from kgrank.v1 import (
    catalog_service_pb2,
    common_pb2,
    event_service_pb2,
    model_service_pb2,
    ranking_service_pb2,
    rule_service_pb2,
    user_service_pb2,
)
from kgrank.v1.catalog_service_pb2_grpc import CatalogServiceStub
from kgrank.v1.event_service_pb2_grpc import EventServiceStub
from kgrank.v1.model_service_pb2_grpc import ModelServiceStub
from kgrank.v1.ranking_service_pb2_grpc import RankingServiceStub
from kgrank.v1.rule_service_pb2_grpc import RuleServiceStub
from kgrank.v1.user_service_pb2_grpc import UserServiceStub

__all__ = ["DEFAULT_TARGET", "TARGET_VARIABLE", "Client", "event", "fact", "product"]

TARGET_VARIABLE = "KGRANK_TARGET"
DEFAULT_TARGET = "localhost:50051"

_Request = TypeVar("_Request")
_Response = TypeVar("_Response")


class Client:
    """A connection to one server; may be shared by threads.

    Args:
        target: `host:port`; by default `KGRANK_TARGET`, else `localhost:50051`. Calls are spread over all servers that
            `dns:///host:port` stands for.
        timeout_s: deadline of each call, retries included, unless its method has a `timeout_s` of its own.
        credentials: token and certificates; by default those that the environment names (`kgrank.channel`).

    Every method raises a `kgrank.errors.CallError`: `InvalidRequestError` names the refused fields,
    `ServerUnavailableError` says that nobody answers.
    """

    def __init__(
        self, target: str | None = None, *, timeout_s: float = 5.0, credentials: Credentials | None = None
    ) -> None:
        self.target = target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET
        self._timeout_s = timeout_s
        self._channel = open_channel(self.target, credentials or Credentials.of())
        self._ranking = RankingServiceStub(self._channel)
        self._events = EventServiceStub(self._channel)
        self._models = ModelServiceStub(self._channel)
        self._catalogue = CatalogServiceStub(self._channel)
        self._users = UserServiceStub(self._channel)
        self._rules = RuleServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def recommend(
        self,
        user_id: str = "",
        *,
        k: int = 10,
        exclude_seen: bool | None = None,
        exclude_product_ids: Iterable[str] = (),
        allowed_product_ids: Iterable[str] = (),
        context: common_pb2.Context | None = None,
        filter: common_pb2.Filter | None = None,
        mix: common_pb2.Mix | None = None,
        reasons: bool = False,
        details: bool = False,
        language: str = "",
    ) -> ranking_service_pb2.RecommendResponse:
        """Rank the whole catalogue for a user."""
        request = ranking_service_pb2.RecommendRequest(
            user_id=user_id,
            k=k,
            exclude_seen=exclude_seen,
            exclude_product_ids=exclude_product_ids,
            allowed_product_ids=allowed_product_ids,
            context=context,
            filter=filter,
            mix=mix,
            include_reasons=reasons,
            include_details=details,
            language_code=language,
        )
        return self._call(self._ranking.Recommend, request)

    def rank(
        self,
        user_id: str,
        product_ids: Iterable[str],
        *,
        k: int | None = None,
        context: common_pb2.Context | None = None,
        reasons: bool = False,
        details: bool = False,
        language: str = "",
    ) -> ranking_service_pb2.RankResponse:
        """Rank given candidates for a user."""
        request = ranking_service_pb2.RankRequest(
            user_id=user_id,
            product_ids=product_ids,
            k=k,
            context=context,
            include_reasons=reasons,
            include_details=details,
            language_code=language,
        )
        return self._call(self._ranking.Rank, request)

    def similar_products(
        self,
        product_id: str,
        *,
        k: int = 10,
        exclude_product_ids: Iterable[str] = (),
        allowed_product_ids: Iterable[str] = (),
        filter: common_pb2.Filter | None = None,
        mix: common_pb2.Mix | None = None,
        reasons: bool = False,
        details: bool = False,
        language: str = "",
    ) -> ranking_service_pb2.SimilarProductsResponse:
        """Find the products most like one."""
        request = ranking_service_pb2.SimilarProductsRequest(
            product_id=product_id,
            k=k,
            exclude_product_ids=exclude_product_ids,
            allowed_product_ids=allowed_product_ids,
            filter=filter,
            mix=mix,
            include_reasons=reasons,
            include_details=details,
            language_code=language,
        )
        return self._call(self._ranking.SimilarProducts, request)

    def search(
        self,
        query: str,
        user_id: str = "",
        *,
        k: int = 10,
        exclude_product_ids: Iterable[str] = (),
        allowed_product_ids: Iterable[str] = (),
        context: common_pb2.Context | None = None,
        filter: common_pb2.Filter | None = None,
        mix: common_pb2.Mix | None = None,
        reasons: bool = False,
        details: bool = False,
        language: str = "",
        untracked: bool = False,
    ) -> ranking_service_pb2.SearchResponse:
        """Find products by words and meaning, ranked for a user."""
        request = ranking_service_pb2.SearchRequest(
            user_id=user_id,
            query=query,
            k=k,
            exclude_product_ids=exclude_product_ids,
            allowed_product_ids=allowed_product_ids,
            context=context,
            filter=filter,
            mix=mix,
            include_reasons=reasons,
            include_details=details,
            language_code=language,
            untracked=untracked,
        )
        return self._call(self._ranking.Search, request)

    def explain(
        self,
        user_id: str,
        product_id: str,
        *,
        context: common_pb2.Context | None = None,
        max_reasons: int = 3,
        language: str = "",
    ) -> ranking_service_pb2.ExplainResponse:
        """Explain the score of one product for a user."""
        request = ranking_service_pb2.ExplainRequest(
            user_id=user_id,
            product_id=product_id,
            context=context,
            max_reasons=max_reasons,
            language_code=language,
        )
        return self._call(self._ranking.Explain, request)

    def batch_recommend(
        self, requests: Iterable[ranking_service_pb2.RecommendRequest], *, timeout_s: float = 600.0
    ) -> Iterator[tuple[int, ranking_service_pb2.RecommendResponse | CallError]]:
        """Rank for many users over one stream: yields the place of each request, and its answer or error, as they come.

        A stream is not retried: one that breaks ends in an error after the answers that had come.
        """
        numbered = (
            ranking_service_pb2.BatchRecommendRequest(sequence=place, request=request)
            for place, request in enumerate(requests)
        )
        try:
            for outcome in self._ranking.BatchRecommend(numbered, timeout=timeout_s):
                answered = outcome.WhichOneof("outcome") == "response"
                yield outcome.sequence, outcome.response if answered else decode_batch(outcome.error)
        except grpc.RpcError as error:
            raise decode(error) from None

    def write_event(self, written: event_service_pb2.Event) -> event_service_pb2.EventOutcome:
        """Write one event; once this returns, it is on the server's disk."""
        request = event_service_pb2.WriteEventRequest(event=identified(written))
        return self._call(self._events.WriteEvent, request).outcome

    def write_events(self, written: Sequence[event_service_pb2.Event]) -> list[event_service_pb2.EventOutcome]:
        """Write events; each without an id is given one here, so that a retried call can't write it twice."""
        request = event_service_pb2.WriteEventsRequest(events=[identified(each) for each in written])
        return list(self._call(self._events.WriteEvents, request).outcomes)

    def ingest_events(
        self, written: Iterable[event_service_pb2.Event], *, timeout_s: float | None = None
    ) -> Iterator[event_service_pb2.EventOutcome]:
        """Write events as they come; yields what became of each, in order, once it is on the server's disk.

        It has no deadline unless `timeout_s` gives it one. Where the stream breaks off, write again those that were not
        yielded, under the same ids.
        """
        requests = (event_service_pb2.IngestEventsRequest(event=identified(each)) for each in written)
        try:
            for response in self._events.IngestEvents(requests, timeout=timeout_s):
                yield response.outcome
        except grpc.RpcError as error:
            raise decode(error) from None

    def user_profile(
        self, user_id: str, *, window_s: float | None = None, limit: int = 0
    ) -> user_service_pb2.UserProfile:
        """Summarise what a user did, in a time before now or ever."""
        request = user_service_pb2.GetUserProfileRequest(user_id=user_id, limit=limit)
        if window_s is not None:
            request.window.FromMilliseconds(round(window_s * 1000))
        return self._call(self._users.GetUserProfile, request).profile

    def export_user(self, user_id: str, *, timeout_s: float = 120.0) -> Iterator[str]:
        """Yield all that is stored about a user, a JSON object each."""
        request = user_service_pb2.ExportUserRequest(user_id=user_id)
        try:
            for part in self._users.ExportUser(request, timeout=timeout_s):
                for line in part.json_lines.splitlines():  # of bytes: of text it splits at U+2028 too
                    yield line.decode()
        except grpc.RpcError as error:
            raise decode(error) from None

    def erase_user(self, user_id: str, *, timeout_s: float = 120.0) -> user_service_pb2.EraseUserResponse:
        """Erase a user from wherever it is stored; may be repeated."""
        request = user_service_pb2.EraseUserRequest(user_id=user_id)
        return self._call(self._users.EraseUser, request, timeout_s)

    def upsert_products(
        self,
        products: Iterable[catalog_service_pb2.Product],
        changing: Iterable[str] | None = None,
        *,
        timeout_s: float = 30.0,
    ) -> list[catalog_service_pb2.ProductOutcome]:
        """Add products or change them; `changing` names the fields of known ones that take the new value, all if None.

        What is acknowledged is ranked, found and explained within two seconds.
        """
        request = catalog_service_pb2.UpsertProductsRequest(products=products)
        if changing is not None:
            request.update_mask.paths.extend(changing)
        return list(self._call(self._catalogue.UpsertProducts, request, timeout_s).outcomes)

    def get_product(self, product_id: str) -> catalog_service_pb2.GetProductResponse:
        """Return a product, and when it was written last."""
        request = catalog_service_pb2.GetProductRequest(product_id=product_id)
        return self._call(self._catalogue.GetProduct, request)

    def list_products(self, *, page_size: int = 0, page_token: str = "") -> catalog_service_pb2.ListProductsResponse:
        """List a page of products in the order of their ids."""
        request = catalog_service_pb2.ListProductsRequest(page_size=page_size, page_token=page_token)
        return self._call(self._catalogue.ListProducts, request)

    def delete_products(self, product_ids: Iterable[str]) -> catalog_service_pb2.DeleteProductsResponse:
        """Take products out of the catalogue."""
        request = catalog_service_pb2.DeleteProductsRequest(product_ids=product_ids)
        return self._call(self._catalogue.DeleteProducts, request)

    def upsert_facts(self, facts: Iterable[catalog_service_pb2.Fact], *, timeout_s: float = 30.0) -> int:
        """Add facts; return how many were not there before."""
        request = catalog_service_pb2.UpsertFactsRequest(facts=facts)
        return self._call(self._catalogue.UpsertFacts, request, timeout_s).created_count

    def list_facts(
        self, product_id: str, *, page_size: int = 0, page_token: str = ""
    ) -> catalog_service_pb2.ListFactsResponse:
        """List a page of the facts of a product."""
        request = catalog_service_pb2.ListFactsRequest(
            product_id=product_id, page_size=page_size, page_token=page_token
        )
        return self._call(self._catalogue.ListFacts, request)

    def delete_facts(self, facts: Iterable[catalog_service_pb2.Fact]) -> int:
        """Remove facts; return how many were there."""
        request = catalog_service_pb2.DeleteFactsRequest(facts=facts)
        return self._call(self._catalogue.DeleteFacts, request).deleted_count

    def list_models(self, *, page_size: int = 0, page_token: str = "") -> model_service_pb2.ListModelsResponse:
        """List a page of the models that the server can serve, newest first."""
        request = model_service_pb2.ListModelsRequest(page_size=page_size, page_token=page_token)
        return self._call(self._models.ListModels, request)

    def activate_model(self, name: str, *, timeout_s: float = 120.0) -> model_service_pb2.Model:
        """Put a model (`models/...`) into service; returns once it serves."""
        request = model_service_pb2.ActivateModelRequest(name=name)
        return self._call(self._models.ActivateModel, request, timeout_s).model

    def roll_back_model(self, *, timeout_s: float = 120.0) -> model_service_pb2.Model:
        """Go back to the model that was in service before; returns once it serves."""
        return self._call(self._models.RollBackModel, model_service_pb2.RollBackModelRequest(), timeout_s).model

    def get_traffic(self) -> model_service_pb2.Traffic:
        """Return which models answer whom."""
        return self._call(self._models.GetTraffic, model_service_pb2.GetTrafficRequest()).traffic

    def set_traffic(
        self, shares: Mapping[str, float], *, shadow: str = "", timeout_s: float = 120.0
    ) -> model_service_pb2.Traffic:
        """Give percents of the users to models on trial, and let one score along unseen; nothing ends all trials."""
        told = [model_service_pb2.TrafficShare(model=model, percent=percent) for model, percent in shares.items()]
        traffic = model_service_pb2.Traffic(shares=told, shadow=shadow)
        return self._call(
            self._models.SetTraffic, model_service_pb2.SetTrafficRequest(traffic=traffic), timeout_s
        ).traffic

    def upsert_rule(self, rule: rule_service_pb2.Rule) -> rule_service_pb2.Rule:
        """Add one of the shop's rules, or change the one with its id; return it as it is stored."""
        return self._call(self._rules.UpsertRule, rule_service_pb2.UpsertRuleRequest(rule=rule)).rule

    def list_rules(self, *, page_size: int = 0, page_token: str = "") -> rule_service_pb2.ListRulesResponse:
        """List a page of the shop's rules."""
        request = rule_service_pb2.ListRulesRequest(page_size=page_size, page_token=page_token)
        return self._call(self._rules.ListRules, request)

    def delete_rule(self, rule_id: str) -> None:
        """Remove one of the shop's rules."""
        self._call(self._rules.DeleteRule, rule_service_pb2.DeleteRuleRequest(rule_id=rule_id))

    def _call(
        self,
        method: Callable[..., _Response],
        request: _Request,
        timeout_s: float | None = None,
    ) -> _Response:
        try:
            return method(request, timeout=timeout_s or self._timeout_s)
        except grpc.RpcError as error:
            raise decode(error) from None
