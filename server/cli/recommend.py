"""`kgrank recommend`: ask a running server for a user's best products."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from server.cli import console
from server.cli.app import Json, settings_of
from server.cli.asking import MAX_RESULTS, Target, UserId, as_json, asking, component_names, reason_lines

if TYPE_CHECKING:
    from kgrank.v1.common_pb2 import Result


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("recommend", epilog="Example: kgrank recommend 17 --k 5 --reasons")(recommend)


def recommend(
    context: typer.Context,
    user: UserId,
    k: Annotated[int, typer.Option(min=1, max=MAX_RESULTS, help="How many products.")] = 10,
    seed: Annotated[list[str] | None, typer.Option(help="Product that the user looks at now; may be repeated.")] = None,
    seen: Annotated[
        bool | None,
        typer.Option("--seen/--no-seen", help="Rank products that the user has had.", show_default="as trained"),
    ] = None,
    reasons: Annotated[bool, typer.Option(help="Say why.")] = False,
    language: Annotated[str, typer.Option(help="Language of the reasons: en or zh.")] = "en",
    target: Target = None,
    json: Json = False,
) -> None:
    """Rank the catalogue for a user; unknown ones get what suits newcomers."""
    from kgrank.v1.common_pb2 import Context

    with asking(target, settings_of(context)) as client:
        answer = client.recommend(
            user,
            k=k,
            exclude_seen=None if seen is None else not seen,
            context=Context(seed_product_ids=seed) if seed else None,
            reasons=reasons,
            language=language,
            details=True,
        )
    if json:
        console.emit_json(as_json(answer))
        return
    state = as_json(answer)["user_state"].removeprefix("USER_STATE_").lower().replace("_", " ")
    title = f"For {user} ({state}), by {answer.model_version}"
    if reasons:
        _list(title, answer.results)
    else:
        names = component_names(answer.results)
        rows = [_row(place, result, names) for place, result in enumerate(answer.results, start=1)]
        console.emit_table(title, ["#", "product", "title", "brand", "score", *names], rows)
    if answer.missing_ids:
        console.say(f"the catalogue does not have: {', '.join(answer.missing_ids)}")


def _row(place: int, result: "Result", names: Sequence[str]) -> list[Any]:
    scores = [result.score, *(getattr(result.components, name) for name in names)]
    return [place, result.product_id, result.title, result.brand, *scores]


def _list(title: str, results: "Sequence[Result]") -> None:
    """Print results as a list: sentences do not fit into a table's cells."""
    console.out.print(title, markup=False)
    for place, result in enumerate(results, start=1):
        name = " by ".join(part for part in (result.title or result.product_id, result.brand) if part)
        console.out.print(f"{place:3}. {name}  ({result.product_id}, {result.score:.3f})", markup=False)
        for line in reason_lines(result.reasons):
            console.out.print(f"     {line}", markup=False)
