import numpy as np

from kg.freeze import freeze
from kgrank.client import Client
from kgrank.v1.common_pb2 import AttributeFilter, Filter, PriceRange
from server import question
from server.filters import CatalogueFilters
from tests.kg.small_tables import tables
from tests.server.shop import BRANDS, PRODUCT_COUNT, Shop


def numbers(results: "object") -> set[int]:
    return {int(result.product_id.removeprefix("product-")) for result in results}  # type: ignore[attr-defined]


def recommended(client: Client, wanted: Filter, k: int = PRODUCT_COUNT) -> set[int]:
    return numbers(client.recommend("user-03", k=k, filter=wanted, exclude_seen=False).results)


def test_a_brand_lets_its_products_through_and_no_others(client: Client) -> None:
    assert recommended(client, Filter(brands=["Bolt"])) == set(range(1, PRODUCT_COUNT, len(BRANDS)))
    assert recommended(client, Filter(brands=["Acme", "Cora"])) == {n for n in range(PRODUCT_COUNT) if n % 3 != 1}


def test_a_category_lets_everything_below_it_through(client: Client) -> None:
    assert recommended(client, Filter(categories=["Things"])) == set(range(PRODUCT_COUNT))
    assert recommended(client, Filter(categories=["Things > Kind 4"])) == set(range(4, PRODUCT_COUNT, 7))
    # A part of a name is no category.
    assert recommended(client, Filter(categories=["Thing"])) == set()
    assert recommended(client, Filter(categories=["Kind 4"])) == set()


def test_prices_are_in_the_range_ends_included(client: Client) -> None:
    assert recommended(client, Filter(price=PriceRange(min=10, max=12))) == {10, 11, 12}
    assert recommended(client, Filter(price=PriceRange(max=0))) == {0}
    assert recommended(client, Filter(price=PriceRange(min=88.5))) == {89}


def test_an_attribute_has_one_of_the_values(client: Client) -> None:
    red = AttributeFilter(key="colour", values=["red"])
    either = AttributeFilter(key="colour", values=["red", "blue"])
    assert recommended(client, Filter(attributes=[red])) == set(range(1, PRODUCT_COUNT, 2))
    assert recommended(client, Filter(attributes=[red, either])) == set(range(1, PRODUCT_COUNT, 2))
    assert recommended(client, Filter(attributes=[AttributeFilter(key="size", values=["red"])])) == set()


def test_every_part_of_a_filter_holds(client: Client) -> None:
    wanted = Filter(
        brands=["Acme"],
        categories=["Things > Kind 0"],
        price=PriceRange(min=20),
        attributes=[AttributeFilter(key="colour", values=["red"])],
    )
    expected = {n for n in range(PRODUCT_COUNT) if n % 3 == 0 and n % 7 == 0 and n >= 20 and n % 2}
    assert recommended(client, wanted) == expected
    assert expected


def test_what_a_filter_keeps_is_ranked_as_without_it(client: Client) -> None:
    everything = client.recommend("user-07", k=PRODUCT_COUNT, exclude_seen=False).results
    kept = client.recommend("user-07", k=5, exclude_seen=False, filter=Filter(brands=["Cora"])).results
    expected = [(each.product_id, each.score) for each in everything if int(each.product_id[8:]) % 3 == 2][:5]
    assert [each.product_id for each in kept] == [product_id for product_id, _ in expected]
    assert max(abs(each.score - score) for each, (_, score) in zip(kept, expected, strict=True)) < 1e-4


def test_lists_of_products_and_filters_hold_together(client: Client) -> None:
    allowed = [f"product-{number:02}" for number in range(30)]
    answer = client.recommend(
        "user-01",
        k=90,
        exclude_seen=False,
        allowed_product_ids=[*allowed, "ghost"],
        exclude_product_ids=["product-04"],
        filter=Filter(brands=["Bolt"]),
    )
    assert numbers(answer.results) == {n for n in range(30) if n % 3 == 1 and n != 4}
    assert list(answer.missing_ids) == ["ghost"]


def test_similar_products_are_filtered_too(client: Client) -> None:
    everything = client.similar_products("product-11", k=PRODUCT_COUNT).results
    kept = client.similar_products("product-11", k=4, filter=Filter(price=PriceRange(min=40)))
    expected = [each.product_id for each in everything if int(each.product_id[8:]) >= 40][:4]
    assert [each.product_id for each in kept.results] == expected
    allowed = client.similar_products("product-11", allowed_product_ids=["product-02", "product-11", "ghost"])
    assert [each.product_id for each in allowed.results] == ["product-02"]
    assert list(allowed.missing_ids) == ["ghost"]


def test_a_filter_that_can_not_be_meant_is_refused(client: Client) -> None:
    from kgrank.errors import InvalidRequestError

    wanted = Filter(
        brands=[""],
        price=PriceRange(min=3, max=float("nan")),
        attributes=[AttributeFilter(key="", values=[])],
    )
    try:
        client.recommend("user-01", filter=wanted)
    except InvalidRequestError as error:
        fields = {violation.field for violation in error.violations}
    assert fields == {
        "filter.brands[0]",
        "filter.price.max",
        "filter.attributes[0].key",
        "filter.attributes[0].values",
    }


def test_the_mask_of_a_large_filter_is_not_kept(shop: Shop) -> None:
    filters = CatalogueFilters(shop.snapshot)
    small, large = question.Filter(brands=("Bolt",)), question.Filter(brands=("Bolt", "x" * 5000))
    assert filters.mask(small) is filters.mask(small)
    assert filters.mask(large) is not filters.mask(large)
    np.testing.assert_array_equal(filters.mask(large), filters.mask(small))


def test_what_is_below_a_category_is_found_however_names_sort() -> None:
    paths = [["A"], ["A (new)"], ["A", "B"], ["A!"], ["A", "B", "C"], [], ["A", "B2"], ["a"], ["D", "E"], ["A", "B"]]
    products = [{"product_id": f"p{number}", "category": path} for number, path in enumerate(paths)]
    filters = CatalogueFilters(freeze(tables(products=products)))
    for wanted in (["A"], ["A", "B"], ["A", "B", "C"], ["A (new)"], ["D"], ["D", "E"], ["B"]):
        below = [number for number, path in enumerate(paths) if path[: len(wanted)] == wanted]
        name = " > ".join(wanted)
        assert sorted(set(filters.products_in_category(name))) == below
        assert np.flatnonzero(filters.in_categories([name])).tolist() == below
    assert np.flatnonzero(filters.in_categories(["D", "A > B", "never"])).tolist() == [2, 4, 8, 9]
    assert (filters.category[5], filters.category[2] == filters.category[9]) == (-1, True)
