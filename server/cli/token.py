"""`kgrank token`: make, list and revoke the tokens of callers."""

import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from kg.errors import ConfigError
from server.access.roles import Role
from server.cli import console
from server.cli.app import Json, settings_of

_DAY_MS = 86_400_000

app = typer.Typer(help="Make, list and revoke the tokens of callers (`serve.access`).", no_args_is_help=True)


def register(root: typer.Typer) -> None:
    """Add the commands."""
    root.add_typer(app, name="token")


@app.command("create", epilog="Example: kgrank token create shop-backend --role read --role write_events")
def create(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="The caller's name, for logs and limits.")],
    role: Annotated[list[Role], typer.Option(help="What it may do; can be given more than once.")],
    days: Annotated[
        int | None, typer.Option(min=1, max=36_500, help="How long it is good.", show_default="for good")
    ] = None,
    calls_per_s: Annotated[
        float | None, typer.Option(min=0.001, max=1e6, help="Its rate.", show_default="serve.access.calls_per_s")
    ] = None,
    json: Json = False,
) -> None:
    """Make a token and print it, this once: only a salted hash of it is kept."""
    from server.access.tokens import create as make

    path = settings_of(context).tokens_file
    expires_ms = None if days is None else time.time_ns() // 1_000_000 + days * _DAY_MS
    record, token = make(path, name, role, expires_ms=expires_ms, calls_per_s=calls_per_s)
    if json:
        console.emit_json({"token_id": record.token_id, "name": name, "roles": record.roles, "token": token})
        return
    console.say(f"token {record.token_id} of {name} may {', '.join(record.roles)}; it is shown this once:")
    console.out.print(token)


@app.command("list", epilog="Example: kgrank token list")
def list_tokens(context: typer.Context, json: Json = False) -> None:
    """List the tokens: whose they are and what they may do; not the tokens themselves, which nobody keeps."""
    from server.access.tokens import read

    records = read(settings_of(context).tokens_file)
    if json:
        console.emit_json(
            [
                {
                    "token_id": each.token_id,
                    "name": each.name,
                    "roles": each.roles,
                    "created_ms": each.created_ms,
                    "expires_ms": each.expires_ms,
                    "calls_per_s": each.calls_per_s,
                }
                for each in records
            ]
        )
        return
    rows = [
        [
            each.token_id,
            each.name,
            ", ".join(each.roles),
            _day(each.created_ms),
            _day(each.expires_ms),
            each.calls_per_s,
        ]
        for each in records
    ]
    console.emit_table("Tokens", ["id", "name", "roles", "made", "good until", "calls/s"], rows)


@app.command("revoke", epilog="Example: kgrank token revoke 3f9a0c21b7de")
def revoke(
    context: typer.Context,
    token_id: Annotated[str, typer.Argument(help="The id that `kgrank token list` shows.")],
    json: Json = False,
) -> None:
    """Revoke a token; running servers refuse it within two seconds."""
    from server.access.tokens import revoke as forget

    if token_id.startswith("kgr_"):
        raise ConfigError("that is a token, not its id", "Give the id alone: `kgrank token list` shows it.")
    record = forget(settings_of(context).tokens_file, token_id)
    if json:
        console.emit_json({"token_id": record.token_id, "name": record.name})
    else:
        console.say(f"token {record.token_id} of {record.name} is revoked")


def _day(at_ms: int | None) -> str:
    return "" if at_ms is None else datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y-%m-%d")
