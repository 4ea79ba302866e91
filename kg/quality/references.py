"""Rows that point to products which are not in the catalogue."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kg.casting import Mask
from kg.quality.findings import Findings
from kg.quality.policy import Outside
from kg.quality.report import Action
from kg.quality.rows import default_column
from kg.quality.rules import Broken
from kg.tables import SCHEMAS

_PRODUCT = "product"


def outside_catalogue(
    columns: dict[str, pa.Array], keep: Mask, catalogue: pa.ChunkedArray, action: Outside, findings: Findings
) -> Mask:
    """Return the rows `[N]` to leave out because a product of theirs is not in the catalogue, and count them.

    Args:
        columns: of interactions (`product_id`) or of facts (`head`, `tail` and their kinds).
        keep: rows that are good so far `[N]`.
        catalogue: the ids of all products.
        action: what is done with such rows.
        findings: where they are counted.
    """
    out = np.zeros(len(keep), bool)
    if action is Outside.BARE:
        return out
    for field in ("product_id", "head", "tail"):
        if field not in columns:
            continue
        unknown = keep & ~out & ~np.asarray(pc.is_in(columns[field], value_set=catalogue), dtype=bool)
        if field != "product_id":
            unknown &= np.asarray(pc.fill_null(pc.equal(columns[f"{field}_kind"], _PRODUCT), False), dtype=bool)
        broken = Broken("outside_catalogue", field, unknown)
        out |= findings.refuse(broken) if action is Outside.REFUSE else findings.drop(broken, Action.DROPPED)
    return out


def with_bare_products(products: pa.Table, product_ids: pa.ChunkedArray) -> pa.Table:
    """Return the products, and one with nothing but its id for each that interactions name besides."""
    ids = product_ids.unique()
    missing = ids.filter(pc.invert(pc.is_in(ids, value_set=products["product_id"])))
    if not len(missing):
        return products
    schema = SCHEMAS["products"]
    columns = [missing if field.name == "product_id" else default_column(field, len(missing)) for field in schema]
    return pa.concat_tables([products, pa.table(columns, schema=schema)])
