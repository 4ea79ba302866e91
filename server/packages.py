"""The packages that serving needs, by the names that they are imported by."""

from collections.abc import Iterable
from importlib.util import find_spec

SERVING = (
    "grpc_health",
    "grpc_reflection",
    "jwt",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "prometheus_client",
    "rapidfuzz",
    "tantivy",
    "threadpoolctl",
    "torch",
    "uvloop",
)


def absent(names: Iterable[str]) -> list[str]:
    """Return those of some packages that are not installed; none of them is imported."""
    return [name for name in names if _is_absent(name)]


def _is_absent(name: str) -> bool:
    try:
        return find_spec(name) is None
    except ModuleNotFoundError:  # not even what it is a part of is there
        return True
