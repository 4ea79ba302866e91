"""The models in the artifacts folder, and which of them are in service."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kg.errors import KgrankError
from kg.latest import latest_in
from kg.snapshot import MANIFEST as SNAPSHOT_MANIFEST
from kg.whole_files import write_whole
from model.artifact import Artifact, ArtifactManifest, load_artifact, read_manifest
from server.errors import ModelRefusedError, UnknownModelError
from server.traffic import Traffic, read_traffic

ACTIVE = "ACTIVE"


@dataclass(frozen=True)
class ModelFolder:
    """A folder of artifacts, each in a folder named by its model version; `ACTIVE` says which are in service.

    Args:
        folder: where the artifacts are.
        chosen: the version to start with, instead of the one that `ACTIVE` or another server's last switch names.
    """

    folder: Path
    chosen: str | None = None

    def manifests(self) -> list[ArtifactManifest]:
        """Return what every readable artifact says of itself, newest first."""
        if not self.folder.is_dir():
            return []
        found = []
        for path in self.folder.iterdir():
            if path.is_dir() and not path.name.startswith("."):
                try:
                    manifest = read_manifest(path)
                except (KgrankError, OSError):
                    continue  # another version's, half removed or not ours: it can't be served, so it isn't listed
                if manifest.model_version == path.name:
                    found.append(manifest)
        return sorted(found, key=lambda manifest: (-manifest.created_at_ms, manifest.model_version))

    def load(self, model_version: str) -> Artifact:
        """Load an artifact, checked.

        Raises:
            UnknownModelError: there is none of this version.
            ModelRefusedError: it is damaged, or its folder has another name than its version.
        """
        # The version is a name out of a request: only one that the folder lists may become a path.
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if model_version not in names or model_version.startswith("."):
            raise UnknownModelError(f"there is no model {model_version}", "ListModels names those that there are.")
        try:
            artifact = load_artifact(self.folder / model_version)
        except KgrankError as error:
            raise ModelRefusedError(
                f"model {model_version} can't be loaded: {error.problem.splitlines()[0]}", error.remedy
            ) from error
        except OSError as error:
            raise ModelRefusedError(
                f"model {model_version} can't be read: {error.strerror}", "Let this server read its folder."
            ) from error
        own_name = artifact.manifest.model_version
        if own_name != model_version:
            raise ModelRefusedError(
                f"the folder {model_version} has model {own_name}, and an artifact's folder is named by its version",
                f"Name the folder {own_name}, or remove it where that is there already.",
            )
        return artifact

    @property
    def active(self) -> str | None:
        """The version to start with; None where there is no model."""
        traffic = self.traffic
        return None if traffic is None else traffic.active

    @property
    def traffic(self) -> Traffic | None:
        """What to start with: the chosen version, what was in service last, the newest; None without any model.

        Where the active model of what was in service last is gone, it is the one before it that is still there.
        """
        if self.chosen is not None:
            return Traffic(self.chosen)
        last = self._noted()
        while last is not None and not (self.folder / last.active).is_dir():
            last = last.rolled_back()
        if last is not None:
            return last
        manifests = self.manifests()
        return Traffic(manifests[0].model_version) if manifests else None

    @property
    def lost(self) -> str | None:
        """Why a start can't serve what was in service last; None where it can, or where nothing was."""
        noted = self._noted()
        if noted is None:
            return f"{ACTIVE} is damaged" if (self.folder / ACTIVE).is_file() else None
        gone = self.lacking(noted.versions)
        if not gone:
            return None
        which = f"model {gone[0]}, which is" if len(gone) == 1 else f"models {', '.join(gone)}, which are"
        return f"{ACTIVE} names {which} not there"

    def lacking(self, versions: Iterable[str]) -> list[str]:
        """Return those of some versions that have no folder here."""
        return [version for version in versions if not (self.folder / version).is_dir()]

    def returning(self) -> list[ArtifactManifest]:
        """Return the models that are noted as in service, and those before, where rolling back leads."""
        noted = replace(self, chosen=None).traffic
        versions = () if noted is None else (*noted.versions, *noted.before)
        return [each for each in self.manifests() if each.model_version in versions]

    def _noted(self) -> Traffic | None:
        """Return what `ACTIVE` says; None where it is not there, or damaged."""
        try:
            return read_traffic((self.folder / ACTIVE).read_text(encoding="utf-8-sig"))
        except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError):
            return None

    def note(self, traffic: Traffic) -> None:
        """Remember what is in service, so that a restart serves the same; whole or not at all."""
        write_whole(self.folder / ACTIVE, f"{traffic.as_json()}\n".encode())


def snapshot_folder_for(snapshots: Path, manifest: ArtifactManifest) -> Path | None:
    """Return the folder of the snapshot that a model was trained on, else of the latest one; None where none is."""
    named = latest_in(snapshots)
    trained_on = snapshot_with_hash(snapshots, manifest.snapshot_hash)
    if trained_on is not None:
        return trained_on
    return named if named is not None and named.is_dir() else None


def snapshot_with_hash(snapshots: Path, content_hash: str) -> Path | None:
    """Return the folder of the snapshot with a content hash; None where there is none."""
    return next((folder for folder, found, _ in _snapshots(snapshots) if found == content_hash), None)


def oldest_as_of_ms(snapshots: Path, manifests: Sequence[ArtifactManifest]) -> int | None:
    """Return the moment up to which each snapshot of some models reaches; None where there is none."""
    found, trained_on = list(_snapshots(snapshots)), {manifest.snapshot_hash for manifest in manifests}
    latest = latest_in(snapshots) if trained_on - {content_hash for _, content_hash, _ in found} else None
    served = [as_of_ms for folder, content_hash, as_of_ms in found if content_hash in trained_on or folder == latest]
    return min(served, default=None)


def _snapshots(snapshots: Path) -> Iterator[tuple[Path, str, int]]:
    """Yield folder, content hash and `as_of_ms` of every snapshot whose manifest can be read."""
    for path in sorted(snapshots.glob(f"[!.]*/{SNAPSHOT_MANIFEST}")):
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
            found = (path.parent, str(manifest["content_hash"]), int(manifest["as_of_ms"]))
        except (OSError, ValueError, KeyError, TypeError):
            continue  # a damaged one is none that could be served
        yield found
