"""CatalogService: products and facts, written to the graph and ranked soon after."""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import astuple
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from kg.catalogue import Written, find, page, take_out, upsert
from kg.facts import Fact, facts_about, state, withdraw
from kgrank.v1 import catalog_service_pb2
from kgrank.v1.catalog_service_pb2 import (
    DeleteFactsRequest,
    DeleteFactsResponse,
    DeleteProductsRequest,
    DeleteProductsResponse,
    GetProductRequest,
    GetProductResponse,
    ListFactsRequest,
    ListFactsResponse,
    ListProductsRequest,
    ListProductsResponse,
    ProductOutcome,
    UpsertFactsRequest,
    UpsertFactsResponse,
    UpsertProductsRequest,
    UpsertProductsResponse,
)
from server.contract import Checker
from server.errors import UnknownProductError
from server.follow import Follower
from server.graph_link import GraphLink
from server.page_tokens import entry_of, page_token
from server.products import fact_message, message_of, page_size, product_ids, refuse_unknown, stated, upserted
from server.rpc import Context

if TYPE_CHECKING:
    from kg.store import Graph

T = TypeVar("T")

_STATUS = {became: ProductOutcome.Status.Value(f"STATUS_{became.name}") for became in Written}
_PAGE_BYTES = 3 << 20
"""A page ends here: by default gRPC's clients take 4 MiB, and a product of this service is far below the rest."""

_PRODUCTS, _FACTS = "products", "facts"
_FACT_PARTS = len(Fact.__dataclass_fields__)


class CatalogService:
    """Writes the catalogue; what is acknowledged is in the graph, and every server follows it.

    Args:
        link: the graph.
        follower: told of each write, so that this server need not wait for its next look.
    """

    def __init__(self, link: "GraphLink[Graph]", follower: Follower) -> None:
        self._link = link
        self._follower = follower

    async def UpsertProducts(self, request: UpsertProductsRequest, context: Context) -> UpsertProductsResponse:  # noqa: N802
        """Add or change products."""
        products, changing = await asyncio.to_thread(upserted, request)  # of 4 MiB it takes a second
        written = await self._write(lambda graph: upsert(graph, products, changing))
        outcomes = [
            ProductOutcome(product_id=product.product_id, status=_STATUS[became])
            for product, became in zip(products, written, strict=True)
        ]
        return UpsertProductsResponse(outcomes=outcomes)

    async def GetProduct(self, request: GetProductRequest, context: Context) -> GetProductResponse:  # noqa: N802
        """Return a product."""
        check = Checker()
        check.id("product_id", request.product_id)
        check.finish()
        found = await self._link.run(lambda graph: find(graph, [request.product_id]))
        if not found:
            raise _unknown()
        response = GetProductResponse(product=message_of(found[0]))
        if found[0].updated_at_ms is not None:
            response.update_time.CopyFrom(_timestamp(found[0].updated_at_ms))
        return response

    async def ListProducts(self, request: ListProductsRequest, context: Context) -> ListProductsResponse:  # noqa: N802
        """List a page of products."""
        check = Checker()
        size = page_size(check, request.page_size)
        after = entry_of(check, _PRODUCTS, request.page_token, 1)
        check.finish()
        last = after[0] if after else ""
        found = await self._link.run(lambda graph: page(graph, last, size + 1))
        listed = _fitting(map(message_of, found[:size]))
        token = page_token(_PRODUCTS, [listed[-1].product_id]) if len(found) > len(listed) else ""
        return ListProductsResponse(products=listed, next_page_token=token)

    async def DeleteProducts(self, request: DeleteProductsRequest, context: Context) -> DeleteProductsResponse:  # noqa: N802
        """Take products out of the catalogue."""
        asked = product_ids("product_ids", request.product_ids)
        gone = set(await self._write(lambda graph: take_out(graph, asked)))
        missing = [product_id for product_id in asked if product_id not in gone]
        return DeleteProductsResponse(deleted_count=len(gone), missing_ids=missing)

    async def UpsertFacts(self, request: UpsertFactsRequest, context: Context) -> UpsertFactsResponse:  # noqa: N802
        """Add facts."""
        facts = stated("facts", request.facts)

        refuse = partial(refuse_unknown, "facts", facts)
        return UpsertFactsResponse(created_count=await self._write(lambda graph: state(graph, facts, refuse)))

    async def ListFacts(self, request: ListFactsRequest, context: Context) -> ListFactsResponse:  # noqa: N802
        """List a page of a product's facts."""
        check = Checker()
        check.id("product_id", request.product_id)
        size = page_size(check, request.page_size)
        listing = f"{_FACTS} of {request.product_id}"
        after = entry_of(check, listing, request.page_token, _FACT_PARTS)
        check.finish()

        def work(graph: "Graph") -> list[Fact]:
            if not find(graph, [request.product_id]):
                raise _unknown()
            return facts_about(graph, request.product_id)

        facts = await self._link.run(work)
        remaining = [fact for fact in facts if not after or astuple(fact) > tuple(after)]
        listed = remaining[:size]
        token = page_token(listing, astuple(listed[-1])) if len(remaining) > size else ""
        return ListFactsResponse(facts=map(fact_message, listed), next_page_token=token)

    async def DeleteFacts(self, request: DeleteFactsRequest, context: Context) -> DeleteFactsResponse:  # noqa: N802
        """Remove facts."""
        facts = stated("facts", request.facts, removed=True)
        return DeleteFactsResponse(deleted_count=await self._write(lambda graph: withdraw(graph, facts)))

    async def _write(self, work: "Callable[[Graph], T]") -> T:
        done = await self._link.run(work)
        self._follower.nudge()
        return done


def _unknown() -> UnknownProductError:
    return UnknownProductError("the catalogue does not have this product", "Check product_id.")


def _timestamp(at_ms: int) -> Timestamp:
    made = Timestamp()
    made.FromMilliseconds(at_ms)
    return made


def _fitting(products: Iterable[catalog_service_pb2.Product]) -> list[catalog_service_pb2.Product]:
    """Return the first of some products, as many as a page holds; one at least."""
    listed: list[catalog_service_pb2.Product] = []
    size = 0
    for product in products:
        size += product.ByteSize()
        if listed and size > _PAGE_BYTES:
            break
        listed.append(product)
    return listed
