"""`kgrank search`: ask a running server for products that words describe."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli import console
from server.cli.app import Json, settings_of
from server.cli.asking import MAX_RESULTS, Target, as_json, asking, reason_lines, user_id

if TYPE_CHECKING:
    from kgrank.v1.common_pb2 import Filter, Result


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("search", epilog='Example: kgrank search "dark roast" --user 17 --below 12')(search)


def search(
    context: typer.Context,
    query: Annotated[str, typer.Argument(help="What is looked for; typing errors are mended.")],
    user: Annotated[
        str,
        typer.Option(
            parser=user_id, metavar="USER", help="User that it is ranked for, nobody if not given; - as in `recommend`."
        ),
    ] = "",
    k: Annotated[int, typer.Option(min=1, max=MAX_RESULTS, help="How many products.")] = 10,
    category: Annotated[
        list[str] | None, typer.Option(help="Only in this category, names joined by ' > '; may be repeated.")
    ] = None,
    brand: Annotated[list[str] | None, typer.Option(help="Only of this brand; may be repeated.")] = None,
    below: Annotated[float | None, typer.Option(help="Highest price.")] = None,
    available: Annotated[bool, typer.Option("--available", help="Only what can be had now.")] = False,
    tracked: Annotated[bool, typer.Option("--tracked", help="Store it as a search of the user.")] = False,
    reasons: Annotated[bool, typer.Option(help="Say why.")] = False,
    target: Target = None,
    json: Json = False,
) -> None:
    """Find products by words and meaning."""
    wanted = _filter(category or [], brand or [], below, available)
    with asking(target, settings_of(context)) as client:
        answer = client.search(query, user, k=k, filter=wanted, reasons=reasons, details=True, untracked=not tracked)
    if json:
        console.emit_json(as_json(answer))
        return
    understood = f", understood as {answer.corrected_query!r}" if answer.corrected_query else ""
    title = f"{query!r}{understood}{f' for {user}' if user else ''}, by {answer.model_version}"
    if not reasons:
        columns = ["#", "product", "title", "brand", "score", "query", "for the user"]
        rows = [_row(place, result) for place, result in enumerate(answer.results, start=1)]
        console.emit_table(title, columns, rows)
        return
    console.out.print(title, markup=False)
    for place, result in enumerate(answer.results, start=1):
        name = " by ".join(part for part in (result.title or result.product_id, result.brand) if part)
        console.out.print(f"{place:3}. {name}  ({result.product_id}, {result.score:.3f})", markup=False)
        for line in reason_lines(result.reasons):
            console.out.print(f"     {line}", markup=False)


def _filter(categories: list[str], brands: list[str], below: float | None, available: bool) -> "Filter":
    from kgrank.v1.common_pb2 import Filter, PriceRange

    price = None if below is None else PriceRange(max=below)
    return Filter(categories=categories, brands=brands, price=price, only_available=available)


def _row(place: int, result: "Result") -> list[Any]:
    found = result.components.query
    return [place, result.product_id, result.title, result.brand, result.score, found, result.score - found]
