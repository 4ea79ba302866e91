"""`kgrank user`: what a running server knows of a user; hand it over, erase it, and ask whether it was erased."""

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from server.cli import console
from server.cli.app import Json, settings_of
from server.cli.asking import Target, UserId, as_json, asking

if TYPE_CHECKING:
    from kgrank.v1.user_service_pb2 import UserProfile
    from server.access.audit import RecordedErasure

_DAY_S = 86_400
_MAX_DAYS = 3_652_500
"""Ten thousand years, the longest duration of the contract."""
_EXIT_NOT_ERASED = 4
"""Apart from 1, which says that it can't be told."""

user = typer.Typer(
    name="user",
    help="What is known of a user: look at it, hand it over, erase it.",
    epilog="Example: kgrank user profile user-007",
    no_args_is_help=True,
)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(user)


@user.command("profile", epilog="Example: kgrank user profile user-007 --days 90")
def profile(
    context: typer.Context,
    user_id: UserId,
    days: Annotated[
        float | None, typer.Option(min=0, max=_MAX_DAYS, help="Only what happened in so many days before now.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=100, help="Brands, categories and interests each.")] = 10,
    target: Target = None,
    json: Json = False,
) -> None:
    """Show what a user's interactions say."""
    with asking(target, settings_of(context)) as client:
        found = client.user_profile(user_id, window_s=None if days is None else days * _DAY_S, limit=limit)
    if json:
        console.emit_json(as_json(found))
    else:
        console.emit_table(
            f"{found.interaction_count:,} interactions", ("what", "which", "share", "count"), _rows(found)
        )


@user.command("export", epilog="Example: kgrank user export user-007 > user-007.jsonl")
def export(context: typer.Context, user_id: UserId, target: Target = None) -> None:
    """Print all that is stored about a user, a JSON object a line."""
    with asking(target, settings_of(context)) as client:
        for line in client.export_user(user_id):
            sys.stdout.write(line + "\n")


@user.command("erase", epilog="Example: kgrank user erase user-007 --yes")
def erase(
    context: typer.Context,
    user_id: UserId,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask; for an id from standard input.")] = False,
    target: Target = None,
    json: Json = False,
) -> None:
    """Erase a user from graph, journal, memory, snapshots and published recommendations; it can't be taken back."""
    if not yes:
        typer.confirm("Erase everything about this user, for good?", abort=True, err=True)
    with asking(target, settings_of(context)) as client:
        erased = client.erase_user(user_id)
    if json:
        console.emit_json(as_json(erased))
    else:
        console.say(
            f"erased: {erased.interaction_count:,} interactions of the graph, "
            f"{erased.journal_event_count:,} events of this server's journal"
        )


@user.command("erased", epilog="Example: kgrank user erased user-007")
def erased(context: typer.Context, user_id: UserId, json: Json = False) -> None:
    """Look up in this host's audit log whether a user was erased by its servers; change nothing.

    Exit code 4 says that no erasure is on record here, or that the last one has not ended well; each host has its own
    record.
    """
    from server.access.audit import erasures

    log = settings_of(context).audit_file
    calls = erasures(log, user_id)
    done = bool(calls) and calls[-1].code == "OK"
    if json:
        console.emit_json({"erased": done, "calls": [asdict(call) for call in calls]})
    else:
        for call in calls:
            console.out.print(_end(call))
        if not done:
            console.say(
                f"not erased, by the record of this host ({log}): ask on each, and check the id; what a server has "
                "written down (`kgrank doctor` tells) it does by itself, and is here then; else erase again"
            )
    if not done:
        raise typer.Exit(_EXIT_NOT_ERASED)


def _end(call: "RecordedErasure") -> str:
    """Return a line about an erasure on record."""
    if call.by_server:
        who = ", by the server, which had it written down"
    else:
        who = f", by {call.caller}" if call.caller else ""
    begun = "tried again" if call.by_server else "asked to erase"
    tried = f"{begun}, ended in {call.code or 'nothing that is on record'}"
    return f"{call.at}: {'erased' if call.code == 'OK' else tried}{who}"


def _rows(found: "UserProfile") -> list[tuple[str, str, str, str]]:
    groups = (("brand", found.brands), ("category", found.categories), ("interest", found.interests))
    rows = [
        (name, each.id, f"{each.weight:.0%}", f"{each.count:,}") for name, affinities in groups for each in affinities
    ]
    if found.HasField("price_level"):
        prices = found.price_level
        rows.append(
            ("price", f"{prices.lower:g} - {prices.median:g} - {prices.upper:g}", f"{prices.percentile:.0%}", "")
        )
    return rows
