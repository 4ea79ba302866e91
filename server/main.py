"""The `kgrank` command: starts the command line, or says which extra it lacks."""

import os
import sys
from pathlib import Path


def main() -> None:
    """Run the command line; without its packages, say in one sentence how to get them."""
    _open_closed_streams()
    _let_idle_threads_sleep()
    try:
        from server.cli.app import run
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in {"kg", "model", "server"}:
            raise
        sys.stderr.write(
            f"kgrank: the package {error.name!r} is not installed; the command line needs an extra.\n"
            "Install it: pip install '.[server]' in kgrank's clone\n"
        )
        sys.exit(3)
    run()


def _open_closed_streams() -> None:
    """Open what was closed before the start (`>&-`): Python has nothing there, and a file could take its place."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115  # for good


def _let_idle_threads_sleep() -> None:
    """Let OpenMP's threads wait for each other asleep, unless the caller has chosen; read when torch is loaded.

    By default they turn while they wait. Where anything else wants the processor, a thread then waits for one that is
    not running, at each of a training step's thousand operations: an epoch of 3 s took 91.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


if __name__ == "__main__":
    main()
