"""A snapshot: frozen, hashed, memory-mapped arrays of the graph at one moment.

It is what training and serving read; neither touches the database on its hot path. No interaction later than
`as_of_ms` is in it, so that no training run sees what users did in the future; facts have no time. `kg.freeze` makes
one, this module holds, saves and opens it.

Index spaces: a *user index* is a row of `users`; a *product index* a row of `products`; a *node index* is a product
index below `len(products)` and, above it, `len(products) +` a row of `nodes` (brands, categories, attributes,
entities).
"""

import hashlib
import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from kg.errors import SnapshotError
from kg.vocabulary import Vocabulary
from kg.writing import writing

SCHEMA_VERSION = 2
MANIFEST = "manifest.json"
_TIMES = 10
"""How often a snapshot is opened that another takes the place of meanwhile."""
_PARSING = threading.Lock()


@dataclass(frozen=True)
class Histories:
    """Every user's interactions in time order, ties in file order, as compressed rows over users.

    Shapes: `offsets [U + 1]` int64; the others `[N]`: `product_index` int32, `type` int8 (`kg.tables.CODES`),
    `at_ms` int64, `value` float32 (NaN where the interaction has none).
    """

    offsets: npt.NDArray[np.int64]
    product_index: npt.NDArray[np.int32]
    type: npt.NDArray[np.int8]
    at_ms: npt.NDArray[np.int64]
    value: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, user_index: int) -> slice:
        """Return where one user's interactions stand in the `[N]` arrays, oldest first."""
        return slice(int(self.offsets[user_index]), int(self.offsets[user_index + 1]))

    def take(self, user_index: npt.NDArray[np.integer]) -> "Histories":
        """Return the histories of some users, in the order given."""
        lengths = np.diff(self.offsets)[user_index]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        rows = np.arange(offsets[-1]) + np.repeat(self.offsets[user_index] - offsets[:-1], lengths)
        return self._select(offsets, rows)

    def where(self, keep: npt.NDArray[np.bool_]) -> "Histories":
        """Return the same users with only the interactions that `keep [N]` marks."""
        kept_before = np.concatenate([[0], np.cumsum(keep)])
        return self._select(kept_before[self.offsets].astype(np.int64), np.flatnonzero(keep))

    def users_of_rows(self) -> npt.NDArray[np.int64]:
        """Return the user index of every interaction `[N]`."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def _select(self, offsets: npt.NDArray[np.int64], rows: npt.NDArray[np.integer]) -> "Histories":
        return Histories(offsets, self.product_index[rows], self.type[rows], self.at_ms[rows], self.value[rows])


@dataclass(frozen=True)
class Edges:
    """The facts of one relation: `head [E]` and `tail [E]` node indices (int32), sorted by head then tail, unique."""

    head: npt.NDArray[np.int32]
    tail: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.head)


@dataclass(frozen=True)
class SnapshotManifest:
    """What `manifest.json` says. `content_hash` covers every array and id; `as_of_ms` follows from it.

    `events_commit` stands there only where it is not `commit`.
    """

    schema_version: int
    content_hash: str
    as_of_ms: int
    counts: dict[str, int]
    relations: list[str]
    files: dict[str, str]
    commit: int = 0
    events_commit: int | None = None


@dataclass(frozen=True)
class Snapshot:
    """The graph at one moment.

    Args:
        users: user ids, index order (sorted by id).
        products: product ids, index order (sorted by id).
        catalogue: one row per product, in index order: `title`, `brand`, `category` (list), `price`, `available`
            (never null), `attributes` (map), `text`; `text` is what a language model reads.
        nodes: one row per other node, sorted: `kind` (`brand`, `category`, `attribute` or an entity kind), `id`,
            `name`.
        histories: interactions by user.
        facts: edges by relation, over node indices.
        as_of_ms: the time of the last interaction.
        content_hash: a blake2b digest over everything above, stable across exports of the same graph.
        commit: everything that commits up to this number changed is in it (`kg.commits`); of later ones, maybe some.
        events_commit: of interactions only those up to this number are, where some were left out; None: as `commit`.
    """

    users: Vocabulary
    products: Vocabulary
    catalogue: pa.Table
    nodes: pa.Table
    histories: Histories
    facts: Mapping[str, Edges]
    as_of_ms: int
    content_hash: str
    commit: int = 0
    events_commit: int | None = None

    @property
    def followed_commit(self) -> int:
        """The commit up to which all interactions are in it."""
        return self.commit if self.events_commit is None else self.events_commit

    @property
    def node_count(self) -> int:
        """The size of the node index space: products and all other nodes."""
        return len(self.products) + len(self.nodes)

    @property
    def counts(self) -> dict[str, int]:
        """How many of each thing there are, for manifests and reports."""
        return {
            "users": len(self.users),
            "products": len(self.products),
            "nodes": len(self.nodes),
            "interactions": len(self.histories.product_index),
            **{f"facts.{relation}": len(edges) for relation, edges in self.facts.items()},
        }

    def save(self, folder: Path) -> None:
        """Write the snapshot to a new folder: first under a temporary name, then renamed in one step.

        Raises:
            SnapshotError: the folder exists already, or can't be written (a full disk, say); nothing is left behind.
        """
        if folder.exists():
            raise SnapshotError(f"snapshot folder {folder} exists already", "Choose another name, or remove it first.")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with writing(folder.parent) as partial:
                self._write(partial)
                partial.rename(folder)
        except OSError as error:
            raise SnapshotError(
                f"snapshot {folder} can't be written: {error.strerror or error}",
                "Free space or choose another folder; nothing was left behind.",
            ) from error

    def note_commit(self, folder: Path) -> None:
        """Note in a saved snapshot of the same content that the graph has this content at this one's commit, too.

        Raises:
            SnapshotError: it is damaged, or can't be written.
        """
        old = _read_manifest(folder)
        commit = max(old.commit, self.commit)
        followed = max(old.commit if old.events_commit is None else old.events_commit, self.followed_commit)
        try:
            _write_manifest(folder, replace(old, commit=commit, events_commit=None if followed == commit else followed))
        except OSError as error:
            raise SnapshotError(
                f"snapshot {folder} can't be written: {error.strerror or error}", "Free space, and export it again."
            ) from error

    def _write(self, folder: Path) -> None:
        arrays = {f"history.{name}": getattr(self.histories, name) for name in Histories.__dataclass_fields__}
        for relation, edges in self.facts.items():
            arrays[f"facts.{relation}"] = np.stack([edges.head, edges.tail])
        tables = {
            "users": pa.table({"id": self.users.array}),
            "products": self.catalogue.add_column(0, "id", self.products.array),
            "nodes": self.nodes,
        }
        for name, array in arrays.items():
            with (folder / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                _flush(file.fileno())
        for name, table in tables.items():
            with pa.OSFile(str(folder / f"{name}.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table.combine_chunks())
        manifest = SnapshotManifest(
            schema_version=SCHEMA_VERSION,
            content_hash=self.content_hash,
            as_of_ms=self.as_of_ms,
            counts=self.counts,
            relations=list(self.facts),
            files={path.name: _digest(path) for path in sorted(folder.iterdir())},
            commit=self.commit,
            events_commit=self.events_commit,
        )
        _write_manifest(folder, manifest)

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> Self:
        """Open a saved snapshot, memory-mapped.

        Args:
            folder: what `save` wrote.
            verify: read every file once and compare its digest with the manifest's.

        Raises:
            SnapshotError: it is not there, damaged, or of another schema version.
        """
        for _ in range(_TIMES):
            which = _identity(folder)
            try:
                snapshot = cls._open(folder, verify)
            except SnapshotError:
                if _identity(folder) == which:
                    raise
            else:
                if _identity(folder) == which:
                    return snapshot
        raise SnapshotError(f"snapshot {folder} was put anew again and again while it was opened", "Open it again.")

    @classmethod
    def _open(cls, folder: Path, verify: bool) -> Self:
        manifest = _read_manifest(folder)
        if verify:
            for name, expected in manifest.files.items():
                path = folder / name
                if not path.is_file() or _digest(path) != expected:
                    state = "is damaged" if path.is_file() else "is missing"
                    raise SnapshotError(f"snapshot {folder}: file {name} {state}", "Export the snapshot again.")
        try:
            history = {name: _map_array(folder / f"history.{name}.npy") for name in Histories.__dataclass_fields__}
            facts = {}
            for relation in manifest.relations:
                pair = _map_array(folder / f"facts.{relation}.npy")
                facts[relation] = Edges(pair[0], pair[1])
            users, products, nodes = (_map_table(folder / f"{name}.arrow") for name in ("users", "products", "nodes"))
        except (OSError, ValueError, pa.ArrowInvalid) as error:
            raise SnapshotError(f"snapshot {folder} is damaged: {error}", "Export the snapshot again.") from error
        return cls(
            users=Vocabulary(users["id"].combine_chunks()),
            products=Vocabulary(products["id"].combine_chunks()),
            catalogue=products.drop_columns(["id"]),
            nodes=nodes,
            histories=Histories(**history),
            facts=facts,
            as_of_ms=manifest.as_of_ms,
            content_hash=manifest.content_hash,
            commit=manifest.commit,
            events_commit=manifest.events_commit,
        )


def _identity(folder: Path) -> tuple[int, int, int] | None:
    """Return which folder a path is: another takes its place when a user is erased (see `kg.redaction`).

    When it last changed is part of it: one that has gone away and come back meanwhile was moved, and that is a change.
    """
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_ctime_ns


def _read_manifest(folder: Path) -> SnapshotManifest:
    path = folder / MANIFEST
    if not path.is_file():
        raise SnapshotError(f"{folder} is not a snapshot: it has no {MANIFEST}", "Make one: kgrank snapshot --help")
    try:
        raw: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = raw["schema_version"]
        if version != SCHEMA_VERSION:
            raise SnapshotError(
                f"snapshot {folder} has schema version {version}; this kgrank reads {SCHEMA_VERSION}",
                "Export the snapshot again with this version of kgrank.",
            )
        return SnapshotManifest(**raw)
    except (ValueError, TypeError, KeyError) as error:
        raise SnapshotError(f"snapshot {folder}: {MANIFEST} is damaged", "Export the snapshot again.") from error


def _write_manifest(folder: Path, manifest: SnapshotManifest) -> None:
    """Write a manifest, in one step: whoever opens the snapshot meanwhile finds the old one or this one."""
    partial = folder / f".{MANIFEST}"
    with partial.open("w", encoding="utf-8") as text_file:
        # Versions that know nothing of a second commit can open what has none.
        said = {name: value for name, value in asdict(manifest).items() if value is not None}
        json.dump(said, text_file, indent=2, ensure_ascii=False)
        text_file.flush()
        _flush(text_file.fileno())
    partial.replace(folder / MANIFEST)


def _map_array(path: Path) -> npt.NDArray[Any]:
    # numpy parses a header as Python, which before CPython 3.11.8 two threads must not do at once (gh-106905): garbage
    # that is collected in the midst of it lets the other one in, and one of them ends with a SystemError.
    with _PARSING:
        mapped: npt.NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped


def _map_table(path: Path) -> pa.Table:
    return pa.ipc.open_file(pa.memory_map(str(path), "r")).read_all()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _flush(descriptor: int) -> None:
    os.fsync(descriptor)
