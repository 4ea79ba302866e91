"""`kgrank products`: see and change the catalogue of a running server."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kg.errors import ConfigError
from server.cli import console
from server.cli.app import Json, settings_of
from server.cli.asking import Target, as_json, asking

if TYPE_CHECKING:
    from kgrank.v1.catalog_service_pb2 import Fact, Product

_TOGETHER = 500
_FACTS = 1000

products = typer.Typer(
    name="products",
    help="See and change the catalogue of a running server.",
    epilog="Example: kgrank products get beans-001",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(products)


@products.command("get", epilog="Example: kgrank products get beans-001")
def get(
    context: typer.Context,
    product_id: Annotated[str, typer.Argument(help="The product.")],
    target: Target = None,
    json: Json = False,
) -> None:
    """Show a product and its facts."""
    with asking(target, settings_of(context)) as client:
        found = client.get_product(product_id)
        facts = client.list_facts(product_id, page_size=_FACTS).facts
    if json:
        console.emit_json(as_json(found) | {"facts": [as_json(each) for each in facts]})
        return
    product = found.product
    rows: list[tuple[str, Any]] = [
        ("title", product.title),
        ("description", product.description),
        ("brand", product.brand),
        ("category", " > ".join(product.category)),
        ("price", product.price if product.HasField("price") else None),
        ("available", product.available if product.HasField("available") else None),
        *sorted(product.attributes.items()),
        ("changed online", found.update_time.ToJsonString() if found.HasField("update_time") else "never"),
        *(("fact", _fact_line(each)) for each in facts),
    ]
    console.emit_table(product_id, ("what", "value"), [row for row in rows if row[1] not in ("", None)])


@products.command("upsert", epilog="Example: kgrank products upsert new.csv --only price --only available")
def upsert(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Products in a file that `kgrank load tables` reads.")],
    only: Annotated[
        list[str] | None, typer.Option(help="Field of known products to change; may be repeated. All by default.")
    ] = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Add the products of a file, or change them; soon after they are ranked, found and explained."""
    from kg.quality import Policy, clean
    from kg.sources.tables import TableFiles, read_tables

    checked = clean(read_tables(TableFiles(products=(file,))), Policy(max_bad=0))
    for rule in checked.report.rules:  # what is not refused is mended
        console.say(f"{rule.rows} rows: {rule.rule} {rule.field}, first at {rule.first_file}:{rule.first_line}")
    rows = checked.tables.products.to_pylist()
    counts = dict.fromkeys(("created", "updated", "unchanged"), 0)
    with asking(target, settings_of(context)) as client, console.meter("writing products", len(rows)) as meter:
        for start in range(0, len(rows), _TOGETHER):
            batch = [_message(row) for row in rows[start : start + _TOGETHER]]
            for outcome in client.upsert_products(batch, only):
                name = type(outcome).Status.Name(outcome.status)
                counts[name.removeprefix("STATUS_").lower()] += 1
            meter.advance(len(batch))
    if json:
        console.emit_json(counts)
        return
    console.emit_table("Products written", ("what", "count"), list(counts.items()))


@products.command("delete", epilog="Example: kgrank products delete beans-001 beans-002")
def delete(
    context: typer.Context,
    product_ids: Annotated[list[str], typer.Argument(help="The products.")],
    target: Target = None,
    json: Json = False,
) -> None:
    """Take products out of the catalogue; what users did with them stays in the graph's past."""
    with asking(target, settings_of(context)) as client:
        done = client.delete_products(product_ids)
    if json:
        console.emit_json(as_json(done))
    else:
        console.say(f"took out {done.deleted_count} of {len(set(product_ids))} products")
    if done.missing_ids and not done.deleted_count:
        raise ConfigError(f"the catalogue does not have {', '.join(done.missing_ids)}", "Check the ids.")


def _message(row: dict[str, Any]) -> "Product":
    from kgrank.client import product
    from server.products import attribute_texts

    return product(
        row["product_id"],
        row["title"],
        description=row["description"],
        brand=row["brand"],
        category=row["category"],
        price=row["price"],
        available=row["available"],
        attributes=attribute_texts(row["attributes"]),
    )


def _fact_line(fact: "Fact") -> str:
    return f"{fact.head.kind} {fact.head.id} {fact.relation} {fact.tail.kind} {fact.tail.id}"
