"""`kgrank explain`: ask a running server why a product has its place for a user."""

from typing import Annotated

import typer

from server.cli import console
from server.cli.app import Json, settings_of
from server.cli.asking import Target, UserId, as_json, asking, component_names, reason_lines


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("explain", epilog="Example: kgrank explain 17 B0009V1YR8")(explain)


def explain(
    context: typer.Context,
    user: UserId,
    product: Annotated[str, typer.Argument(help="Product id.")],
    reasons: Annotated[int, typer.Option(min=1, max=3, help="Largest number of reasons.")] = 3,
    language: Annotated[str, typer.Option(help="Language of the reasons: en or zh.")] = "en",
    target: Target = None,
    json: Json = False,
) -> None:
    """Say what a product's score is made of, and which paths lead to it."""
    with asking(target, settings_of(context)) as client:
        answer = client.explain(user, product, max_reasons=reasons, language=language)
    if json:
        console.emit_json(as_json(answer))
        return
    result = answer.result
    components = [(name, getattr(result.components, name)) for name in component_names([result])]
    title = f"{result.title or result.product_id} for {user}: place {answer.rank}, by {answer.model_version}"
    console.emit_table(title, ["component", "score"], [*components, ("together", result.score)])
    lines = reason_lines(result.reasons)
    for line in lines or ["no path of the graph leads from the history to it"]:
        console.out.print(line, markup=False)
