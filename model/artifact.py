"""Artifacts: a trained model on disk, and what it was made of. safetensors, Arrow and JSON; no pickle anywhere.

    <artifacts>/<model version>/manifest.json      what, of what, when, how good; digests of the files
                                tensors.safetensors  network, product matrix, text component
                                ids.arrow            product ids and the keys of all graph nodes
                                encoder/             the text encoder, where it is a folder: a fine-tuned one, say

Loading checks schema version, digests, names and shapes before anything is used. The same seed on the same machine
gives the same `tensors.safetensors`; the model version is its digest and the snapshot's.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from kg.snapshot import Snapshot
from kg.tables import CODES
from kg.vocabulary import Vocabulary
from model.abandoned import clear_abandoned
from model.borrowing import Loans
from model.config import ModelConfig, TrainConfig
from model.errors import ArtifactError
from model.finetune.store import MANIFEST as ENCODER_MANIFEST
from model.finetune.store import link_files
from model.network import RankingNetwork
from model.popularity import ProductStatistics
from model.scorer import Blend, TextKernel, TrainedModel
from model.scoring import POPULARITY
from model.splits import Split
from model.stored_neighbours import neighbours_from, tensors_of, with_prefix
from model.text import own_folder
from model.train import Trained

SCHEMA_VERSION = 4
READABLE_VERSIONS = (2, 3, 4)
"""Before 3, no product was told from one that training had met; before 4, those that were borrowed nothing."""
MANIFEST = "manifest.json"
TENSORS = "tensors.safetensors"
IDS = "ids.arrow"
ENCODER = "encoder"
INSIDE = f"./{ENCODER}"
"""What a manifest calls the encoder that stands in the artifact itself."""
_PARTIAL = ".artifact."
_BY_TYPE = ("history.type_bias", "history.type_embedding")
_LOANS = ("newcomer", "lender", "weight")
_PACKAGES = ("kgrank", "numpy", "safetensors", "torch", "torch-geometric", "transformers")
_AGAIN = "Train again: kgrank train"


@dataclass(frozen=True)
class ArtifactManifest:
    """What `manifest.json` says.

    Args:
        schema_version: of the artifact's files.
        model_version: date and short digest of what was trained; the artifact's name.
        created_at_ms: when.
        snapshot_hash: the snapshot it was trained on.
        as_of_ms: nothing later is in that snapshot.
        split: protocol of the split; what was held back from training.
        config: model and training settings.
        blend: weights of the score's components.
        relation_weights: how much each relation counts.
        metrics: `validation_ndcg@10`, `best_epoch`, and the course of training.
        packages: versions it was made with.
        digests: blake2b of each file.
    """

    schema_version: int
    model_version: str
    created_at_ms: int
    snapshot_hash: str
    as_of_ms: int
    split: dict[str, Any]
    config: dict[str, Any]
    blend: dict[str, float]
    relation_weights: dict[str, float]
    metrics: dict[str, Any]
    packages: dict[str, str]
    digests: dict[str, str]


@dataclass(frozen=True)
class Artifact:
    """A loaded artifact.

    Args:
        manifest: what it is.
        products: the ids of the rows of `scorer.matrix`.
        scorer: the model.
        node_keys: the ids of the network's id embeddings, across snapshots (`model.product_graph`).
        kernel: the text component, for products that joined later.
    """

    manifest: ArtifactManifest
    products: Vocabulary
    scorer: TrainedModel
    node_keys: Vocabulary
    kernel: TextKernel

    @property
    def relation_weights(self) -> Mapping[str, float]:
        """How much each relation counts, for reasons."""
        return self.manifest.relation_weights


def save_artifact(
    artifacts: Path, snapshot: Snapshot, split: Split, trained: Trained, train_config: TrainConfig
) -> Path:
    """Write an artifact into a new folder below `artifacts`, in one step, and return that folder.

    Raises:
        ArtifactError: it can't be written (a full disk, say); nothing is left behind.
    """
    network = trained.model.network
    tensors = {
        f"network.{member}.{name}": value
        for member, each in enumerate(trained.model.networks)
        for name, value in each.state_dict().items()
    }
    tensors |= {f"neighbours.{name}": value for name, value in tensors_of(trained.model.neighbours).items()}
    matrix = trained.model.matrix.clone()
    own = torch.from_numpy(trained.model.statistics.popularity)  # not what is borrowed, which the loans say
    matrix[:, trained.model.blocks[POPULARITY]] = own[:, None]
    tensors |= {"matrix": matrix, "kernel.mean": trained.kernel.mean, "kernel.axes": trained.kernel.axes}
    tensors["rebuy"] = torch.from_numpy(trained.model.statistics.rebuy)
    if trained.model.loans is not None:
        tensors |= {f"loans.{name}": torch.from_numpy(getattr(trained.model.loans, name)) for name in _LOANS}
    now = datetime.now(UTC)
    partial: Path | None = None
    try:
        artifacts.mkdir(parents=True, exist_ok=True)
        clear_abandoned(artifacts, _PARTIAL)
        partial = Path(tempfile.mkdtemp(prefix=_PARTIAL, dir=artifacts))
        save_file({name: value.contiguous() for name, value in tensors.items()}, partial / TENSORS)
        ids = pa.table({"key": trained.graph.keys.array})
        with pa.OSFile(str(partial / IDS), "wb") as sink, pa.ipc.new_file(sink, ids.schema) as writer:
            writer.write_table(ids)
        digests = {name: _digest(partial / name) for name in (TENSORS, IDS)}
        model = network.config.model_dump(mode="json")
        if encoder := own_folder(network.config.text):
            link_files(encoder, partial / ENCODER)
            model["text"]["encoder"] = INSIDE
            digests |= {
                f"{ENCODER}/{path.name}": _digest(path)
                for path in sorted((partial / ENCODER).iterdir())
                if path.name != ENCODER_MANIFEST  # it tells how long the run took
            }
        described: dict[str, Any] = {
            "snapshot": snapshot.content_hash,
            "digests": digests,
            "split": split.config.model_dump(mode="json"),
            "config": {"model": model, "train": train_config.model_dump(mode="json")},
            "blend": trained.model.blend.as_dict(),
        }
        identity = hashlib.blake2b(json.dumps(described, sort_keys=True).encode(), digest_size=4).hexdigest()
        manifest = ArtifactManifest(
            schema_version=SCHEMA_VERSION,
            model_version=f"{now:%Y%m%d}-{identity}",
            created_at_ms=int(now.timestamp() * 1000),
            snapshot_hash=snapshot.content_hash,
            as_of_ms=snapshot.as_of_ms,
            split=described["split"],
            config=described["config"],
            blend=described["blend"],
            relation_weights=trained.model.relation_weights(),
            metrics={
                "validation_ndcg@10": trained.validation_ndcg,
                "best_epoch": trained.best_epoch,
                "epochs": [asdict(record) for record in trained.records],
            },
            packages={name: metadata.version(name) for name in _PACKAGES},
            digests=digests,
        )
        (partial / MANIFEST).write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False), encoding="utf-8")
        for path in partial.rglob("*"):
            if path.is_file():
                _flush(path)
        folder = artifacts / manifest.model_version
        if folder.exists():  # the same model, trained again today
            shutil.rmtree(folder)
        partial.rename(folder)
    except (OSError, SafetensorError, pa.ArrowException) as error:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)
        raise ArtifactError(
            f"artifact in {artifacts} can't be written: {error}", "Free space or choose another folder."
        ) from error
    return folder


def load_artifact(folder: Path) -> Artifact:
    """Load an artifact, checked.

    Raises:
        ArtifactError: it is not there, damaged, of another schema version, or its parts don't fit together.
    """
    manifest = read_manifest(folder)
    for name, expected in manifest.digests.items():
        path = folder / name
        if not path.is_file() or _digest(path) != expected:
            state = "is damaged" if path.is_file() else "is missing"
            raise ArtifactError(f"artifact {folder}: file {name} {state}", _AGAIN)
    try:
        config = _with_encoder_in(folder, ModelConfig(**manifest.config["model"]))
        keys = Vocabulary(pa.ipc.open_file(pa.memory_map(str(folder / IDS))).read_all()["key"].combine_chunks())
        with safe_open(folder / TENSORS, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118  # not a mapping
        text_width = tensors["network.0.fusion.project.weight"].shape[1]
        networks: list[RankingNetwork] = []
        while weights := with_prefix(tensors, f"network.{len(networks)}."):
            networks.append(RankingNetwork(config, text_width, len(keys), list(manifest.relation_weights)))
            networks[-1].load_state_dict(_with_all_types(weights))
        kernel = TextKernel(tensors["kernel.mean"], tensors["kernel.axes"])
        products = Vocabulary(product_ids(keys)[: len(tensors["matrix"])])
        width = len(networks) * config.dimension
        matrix = _checked(
            _with_newcomers(tensors["matrix"], manifest), (len(products), width + kernel.axes.shape[1] + 2)
        )
        _checked(kernel.axes, (text_width, kernel.axes.shape[1]))
        _checked(kernel.mean, (text_width,))
        graph, text, popularity, newcomer = torch.split(matrix, [width, kernel.axes.shape[1], 1, 1], dim=1)
        rebuy = _checked(tensors["rebuy"], (len(products),))
        statistics = ProductStatistics(
            popularity[:, 0].numpy().copy(), rebuy.numpy(), newcomer[:, 0].numpy().astype(np.bool_)
        )
        near = neighbours_from(with_prefix(tensors, "neighbours."), len(products), config.neighbours)
        scorer = TrainedModel(networks, graph, text, statistics, Blend(**manifest.blend), near)
        if manifest.schema_version > 3:
            scorer = scorer.with_loans(_loans_of(with_prefix(tensors, "loans."), statistics))
    except (
        SafetensorError,
        pa.ArrowException,
        ValidationError,
        ValueError,
        KeyError,
        TypeError,
        RuntimeError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"artifact {folder} does not fit together: {reason}", _AGAIN) from error
    return Artifact(manifest, products, scorer, keys, kernel)


def read_manifest(folder: Path) -> ArtifactManifest:
    """Read only what an artifact says of itself.

    Raises:
        ArtifactError: it is not there, damaged, or of another schema version.
    """
    path = folder / MANIFEST
    if not path.is_file():
        raise ArtifactError(f"{folder} is not an artifact: it has no {MANIFEST}", _AGAIN)
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema_version"] not in READABLE_VERSIONS:
            readable = " and ".join(map(str, READABLE_VERSIONS))
            raise ArtifactError(
                f"artifact {folder} has schema version {raw['schema_version']}; this kgrank reads {readable}",
                _AGAIN,
            )
        return ArtifactManifest(**raw)
    except (ValueError, KeyError, TypeError) as error:
        raise ArtifactError(f"artifact {folder}: {MANIFEST} is damaged", _AGAIN) from error


def product_ids(keys: Vocabulary) -> list[str]:
    """Return the product ids among the keys of graph nodes: the catalogue's first, then those that only facts name."""
    return [key.partition("\t")[2] for key in keys.array.to_pylist() if key.startswith("product\t")]


def _with_encoder_in(folder: Path, config: ModelConfig) -> ModelConfig:
    """Return the settings with the encoder of an artifact named by where it is."""
    if config.text.encoder != INSIDE:
        return config
    return config.model_copy(update={"text": config.text.model_copy(update={"encoder": str(folder / ENCODER)})})


def _loans_of(tensors: Mapping[str, Tensor], statistics: ProductStatistics) -> Loans | None:
    """Return of whom newcomers borrow; None where nobody does."""
    if not tensors:
        return None
    newcomer, lender, weight = (tensors[name].numpy() for name in _LOANS)
    count = len(statistics.newcomer)
    if not np.array_equal(newcomer, np.flatnonzero(statistics.newcomer)):
        raise ValueError("loans are not those of the newcomers")
    if lender.shape != weight.shape or len(lender) != len(newcomer):
        raise ValueError(f"loans of shape {lender.shape}, weights of {weight.shape}, for {len(newcomer)} newcomers")
    if lender.min(initial=0) < 0 or lender.max(initial=0) >= count or statistics.newcomer[lender].any():
        raise ValueError(f"loans are of others than the known among {count} products")
    return Loans(newcomer, lender, weight, count)


def _with_all_types(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a network's weights with zeros, as before training, for interaction types that have joined since."""
    return {
        name: F.pad(value, (0, 0, 0, max(len(CODES) - len(value), 0))) if name in _BY_TYPE else value
        for name, value in weights.items()
    }


def _with_newcomers(matrix: Tensor, manifest: ArtifactManifest) -> Tensor:
    """Return a product matrix with the column that says whom training had not met; before it was kept, with nobody."""
    return matrix if manifest.schema_version > 2 else F.pad(matrix, (0, 1))


def _checked(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tensor.shape != shape or tensor.dtype != torch.float32:
        raise ValueError(f"a tensor is {tensor.dtype} {tuple(tensor.shape)}, not float32 {shape}")
    return tensor


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
