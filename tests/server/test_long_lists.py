"""Lists longer than may be: refused by their length, as a request of 4 MiB may hold millions of entries."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from kgrank.v1 import catalog_service_pb2
from server.contract import Checker, written_events
from server.contract_selection import MAX_NAMES, names_of
from server.errors import InvalidRequestError
from server.products import MAX_FACTS, product_ids, stated, upserted


class Unread(Sequence[Any]):
    """A long list of which no entry may be looked at."""

    def __len__(self) -> int:
        return 1001

    def __getitem__(self, place: Any) -> Any:
        raise AssertionError("an entry was looked at")

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("the entries were looked at")


def names(field: str, given: Sequence[str]) -> None:
    check = Checker()
    names_of(check, field, given)
    check.finish()


@pytest.mark.parametrize(
    "checked",
    [
        lambda given: written_events(given, "events[{}]", 0),
        lambda given: stated("events", given),
        lambda given: product_ids("events", given),
        lambda given: names("events", given),
    ],
    ids=["events", "facts", "ids", "names"],
)
def test_a_list_that_is_too_long_is_refused_unread(checked: Callable[[Sequence[Any]], object]) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        checked(Unread())
    (violation,) = refused.value.violations
    assert violation.field == "events"
    assert violation.description.startswith("has 1001")
    assert MAX_FACTS == MAX_NAMES == 1000


@pytest.mark.parametrize("text", ["[" + "1," * 200_000 + "1]", "[[" + "1," * 200_000 + "1]]"])
def test_of_a_value_that_is_a_long_list_no_more_is_spelled_than_may_be(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kg.casting import nested

    spelled = []
    as_text = nested.as_text
    monkeypatch.setattr(nested, "as_text", lambda value: spelled.append(value) or as_text(value))
    product = catalog_service_pb2.Product(product_id="p", title="t", attributes={"size": text})
    with pytest.raises(InvalidRequestError) as refused:
        upserted(catalog_service_pb2.UpsertProductsRequest(products=[product]))
    (violation,) = refused.value.violations
    assert violation.field == "products[0].attributes"
    assert len(spelled) == 129


def test_an_update_mask_of_one_star_changes_all_fields_and_a_long_one_is_refused() -> None:
    request = catalog_service_pb2.UpsertProductsRequest(
        products=[catalog_service_pb2.Product(product_id="p", title="t")]
    )
    request.update_mask.paths.append("*")
    assert len(upserted(request)[1]) > 1
    request.update_mask.paths.extend(["*"] * 1000)
    with pytest.raises(InvalidRequestError) as refused:
        upserted(request)
    assert [each.description for each in refused.value.violations] == ["names 1001 fields; there are 7"]
