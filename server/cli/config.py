"""`kgrank config`: show every setting, its value, and what it means."""

from typing import Any

import tomli_w
import typer
from pydantic import BaseModel

from server.cli import console
from server.cli.app import Json, settings_of


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("config", epilog="Example: kgrank config > kgrank.toml")(show_config)


def show_config(context: typer.Context, json: Json = False) -> None:
    """Print the settings in force as TOML, secrets masked."""
    settings = settings_of(context)
    values = settings.model_dump(mode="json", exclude_none=True)
    if json:
        console.emit_json(values)
        return
    console.out.print(_commented(settings, values), markup=False)


def _commented(settings: BaseModel, values: dict[str, Any]) -> str:
    """Return TOML with the description of each field before it."""
    lines: list[str] = []
    sections: list[tuple[str, BaseModel]] = []
    for name, field in type(settings).model_fields.items():
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            sections.append((name, value))
            continue
        lines.append(f"# {field.description}")
        lines.append(tomli_w.dumps({name: values[name]}).strip() if name in values else f"# {name} =")
    for name, section in sections:
        lines += ["", f"[{name}]", _commented(section, values.get(name, {}))]
    return "\n".join(lines)
