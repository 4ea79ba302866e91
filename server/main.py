"""The `kgrank` command: starts the command line, or says which extra it lacks."""

import sys


def main() -> None:
    """Run the command line; without its packages, say in one sentence how to get them."""
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


if __name__ == "__main__":
    main()
