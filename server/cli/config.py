"""`kgrank config`: show every setting, its value, and what it means."""

import sys
from collections.abc import Iterator
from typing import Annotated, Any

import annotated_types
import tomli_w
import typer
from pydantic import BaseModel, SecretStr
from pydantic.fields import FieldInfo

from server.cli import console
from server.cli.app import Json, settings_of
from server.config import Settings


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("config", epilog="Example: kgrank config > kgrank.toml")(show_config)


def show_config(
    context: typer.Context,
    json: Json = False,
    markdown: Annotated[bool, typer.Option(help="Print every setting with range and default, as a table.")] = False,
) -> None:
    """Print the settings in force as TOML, each with its meaning, secrets masked."""
    settings = settings_of(context)
    values = settings.model_dump(mode="json", exclude_none=True)
    if json:
        console.emit_json(values)
    elif markdown:
        sys.stdout.write("\n".join(settings_table()) + "\n")
    else:
        sys.stdout.write("\n".join(_toml(settings, values, "")) + "\n")


def settings_table() -> list[str]:
    """Return the lines of a Markdown table of every setting: name, default, range, meaning."""
    lines = ["| setting | default | range | meaning |", "|---|---|---|---|"]
    for name, field in _fields(Settings, ""):
        default = "" if field.default is None else f"`{_plain(field.default)}`"
        lines.append(f"| `{name}` | {default} | {_range(field)} | {field.description} |")
    return lines


def _fields(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Yield every setting by its dotted name, plain ones before sections."""
    sections: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        if isinstance(field.default, BaseModel):
            sections.append((f"{prefix}{name}.", type(field.default)))
        else:
            yield prefix + name, field
    for section, nested in sections:
        yield from _fields(nested, section)


def _range(field: FieldInfo) -> str:
    """Return the bounds of a number, or the words of a choice."""
    signs = {annotated_types.Ge: "≥", annotated_types.Gt: ">", annotated_types.Le: "≤", annotated_types.Lt: "<"}
    bounds = [
        f"{sign} {getattr(rule, kind.__name__.lower())}"
        for rule in field.metadata
        for kind, sign in signs.items()
        if isinstance(rule, kind)
    ]
    choices = [f"`{choice}`" for choice in getattr(field.annotation, "__args__", ()) if isinstance(choice, str)]
    return ", ".join(bounds or choices)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return str(list(value)) if isinstance(value, tuple) else str(value)


def _toml(section: BaseModel, values: dict[str, Any], prefix: str) -> Iterator[str]:
    """Yield TOML lines with the description of each field before it."""
    nested: list[tuple[str, BaseModel]] = []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, BaseModel):
            nested.append((name, value))
            continue
        yield f"# {field.description}"
        if isinstance(value, SecretStr):
            yield f"# {name} = (set, not shown)"
        else:
            yield tomli_w.dumps({name: values[name]}).strip() if name in values else f"# {name} ="
    for name, child in nested:
        yield from ("", f"[{prefix}{name}]")
        yield from _toml(child, values.get(name, {}), f"{prefix}{name}.")
