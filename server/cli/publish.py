"""`kgrank publish`: a model's product vectors and recommendations into the graph."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg.errors import ConfigError, MissingExtraError
from server.cli import console
from server.cli.app import Json, settings_of_whole

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa

    from kg.publish import Published
    from kg.snapshot import Snapshot
    from model.artifact import ArtifactManifest
    from model.score import Scorer
    from model.scoring import ScoringModel
    from server.config import Settings

_USERS_AT_ONCE = 1000
_K = 20
_KEEP = 2


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command("publish", epilog="Example: kgrank publish --k 20 --keep 2")(publish_model)


def publish_model(
    context: typer.Context,
    k: Annotated[
        int | None, typer.Option(help="Products recommended to each user.", min=1, max=1000, show_default=str(_K))
    ] = None,
    users: Annotated[Path | None, typer.Option(help="File with a user id a line.", show_default="all")] = None,
    keep: Annotated[
        int | None, typer.Option(help="Publications that stay, the new one included.", min=1, show_default=str(_KEEP))
    ] = None,
    artifact: Annotated[str | None, typer.Option(help="Model version.", show_default="the one in service")] = None,
    snapshot: Annotated[str | None, typer.Option(help="Name of the snapshot.", show_default="the model's own")] = None,
    activate: Annotated[str | None, typer.Option(help="Only make this publication the active one again.")] = None,
    remove: Annotated[str | None, typer.Option(help="Only remove this publication, not the active one.")] = None,
    json: Json = False,
) -> None:
    """Write RECOMMENDED relationships and product vectors; readers see the old or the new ones, never a mixture."""
    settings = settings_of_whole(context)
    publishing = {"--k": k, "--users": users, "--keep": keep, "--artifact": artifact}
    if remove is not None:
        _refuse(f"--remove {remove} only removes", publishing | {"--snapshot": snapshot, "--activate": activate})
        _remove(settings, remove, json)
        return
    if activate is not None:
        _refuse(f"--activate {activate} only switches", publishing)
        _activate(settings, activate, snapshot, json)
        return
    published = _publish(settings, k or _K, users, keep or _KEEP, artifact, snapshot)
    if json:
        console.emit_json(
            {
                "id": published.id,
                "recommendations": published.recommendations,
                "vectors": published.vectors,
                "removed": list(published.removed),
            }
        )
        return
    console.out.print(
        f"published {published.id}: {published.recommendations:,} recommendations, {published.vectors:,} vectors",
        markup=False,
    )
    if published.removed:
        console.say(f"removed: {', '.join(published.removed)}")


def _refuse(task: str, others: Mapping[str, object]) -> None:
    """Refuse options that would be passed over."""
    given = [f"{name} {value}" for name, value in others.items() if value is not None]
    if given:
        raise ConfigError(f"{task}: it does not take {', '.join(given)}", "Leave that out, or run it on its own.")


def _remove(settings: "Settings", publication: str, json: bool) -> None:
    from kg.publish import remove
    from kg.store import Graph

    with Graph.connect(settings.graph, settings.graph_folder, console.say) as graph:
        remove(graph, publication)
    if json:
        console.emit_json({"removed": [publication]})
    else:
        console.out.print(f"removed {publication}", markup=False)


def _activate(settings: "Settings", publication: str, snapshot: str | None, json: bool) -> None:
    # A model that was published more than once has a number after its version.
    _, model, data = _model(settings, publication.partition(".")[0], snapshot)
    from kg.publish import activate
    from kg.store import Graph

    with (
        Graph.connect(settings.graph, settings.graph_folder, console.say) as graph,
        console.meter("publishing", len(data.products)) as meter,
    ):
        vectors = activate(graph, publication, data.products.array, _vectors(model), meter)
    if json:
        console.emit_json({"id": publication, "vectors": vectors})
    else:
        console.out.print(f"{publication} is active, with {vectors:,} vectors", markup=False)


def _publish(
    settings: "Settings", k: int, users: Path | None, keep: int, artifact: str | None, snapshot: str | None
) -> "Published":
    manifest, model, data = _model(settings, artifact, snapshot)
    from kg.publish import publish
    from kg.store import Graph
    from model.score import Scorer
    from server.cli.user_list import read_users

    scorer = Scorer(manifest.model_version, model, data, k, exclude_seen=not manifest.split.get("repeats", False))
    asked: npt.NDArray[np.int64] | Sequence[str] = scorer.everybody if users is None else read_users(users)
    total = len(asked) * min(k, len(data.products)) + len(data.products)
    with (
        Graph.connect(settings.graph, settings.graph_folder, console.say) as graph,
        console.meter("publishing", total) as meter,
    ):
        return publish(
            graph,
            manifest.model_version,
            data.products.array,
            _vectors(model),
            _lists(scorer, asked),
            commit=data.commit,
            keep=keep,
            progress=meter,
        )


def _model(
    settings: "Settings", version: str | None, snapshot: str | None
) -> tuple["ArtifactManifest", "ScoringModel", "Snapshot"]:
    """Return a model, by default the one in service, over its own or the named snapshot."""
    try:
        from model.artifact import load_artifact
        from server.cli.stored import artifact_in_service, model_on, open_snapshot
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            f"publishing needs the package {error.name}", "pip install '.[train]' in kgrank's clone"
        ) from error
    loaded = load_artifact(artifact_in_service(settings, version))
    data = open_snapshot(settings, snapshot, loaded.manifest.snapshot_hash)
    return loaded.manifest, model_on(loaded, data, settings), data


def _vectors(model: "ScoringModel") -> "npt.NDArray[np.float32]":
    from model.scoring import GRAPH

    vectors: npt.NDArray[np.float32] = model.matrix[:, model.blocks[GRAPH]].numpy()
    return vectors


def _lists(scorer: "Scorer", users: "npt.NDArray[np.int64] | Sequence[str]") -> Iterator["pa.Table"]:
    for start in range(0, len(users), _USERS_AT_ONCE):
        yield scorer.table(users[start : start + _USERS_AT_ONCE])
