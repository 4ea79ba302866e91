"""The command tree, and what happens when a command fails."""

import errno
import importlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import structlog
import typer

from kg.errors import ConfigError, KgrankError, MissingExtraError
from server.cli import console
from server.config import Settings, load_settings
from server.remembered import refuse_stopped

Json = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
"""The option that every command has."""


def settings_of(context: typer.Context) -> Settings:
    """Return the settings that the command line read."""
    settings: Settings = context.obj
    return settings


def settings_of_whole(context: typer.Context) -> Settings:
    """Return the settings, for a command that a half-restored graph would mislead, or that would write to it.

    Raises:
        BackupError: a restore into this home has not come to its end.
    """
    settings = settings_of(context)
    refuse_stopped(settings.home)
    return settings


app = typer.Typer(
    name="kgrank",
    help="Rank products for people with a knowledge graph and language.",
    epilog="Example: kgrank demo",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

COMMANDS = (
    "load",
    "graph",
    "snapshot",
    "finetune",
    "train",
    "tune",
    "evaluate",
    "compare",
    "score",
    "publish",
    "serve",
    "backup",
    "user",
    "models",
    "products",
    "token",
    "doctor",
    "rules",
    "recommend",
    "search",
    "explain",
    "config",
    "demo",
)
"""One module of `server.cli` each, with a function `register(app)`."""

_OTHER_HOME = "choose another home: KGRANK_HOME"
_DISK_ERRORS = {
    errno.ENOSPC: f"Free some space, or {_OTHER_HOME}",
    errno.EDQUOT: f"Free some space, or {_OTHER_HOME}",
    errno.EACCES: f"Mend its owner or its rights, or {_OTHER_HOME}",
    errno.EPERM: f"Mend its owner or its rights, or {_OTHER_HOME}",
    errno.EROFS: f"Mount it to be written, or {_OTHER_HOME}",
    errno.EEXIST: f"It is a file where a folder has to be: move it away, or {_OTHER_HOME}",
    errno.ENOTDIR: f"A part of it is a file where a folder has to be: move that away, or {_OTHER_HOME}",
    errno.ENAMETOOLONG: f"Give a shorter name, or {_OTHER_HOME}",
}
"""What the user can mend about a file or folder, and how."""


@app.callback()
def root(
    context: typer.Context,
    config: Annotated[Path | None, typer.Option(help="Configuration file (TOML).", show_default="kgrank.toml")] = None,
) -> None:
    """Read the settings once, for every command but the demo, which has its own."""
    if context.invoked_subcommand != "demo":
        context.obj = load_settings(config)


def run() -> None:
    """Run the command line; what a user can mend ends in one sentence and exit code 1, a missing extra in 3."""
    # Warnings of libraries go to stderr: stdout is for results. `kgrank serve` sets up its own log.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    for command in COMMANDS:
        importlib.import_module(f"server.cli.{command}").register(app)
    try:
        _refuse_undecodable(sys.argv[1:])
        app()
    except MissingExtraError as error:
        console.fail(error)
        sys.exit(console.EXIT_MISSING_EXTRA)
    except KgrankError as error:
        console.fail(error)
        sys.exit(console.EXIT_FAILED)
    except OSError as error:
        if error.errno not in _DISK_ERRORS:
            raise
        console.fail(
            KgrankError(
                f"{error.filename or 'a file'} can't be used: {error.strerror or error}", _DISK_ERRORS[error.errno]
            )
        )
        sys.exit(console.EXIT_FAILED)


def _refuse_undecodable(arguments: Sequence[str]) -> None:
    """Refuse arguments that are not text: neither the contract nor the graph nor JSON can hold them.

    Raises:
        ConfigError: one is not UTF-8.
    """
    for number, argument in enumerate(arguments, start=1):
        shown = argument.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        if shown != argument:
            raise ConfigError(
                f"argument {number}, {shown}, is not UTF-8 text",
                "Type it in a UTF-8 terminal; rename a file whose name is not UTF-8.",
            )
