"""Messages of the contract made out of plain values."""

import uuid
from collections.abc import Iterable, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from kgrank.v1 import catalog_service_pb2, common_pb2, event_service_pb2


def event(
    user_id: str,
    product_id: str,
    kind: str = "view",
    *,
    at_ms: int | None = None,
    value: float | None = None,
    event_id: str = "",
    attribution_token: str = "",
) -> event_service_pb2.Event:
    """Return an event; `kind` is an interaction type in lower case (`view`, `add_to_cart`, `purchase`, ...).

    With the `attribution_token` of the answer that led to it, it counts for the model that made the answer.

    Raises:
        ValueError: there is no such interaction type.
    """
    made = event_service_pb2.Event(
        event_id=event_id,
        user_id=user_id,
        product_id=product_id,
        type=common_pb2.InteractionType.Value(f"INTERACTION_TYPE_{kind.upper()}"),
        attribution_token=attribution_token,
    )
    if at_ms is not None:
        made.at.CopyFrom(_timestamp(at_ms))
    if value is not None:
        made.value = value
    return made


def product(
    product_id: str,
    title: str = "",
    *,
    description: str = "",
    brand: str = "",
    category: Iterable[str] = (),
    price: float | None = None,
    available: bool | None = None,
    attributes: Mapping[str, str] | None = None,
) -> catalog_service_pb2.Product:
    """Return a product; `category` is its path from the root."""
    return catalog_service_pb2.Product(
        product_id=product_id,
        title=title,
        description=description,
        brand=brand,
        category=category,
        price=price,
        available=available,
        attributes=attributes,
    )


def fact(
    head: str, relation: str, tail: str, *, head_kind: str = "product", tail_kind: str = "product"
) -> catalog_service_pb2.Fact:
    """Return a fact: `head` and `tail` are ids, of products unless their kinds say otherwise."""
    return catalog_service_pb2.Fact(
        head=catalog_service_pb2.FactNode(kind=head_kind, id=head),
        relation=relation,
        tail=catalog_service_pb2.FactNode(kind=tail_kind, id=tail),
    )


def identified(written: event_service_pb2.Event) -> event_service_pb2.Event:
    """Return an event with an id: its own, or a new one, under which it may be sent again."""
    if written.event_id:
        return written
    copy = event_service_pb2.Event()
    copy.CopyFrom(written)
    copy.event_id = uuid.uuid4().hex
    return copy


def _timestamp(at_ms: int) -> Timestamp:
    made = Timestamp()
    made.FromMilliseconds(at_ms)
    return made
