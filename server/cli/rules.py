"""`kgrank rules`: the shop's own rules of a running server."""

from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from server.cli import console
from server.cli.app import Json, settings_of
from server.cli.asking import MAX_RESULTS, Target, as_json, asking

_ACTIONS = ("pin", "boost", "bury", "block")
_ISO = "An ISO date (its beginning) or time; UTC unless it says."


def register(app: typer.Typer) -> None:
    """Add the commands."""
    rules = typer.Typer(help="What the shop pins, boosts, buries or blocks.", no_args_is_help=True)
    rules.command("list", epilog="Example: kgrank rules list --json")(list_rules)
    rules.command("set", epilog="Example: kgrank rules set sale boost --brand Altura --strength 2 --until 2030-01-31")(
        set_rule
    )
    rules.command("remove", epilog="Example: kgrank rules remove sale")(remove)
    app.add_typer(rules, name="rules")


def _moment(text: str) -> datetime:
    """Return the moment that an option names: of a date, its beginning; UTC unless it says."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is not a date or time: write it as 2030-01-31 or 2030-01-31T18:00:00+01:00"
        ) from error


def list_rules(context: typer.Context, target: Target = None, json: Json = False) -> None:
    """List every rule, those of the past and the future among them."""
    found: list[dict[str, Any]] = []
    with asking(target, settings_of(context)) as client:
        token = ""
        while True:
            page = client.list_rules(page_size=1000, page_token=token)
            found += as_json(page)["rules"]
            token = page.next_page_token
            if not token:
                break
    if json:
        console.emit_json(found)
        return
    rows = [
        [
            rule["rule_id"],
            rule["action"].removeprefix("ACTION_").lower(),
            next((f"{kind}: {rule[kind]}" for kind in ("product_id", "brand", "category") if kind in rule), ""),
            rule.get("strength", rule.get("position", "")),
            rule.get("start_time", ""),
            rule.get("end_time", ""),
        ]
        for rule in found
    ]
    console.emit_table(f"{len(rows)} rules", ["rule", "does", "to", "how", "from", "until"], rows)


def set_rule(
    context: typer.Context,
    rule_id: Annotated[str, typer.Argument(help="Its id; a rule that has it is changed.")],
    action: Annotated[str, typer.Argument(help="pin, boost, bury or block.")],
    product: Annotated[str | None, typer.Option(help="Product that it is about.")] = None,
    brand: Annotated[str | None, typer.Option(help="Brand that it is about.")] = None,
    category: Annotated[str | None, typer.Option(help="Category that it is about, names joined by ' > '.")] = None,
    strength: Annotated[float | None, typer.Option(help="Of boost and bury: 0 to 10.")] = None,
    position: Annotated[int | None, typer.Option(min=1, max=MAX_RESULTS, help="Of pin: the place.")] = None,
    start: Annotated[
        datetime | None,
        typer.Option("--from", parser=_moment, metavar="DATE", help=f"From when; from now on if not given. {_ISO}"),
    ] = None,
    end: Annotated[
        datetime | None,
        typer.Option("--until", parser=_moment, metavar="DATE", help=f"Until when; for good if not given. {_ISO}"),
    ] = None,
    target: Target = None,
    json: Json = False,
) -> None:
    """Add or change a rule."""
    from kgrank.v1.rule_service_pb2 import Rule

    if action not in _ACTIONS:
        raise typer.BadParameter(f"{action!r} is none of {', '.join(_ACTIONS)}")
    rule = Rule(
        rule_id=rule_id,
        action=Rule.Action.Value(f"ACTION_{action.upper()}"),
        strength=strength,
        position=position,
    )
    for field, name in (("product_id", product), ("brand", brand), ("category", category)):
        if name is not None:
            setattr(rule, field, name)
    for moment, given in ((rule.start_time, start), (rule.end_time, end)):
        if given is not None:
            moment.FromDatetime(given)
    with asking(target, settings_of(context)) as client:
        stored = client.upsert_rule(rule)
    if json:
        console.emit_json(as_json(stored))
    else:
        console.say(f"rule {rule_id} is stored; every server ranks by it within two seconds")


def remove(
    context: typer.Context,
    rule_id: Annotated[str, typer.Argument(help="Its id.")],
    target: Target = None,
    json: Json = False,
) -> None:
    """Remove a rule."""
    with asking(target, settings_of(context)) as client:
        client.delete_rule(rule_id)
    if json:
        console.emit_json({"removed": rule_id})
    else:
        console.say(f"rule {rule_id} is removed")
