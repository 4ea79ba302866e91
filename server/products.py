"""Products and facts of the contract as the graph's, checked: every violated field is named, not just the first."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

from kg import schema
from kg.casting.nested import as_one_text, listed
from kg.catalogue import MASKABLE, Product, StoredProduct
from kg.errors import DataError
from kg.facts import DERIVED, Fact
from kg.tables import CATEGORY_SEPARATOR, MAX_LEVELS, MAX_PATH_BYTES, MAX_VALUE_BYTES
from kgrank.v1 import catalog_service_pb2
from server.contract import Checker
from server.contract_selection import has_control

MAX_PRODUCTS = 1000
MAX_FACTS = 1000
MAX_PAGE = 1000
DEFAULT_PAGE = 100

_TITLE_BYTES = 1024
_DESCRIPTION_BYTES = 16_384
_ATTRIBUTES = 128
_LARGEST_PRICE = 1e9
_KIND = re.compile(r"[a-z][a-z0-9_]{0,127}")
_BREAKS = str.maketrans("\n\r\t", "   ")

T = TypeVar("T")


def upserted(request: catalog_service_pb2.UpsertProductsRequest) -> tuple[list[Product], tuple[str, ...]]:
    """Return the products of a request, and which fields of known ones it changes.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    given = _bounded(check, "products", request.products, MAX_PRODUCTS)
    products = [_product(check, f"products[{place}]", each) for place, each in enumerate(given)]
    first: dict[str, int] = {}
    for place, product in enumerate(products):
        if first.setdefault(product.product_id, place) != place and product.product_id:
            check.refuse(f"products[{place}].product_id", f"is given twice: products[{first[product.product_id]}]")
    changing = _mask(check, request.update_mask.paths) if request.HasField("update_mask") else MASKABLE
    check.finish()
    return products, changing


def product_ids(field: str, ids: Sequence[str]) -> list[str]:
    """Return ids that are asked about together, each once.

    Raises:
        InvalidRequestError: names every one that can't be accepted.
    """
    check = Checker()
    checked = check.ids(field, ids, MAX_PRODUCTS)
    if not checked and not check.violations:
        check.refuse(field, "is empty")
    check.finish()
    return list(dict.fromkeys(checked))


def stated(field: str, facts: Sequence[catalog_service_pb2.Fact], *, removed: bool = False) -> list[Fact]:
    """Return the facts of a request.

    Args:
        field: where they are.
        facts: the facts.
        removed: they are to be removed: also what files alone may tell, so that it can be listed, is accepted.

    Raises:
        InvalidRequestError: names every field that can't be accepted.
    """
    check = Checker()
    given = _bounded(check, field, facts, MAX_FACTS)
    checked = [_fact(check, f"{field}[{place}]", each, removed) for place, each in enumerate(given)]
    check.finish()
    return checked


def refuse_unknown(field: str, facts: Sequence[Fact], unknown: Iterable[str]) -> None:
    """Refuse facts about products that the catalogue does not have.

    Raises:
        InvalidRequestError: names every one.
    """
    check, lacking = Checker(), set(unknown)
    for place, fact in enumerate(facts):
        for end, kind, node_id in (("head", fact.head_kind, fact.head), ("tail", fact.tail_kind, fact.tail)):
            if kind == schema.PRODUCT.kind and node_id in lacking:
                check.refuse(f"{field}[{place}].{end}.id", "is a product that the catalogue does not have")
    check.finish()


def page_size(check: Checker, size: int) -> int:
    """Check the size of a page; return the one to use."""
    if not 0 <= size <= MAX_PAGE:
        check.refuse("page_size", f"is {size}; it must be from 0 to {MAX_PAGE}")
    return size or DEFAULT_PAGE


def message_of(stored: StoredProduct) -> catalog_service_pb2.Product:
    """Return a product as the contract has it."""
    product = stored.product
    return catalog_service_pb2.Product(
        product_id=product.product_id,
        title=product.title,
        description=product.description,
        brand=product.brand,
        category=product.category,
        price=product.price,
        attributes=attribute_texts(product.attributes),
        available=product.available,
    )


def attribute_texts(pairs: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return attributes as the contract has them: of a key with several values, a JSON list."""
    values: dict[str, list[str]] = {}
    for key, value in pairs:
        values.setdefault(key, []).append(value)
    return {key: as_one_text(found) for key, found in values.items()}


def fact_message(fact: Fact) -> catalog_service_pb2.Fact:
    """Return a fact as the contract has it."""
    return catalog_service_pb2.Fact(
        head=catalog_service_pb2.FactNode(kind=fact.head_kind, id=fact.head),
        relation=fact.relation,
        tail=catalog_service_pb2.FactNode(kind=fact.tail_kind, id=fact.tail),
    )


def _product(check: Checker, field: str, given: catalog_service_pb2.Product) -> Product:
    price = given.price if given.HasField("price") else None
    if price is not None and not (math.isfinite(price) and 0 <= price <= _LARGEST_PRICE):
        check.refuse(f"{field}.price", f"is {price}; it must be from 0 to {_LARGEST_PRICE:,.0f}")
    if len(given.category) > MAX_LEVELS:
        check.refuse(f"{field}.category", f"has {len(given.category)} levels; at most {MAX_LEVELS} are allowed")
    category = tuple(given.category[:MAX_LEVELS])
    for level, name in enumerate(category):
        _name(check, f"{field}.category[{level}]", name)
        if CATEGORY_SEPARATOR in f"{name} ":  # at its end, too, it would begin the next level
            joint = f"{CATEGORY_SEPARATOR!r} in it, or {CATEGORY_SEPARATOR.rstrip()!r} at its end"
            check.refuse(f"{field}.category[{level}]", f"has {joint}, which joins the levels")
    if len(CATEGORY_SEPARATOR.join(category).encode()) > MAX_PATH_BYTES:
        check.refuse(f"{field}.category", f"has over {MAX_PATH_BYTES} bytes in all")
    if given.brand:
        _name(check, f"{field}.brand", given.brand)
    return Product(
        product_id=check.id(f"{field}.product_id", given.product_id),
        title=_text(check, f"{field}.title", given.title, _TITLE_BYTES),
        description=_text(check, f"{field}.description", given.description, _DESCRIPTION_BYTES, breaks=True),
        brand=given.brand,
        category=category,
        price=price,
        available=given.available if given.HasField("available") else None,
        attributes=_attributes(check, f"{field}.attributes", given.attributes),
    )


def _attributes(check: Checker, field: str, given: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    if len(given) > _ATTRIBUTES:
        check.refuse(field, f"has {len(given)} keys; at most {_ATTRIBUTES} are allowed")
        return ()
    pairs = []
    for place, (key, text) in enumerate(sorted(given.items())):
        # The key is the caller's text: it is told by its place in the order of keys, not quoted.
        _name(check, f"{field}[{place}].key", key)
        if "=" in key:
            check.refuse(f"{field}[{place}].key", "has '=' in it, which joins key and value")
        values = listed(text, _ATTRIBUTES)
        if not any(values):
            check.refuse(f"{field}[{place}].value", "is empty")
        for value in values[:_ATTRIBUTES]:
            _text(check, f"{field}[{place}].value", value, MAX_VALUE_BYTES)
        pairs += [(key, value) for value in values]
        if len(pairs) > _ATTRIBUTES:  # there may be millions
            check.refuse(field, f"has over {_ATTRIBUTES} pairs; at most {_ATTRIBUTES} are allowed")
            return ()
    return tuple(sorted(set(pairs)))


def _fact(check: Checker, field: str, given: catalog_service_pb2.Fact, removed: bool) -> Fact:
    for name in ("head", "tail"):
        _end(check, f"{field}.{name}", getattr(given, name))
    if schema.PRODUCT.kind not in (given.head.kind, given.tail.kind):
        check.refuse(field, "has no product at either end")
    try:
        schema.relation_name(given.relation)
    except DataError as error:
        # Its problem quotes the name, which is the caller's text.
        check.refuse(f"{field}.relation", error.remedy or "is not a relation's name")
    if given.relation in DERIVED and not removed:
        check.refuse(f"{field}.relation", "follows from products: change the product")
    head, tail = given.head, given.tail
    if (head.kind, head.id) == (tail.kind, tail.id) and not removed:
        check.refuse(field, "joins a node with itself")
    return Fact(given.relation, head.kind, head.id, tail.kind, tail.id)


def _end(check: Checker, field: str, node: catalog_service_pb2.FactNode) -> None:
    check.id(f"{field}.id", node.id)
    if not _KIND.fullmatch(node.kind):
        check.refuse(f"{field}.kind", "must be lower case letters, digits and underscores, beginning with a letter")
    elif node.kind == schema.USER.kind:
        check.refuse(f"{field}.kind", "is a user: what users do is told as events")
    elif node.kind == schema.ATTRIBUTE.kind and "=" not in node.id.strip("="):
        check.refuse(f"{field}.id", "must be key=value, as the node of an attribute is named")


def _name(check: Checker, field: str, name: str) -> None:
    """Check what becomes the id of a node."""
    check.id(field, name)
    if name and not name.strip():
        check.refuse(field, "is blank")


def _text(check: Checker, field: str, text: str, most_bytes: int, *, breaks: bool = False) -> str:
    if len(text) * 4 > most_bytes and len(text.encode()) > most_bytes:
        check.refuse(field, f"has {len(text.encode())} bytes; at most {most_bytes} are allowed")
    elif has_control(text.translate(_BREAKS) if breaks else text):
        check.refuse(field, "has control characters")
    return text


def _mask(check: Checker, paths: Sequence[str]) -> tuple[str, ...]:
    if not paths:
        check.refuse("update_mask", "names no field; leave it out to change all")
    if len(paths) > len(MASKABLE):
        check.refuse("update_mask", f"names {len(paths)} fields; there are {len(MASKABLE)}")
        return ()
    if list(paths) == ["*"]:
        return MASKABLE
    for place, path in enumerate(paths):
        if path not in MASKABLE:
            check.refuse(f"update_mask.paths[{place}]", f"is not one of {', '.join(MASKABLE)}")
    return tuple(path for path in MASKABLE if path in paths)


def _bounded(check: Checker, field: str, given: Sequence[T], most: int) -> Sequence[T]:
    if not given:
        check.refuse(field, "is empty")
    elif len(given) > most:  # before any is looked at: there may be millions
        check.refuse(field, f"has {len(given)}; at most {most} are allowed")
        return ()
    return given
