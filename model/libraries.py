"""Which versions of libraries are here: what a result depends on beside its inputs and our own code."""

from importlib.metadata import PackageNotFoundError, version

LIBRARIES = ("torch", "torch-geometric", "transformers", "peft", "implicit", "numpy", "scipy")
"""What the numbers of a result come out of, beside our own code."""


def installed_libraries() -> dict[str, str | None]:
    """Return the version of each of these."""
    return {name: installed_version(name) for name in LIBRARIES}


def installed_version(library: str) -> str | None:
    """Return the version of a library; None where it is not installed, as an extra's need not be."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
