"""Which versions of libraries are here: what a result depends on beside its inputs and our own code."""

from importlib.metadata import PackageNotFoundError, version


def installed_version(library: str) -> str | None:
    """Return the version of a library; None where it is not installed, as an extra's need not be."""
    try:
        return version(library)
    except PackageNotFoundError:
        return None
