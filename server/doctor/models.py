"""Is there a model, and does it fit the catalogue?"""

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from kg.errors import KgrankError
from server.doctor.findings import Finding, ok, problem, warning

if TYPE_CHECKING:
    from server.config import Settings

_DAY_S = 86_400


def check_models(settings: "Settings") -> Iterator[Finding]:
    """Load the model that a start would serve, with the snapshot that it would serve it with."""
    from kg.snapshot import Snapshot
    from kg.vocabulary import MISSING
    from server.engine import STALE_MS
    from server.engine_loading import LEAST_KNOWN
    from server.models import ModelFolder, snapshot_folder_for

    models = ModelFolder(settings.artifacts_folder)
    version = models.active
    if version is None:
        yield warning("models", f"there is no model in {models.folder}", "Train one: kgrank train")
        return
    if (lost := models.lost) is not None:
        remedy = "Copy its artifact here, or activate the model that is to be served: kgrank models activate"
        yield warning("models", f"{lost}: a start serves model {version}", remedy)
    try:
        artifact = models.load(version)
    except KgrankError as error:
        yield problem("models", error.problem, error.remedy or "Train another: kgrank train")
        return
    yield ok("models", f"model {version} is whole")
    folder = snapshot_folder_for(settings.snapshots_folder, artifact.manifest)
    if folder is None:
        yield problem("models", f"there is no snapshot to serve model {version} with", "Make one: kgrank snapshot")
        return
    try:
        snapshot = Snapshot.open(folder)
    except KgrankError as error:
        yield problem("models", error.problem, error.remedy or "Make another: kgrank snapshot")
        return
    known = int((artifact.products.indices(snapshot.products.array.to_pylist()) != MISSING).sum())
    share = known / max(1, len(snapshot.products))
    if artifact.manifest.snapshot_hash == snapshot.content_hash:
        yield ok("models", f"it was trained on snapshot {folder.name}, which it is served with")
    elif share < LEAST_KNOWN:
        yield problem(
            "models",
            f"it knows {known:,} of the {len(snapshot.products):,} products of snapshot {folder.name}, and is refused",
            "Train on that snapshot: kgrank train",
        )
    else:
        yield warning(
            "models",
            f"it is served with snapshot {folder.name}, of whose products it knows {share:.0%} from training",
            "Train on that snapshot when you can: kgrank train",
        )
    days = (time.time() - snapshot.as_of_ms / 1000) / _DAY_S
    if days * _DAY_S * 1000 > STALE_MS:
        yield warning(
            "models",
            f"the snapshot ends {days:,.0f} days ago: ranking happens at its last moment, not at the clock's",
            "Make a snapshot of newer data, and train on it.",
        )
