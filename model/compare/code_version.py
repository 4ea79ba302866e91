"""A digest of the code that a result depends on: of what it says, not of how it is laid out or commented.

A change of a comment or a docstring leaves the digest as it is, and so every result that was computed with it.
"""

import ast
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path

_SOURCE = Path(__file__).parents[2]
_OURS = ("kg", "model")


def code_version(roots: Iterable[str], *, alone: Iterable[str] = (), apart: Iterable[str] = ()) -> str:
    """Return a digest of modules and of every module of ours that they import, directly or not.

    Args:
        roots: module names.
        alone: modules that count, but not what they import.
        apart: modules that neither count nor lead to others.
    """
    seen, waiting = {*apart, *alone}, list(roots)
    digests = {name: _module(name)[0] for name in alone}
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        digests[name], imported = _module(name)
        waiting += imported
    text = "\n".join(f"{name} {digest}" for name, digest in sorted(digests.items()))
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def module_file(name: str) -> Path | None:
    """Return the file of one of our modules; None where there is none of this name."""
    place = _SOURCE.joinpath(*name.split("."))
    for file in (place.with_suffix(".py"), place / "__init__.py"):
        if file.is_file():
            return file
    return None


@cache
def _module(name: str) -> tuple[str, tuple[str, ...]]:
    """Return the digest of one module, and the modules of ours that it imports."""
    file = module_file(name)
    if file is None:
        return "", ()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {found for node in ast.walk(tree) for found in _imports(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and (
            ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
    return hashlib.blake2b(ast.dump(tree).encode(), digest_size=8).hexdigest(), tuple(sorted(imported))


def _imports(node: ast.AST) -> Iterator[str]:
    """Yield the modules of ours that a statement imports; `from package import name` may mean one, too."""
    if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in _OURS:
        yield node.module
        yield from (name for alias in node.names if module_file(name := f"{node.module}.{alias.name}"))
    elif isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name.split(".")[0] in _OURS)
