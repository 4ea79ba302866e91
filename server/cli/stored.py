"""What the home folder holds: the artifact and the snapshot that a command means. Needs torch."""

from pathlib import Path

from kg.errors import SnapshotError
from kg.latest import latest_in
from kg.snapshot import Snapshot
from model.artifact import Artifact
from model.errors import ArtifactError
from model.finetune.provenance import TunedElsewhereError, check_tuned_here
from model.product_graph import relations_not_there
from model.refresh import refresh
from model.scoring import ScoringModel
from server.cli import console
from server.config import Settings
from server.models import ModelFolder, snapshot_with_hash


def newest_artifact(settings: Settings, version: str | None) -> Path:
    """Return the folder of a model version, by default of the one trained last.

    Raises:
        ArtifactError: there is none.
    """
    manifests = ModelFolder(settings.artifacts_folder).manifests() if version is None else []
    return _artifact(settings, manifests[0].model_version if manifests else version)


def artifact_in_service(settings: Settings, version: str | None) -> Path:
    """Return the folder of a model version, by default of the one in service, or else the one trained last.

    Raises:
        ArtifactError: there is none.
    """
    return _artifact(settings, version or ModelFolder(settings.artifacts_folder).active)


def _artifact(settings: Settings, version: str | None) -> Path:
    folder = settings.artifacts_folder
    if version is None:
        raise ArtifactError(f"there is no model in {folder}", "Train one: kgrank train")
    # A version is a folder's name, never a path that leads out of it.
    if version != Path(version).name or not (folder / version).is_dir():
        there = ", ".join(manifest.model_version for manifest in ModelFolder(folder).manifests())
        raise ArtifactError(
            f"there is no model {version!r} in {folder}",
            f"There are: {there}." if there else "Train one: kgrank train",
        )
    return folder / version


def open_snapshot(settings: Settings, name: str | None, content_hash: str | None = None) -> Snapshot:
    """Open a snapshot: the named one, else the one with a content hash, else the latest.

    Raises:
        SnapshotError: there is none, or it is damaged.
    """
    folder = settings.snapshots_folder
    if name is not None:
        return Snapshot.open(folder / name)
    if content_hash is not None:
        found = snapshot_with_hash(folder, content_hash)
        if found is None:
            raise SnapshotError(
                f"the snapshot that the model was trained on ({content_hash[:12]}) is not in {folder}",
                "Name one with --snapshot, or train on one that is there.",
            )
        return Snapshot.open(found)
    latest = latest_in(folder)
    if latest is None:
        raise SnapshotError(f"there is no snapshot in {folder}", "Make one: kgrank snapshot")
    return Snapshot.open(latest)


def tell_if_tuned_elsewhere(settings: Settings, snapshot: Snapshot) -> None:
    """Say so where the text encoder was fine-tuned on another snapshot or split: what is measured with it flatters.

    A model of today's snapshot with the encoder of last month's is none the worse for it, so that this is no error.

    Raises:
        ModelError: the encoder is damaged.
    """
    try:
        check_tuned_here(settings.model.text, snapshot.content_hash, settings.split)
    except TunedElsewhereError as error:
        console.say(f"{error.problem}; validation NDCG@10 will flatter, and kgrank evaluate refuses the model")


def tell_if_relations_are_not_there(settings: Settings, snapshot: Snapshot) -> None:
    """Say which relations that the model must not see the snapshot does not have: a name may be mistaken."""
    if names := relations_not_there(snapshot, settings.model.exclude_relations):
        there = ", ".join(snapshot.facts)
        console.say(f"model.exclude_relations: the snapshot has no {', '.join(names)}; it has {there}")


def model_on(artifact: Artifact, snapshot: Snapshot, settings: Settings) -> ScoringModel:
    """Return an artifact's model over a snapshot's products, made anew where the snapshot is another one."""
    if artifact.manifest.snapshot_hash == snapshot.content_hash:
        return artifact.scorer
    with console.meter("bringing the model to the snapshot") as meter:
        return refresh(artifact, snapshot, settings.cache_folder, meter.advance)
