"""The `KGRANK_*` variables: what each sets, and a refusal of those that nothing reads.

A misspelt variable would be passed over, and what it was to set, access among it, would stand at its default.
"""

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping

from pydantic import BaseModel

from kg.errors import ConfigError

PREFIX = "KGRANK_"
CONFIG_FILE = "KGRANK_CONFIG"
NEO4J = {field: f"KGRANK_NEO4J_{field.upper()}" for field in ("uri", "user", "password", "password_file", "database")}
"""Variables of the graph server's fields, beside `KGRANK_GRAPH__URI` and so on."""
CLIENT = (
    *("KGRANK_TARGET", "KGRANK_TOKEN", "KGRANK_TOKEN_FILE", "KGRANK_TLS"),
    *("KGRANK_CA_FILE", "KGRANK_CERTIFICATE_FILE", "KGRANK_KEY_FILE"),
)
"""What `kgrank.channel` and `kgrank.client` read."""

_LINK = re.compile(r"SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?")
"""What Kubernetes adds to the name of a Service in the environment of every pod beside it."""


def refuse_unread(environment: Mapping[str, str], settings: type[BaseModel]) -> None:
    """Refuse variables with our prefix that nothing reads; their values, which may be secrets, are not told.

    Raises:
        ConfigError: there are some; names each, and the right name that is nearest.
    """
    ours = [name for name in environment if name.upper().startswith(PREFIX)]
    plain, sections = _names(settings)
    others = (CONFIG_FILE, *NEO4J.values(), *CLIENT)
    # Settings are read in upper and lower case, the others are not.
    read = {name for name in ours if name in others or name.upper() in {*plain, *sections}}
    unread = sorted(set(ours) - read - _service_links(ours))
    if unread:
        nearest = {name: _nearest(name, (*plain, *others)) for name in unread}
        instead = "".join(f"Say {right} instead of {name}. " for name, right in nearest.items() if right)
        raise ConfigError(
            "\n".join(f"variable {name}: nothing reads it" for name in unread),
            f"{instead}Unset what is not meant for kgrank. docs/configuration.md has every setting; two underscores "
            "join a section and its field.",
        )


def _names(settings: type[BaseModel]) -> tuple[list[str], list[str]]:
    """Return the variables of every setting, and of every section, which is JSON."""
    named = list(_walk(settings, PREFIX))
    return [name for name, section in named if not section], [name for name, section in named if section]


def _walk(section: type[BaseModel], prefix: str) -> Iterator[tuple[str, bool]]:
    for field, told in section.model_fields.items():
        name = prefix + field.upper()
        if isinstance(told.default, BaseModel):
            yield name, True
            yield from _walk(type(told.default), f"{name}__")
        else:
            yield name, False


def _service_links(names: Iterable[str]) -> set[str]:
    """Return the names that tell of a Kubernetes Service: `KGRANK_PORT` where there is a `KGRANK_SERVICE_HOST`."""
    given = list(names)
    services = [name.removesuffix("SERVICE_HOST") for name in given if name.endswith("_SERVICE_HOST")]
    return {
        name
        for name in given
        if any(name.startswith(service) and _LINK.fullmatch(name.removeprefix(service)) for service in services)
    }


def _nearest(name: str, right: Iterable[str]) -> str | None:
    """Return the right name that is most like one, underscores told apart last."""
    of_letters = {_letters(each): each for each in right}
    found = difflib.get_close_matches(_letters(name), of_letters, n=1)
    return of_letters[found[0]] if found else None


def _letters(name: str) -> str:
    return name.upper().removeprefix(PREFIX).replace("_", "")
