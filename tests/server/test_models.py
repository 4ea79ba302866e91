import asyncio
import errno
import json
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kgrank.client import Client, event
from kgrank.errors import RefusedError
from kgrank.v1 import common_pb2
from model.artifact import ArtifactManifest, read_manifest
from model.errors import ModelError
from server.errors import ModelRefusedError
from server.models import ACTIVE, ModelFolder
from server.search.finder import Finder
from server.traffic import Share, Traffic
from tests.server.running import running
from tests.server.shop import Shop
from tests.waiting import until


def test_models_are_listed_newest_first_in_pages(client: Client, shop: Shop) -> None:
    everything = client.list_models().models
    assert {model.name for model in everything} == {f"models/{version}" for version in shop.versions}
    created = [model.create_time.ToMilliseconds() for model in everything]
    assert created == sorted(created, reverse=True)
    first = client.list_models(page_size=1)
    second = client.list_models(page_size=1, page_token=first.next_page_token)
    assert [*first.models, *second.models] == list(everything)
    assert not second.next_page_token
    assert sum(model.active for model in everything) == 1
    assert "validation_ndcg@10" in everything[0].metrics
    assert everything[0].snapshot_hash == shop.snapshot.content_hash


def test_an_activated_model_answers_and_is_served_after_a_restart(home: Path, shop: Shop) -> None:
    with running(home) as server, Client(server.target) as client:
        before = client.recommend("user-01")
        other = next(version for version in shop.versions if version != before.model_version)
        client.write_event(event("user-01", "product-02", event_id="before-the-swap"))
        assert client.activate_model(f"models/{other}").active
        after = client.recommend("user-01")
        assert after.model_version == other
    with running(home) as server, Client(server.target) as client:
        assert client.recommend("user-01").model_version == other
        assert client.recommend("user-01").user_state == common_pb2.USER_STATE_WARM


def test_no_call_fails_while_models_are_swapped(home: Path, shop: Shop) -> None:
    with running(home) as server:
        swapped = threading.Event()
        versions: set[str] = set()
        failures: list[Exception] = []

        def ask() -> None:
            with Client(server.target) as client:
                while not swapped.is_set():
                    try:
                        versions.add(client.recommend("user-02").model_version)
                    except Exception as error:
                        failures.append(error)

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        with Client(server.target) as client:
            for version in (*shop.versions, *shop.versions):
                client.activate_model(f"models/{version}")
        swapped.set()
        for thread in asking:
            thread.join()
    assert not failures
    assert versions == set(shop.versions)


def test_events_written_while_a_model_is_loaded_are_in_its_answers(home: Path, shop: Shop) -> None:
    with running(home) as server, Client(server.target) as client:
        swapping = threading.Thread(target=client.activate_model, args=(f"models/{shop.versions[0]}",))
        swapping.start()
        for number in range(8):
            client.write_event(event("busy", f"product-{number:02}"))
        swapping.join()
        answer = client.recommend("busy", k=90)
    assert answer.user_state == common_pb2.USER_STATE_WARM
    assert len(answer.results) == 82


def test_a_model_of_another_catalogue_is_refused_and_the_old_one_serves_on(home: Path) -> None:
    from kg.freeze import freeze
    from tests.server.shop import tables, train_shortly

    stranger = train_shortly(home / "artifacts", freeze(tables(60, prefix="other")), seed=3)
    with running(home) as server, Client(server.target) as client:
        # The newest is the stranger, and refused at the start; there is no snapshot that suits it.
        version = next(model.model_version for model in client.list_models().models if model.model_version != stranger)
        client.activate_model(f"models/{version}")
        with pytest.raises(RefusedError) as refused:
            client.activate_model(f"models/{stranger}")
        assert "knows 0 of the 90 products" in refused.value.message
        assert client.recommend("user-01").model_version == version


def test_a_product_that_joined_after_training_is_ranked_and_explained(home: Path) -> None:
    from kg.freeze import freeze
    from tests.server.shop import tables, train_shortly

    earlier = train_shortly(home / "artifacts", freeze(tables(60)), seed=4)
    with running(home) as server, Client(server.target) as client:
        client.activate_model(f"models/{earlier}")
        ranked = client.rank("user-01", ["product-10", "product-80"])
        explained = client.explain("user-01", "product-80")
    assert {result.product_id for result in ranked.results} == {"product-10", "product-80"}
    assert not ranked.missing_ids
    assert explained.result.reasons  # by its brand, category or attribute


def test_a_damaged_model_is_refused(home: Path, shop: Shop) -> None:
    tensors = home / "artifacts" / shop.versions[0] / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-10] + b"0123456789")
    broken = home / "artifacts" / "broken"
    shutil.copytree(home / "artifacts" / shop.versions[1], broken)
    manifest = json.loads((broken / "manifest.json").read_text())
    (broken / "manifest.json").write_text(json.dumps(manifest)[:-20])
    (home / "artifacts" / "ACTIVE").write_text(shop.versions[1])
    with running(home) as server, Client(server.target) as client:
        for version in (shop.versions[0], "broken"):
            with pytest.raises(RefusedError, match="damaged"):
                client.activate_model(f"models/{version}")
        assert client.recommend("user-01").model_version == shop.versions[1]


def test_a_folder_that_can_not_be_read_is_passed_over_and_refused_by_name(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(home / "artifacts" / shop.versions[0], home / "artifacts" / "closed")

    def reading(folder: Path) -> ArtifactManifest:
        if folder.name == "closed":  # to root nothing is closed
            raise PermissionError(errno.EACCES, "Permission denied")
        return read_manifest(folder)

    for module in ("server.models", "model.artifact"):
        monkeypatch.setattr(f"{module}.read_manifest", reading)
    with running(home) as server, Client(server.target) as client:
        assert "models/closed" not in {model.name for model in client.list_models().models}
        with pytest.raises(RefusedError, match="model closed can't be read: Permission denied"):
            client.activate_model("models/closed")


def test_a_model_whose_encoder_is_not_here_is_refused(home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*given: object) -> Finder:
        raise ModelError("the encoder 'some/name' can't be loaded", "Put it into the cache.")

    with running(home) as server, Client(server.target) as client:
        active = client.recommend("user-01").model_version
        monkeypatch.setattr(Finder, "build", missing)
        other = next(version for version in shop.versions if version != active)
        with pytest.raises(RefusedError, match="the encoder 'some/name' can't be loaded"):
            client.activate_model(f"models/{other}")
        assert client.recommend("user-01").model_version == active


def test_how_a_shadow_differs_is_in_the_log_now_and_then_and_when_it_ends(
    home: Path, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("server.shadow._LOGGED_EVERY", 4)
    old, new = shop.versions
    with running(home) as server, Client(server.target) as client:
        client.activate_model(f"models/{old}")
        client.set_traffic({}, shadow=f"models/{new}")
        with capture_logs() as logged:
            for number in range(10):
                assert client.recommend(f"user-{number:02}", k=5).model_version == old
            until(lambda: client.get_traffic().shadow_comparison.answers == 10)
            measured = client.get_traffic().shadow_comparison
            client.set_traffic({})
    told = [line for line in logged if line["event"] == "shadow_compared"]
    assert len(told) == 3  # over 4, over 8, the end
    assert told[0]["answers"] < told[1]["answers"] <= told[2]["answers"]
    means = {
        name: pytest.approx(getattr(measured, name), abs=1e-4)
        for name in ("overlap", "rank_correlation", "score_difference", "latency_ms")
    }
    expected = {"event": "shadow_compared", "log_level": "info", "model_version": new, "answers": 10, "skipped": 0}
    assert told[-1] == expected | means  # and nothing of a person


def test_a_swap_whose_caller_leaves_is_finished_whole(home: Path, shop: Shop) -> None:
    from kgrank.v1.model_service_pb2 import ActivateModelRequest
    from server.config import ServeSettings
    from server.engine_loading import Places
    from server.journal import Journal
    from server.services.models import ModelService
    from server.serving import Serving
    from server.switch import Switch

    async def run() -> None:
        models, journal = ModelFolder(home / "artifacts"), Journal(home / "journal.db")
        serving = Serving(ServeSettings(), Places(models, home / "snapshots", home / "cache"))
        told = asyncio.Event()

        async def activated() -> None:
            told.set()

        service = ModelService(serving, models, Switch(serving, models, journal, activated))
        request = ActivateModelRequest(name=f"models/{shop.versions[0]}")
        context: Any = None
        call = asyncio.create_task(service.ActivateModel(request, context))
        await asyncio.sleep(0)
        call.cancel()
        swaps = asyncio.all_tasks() - {asyncio.current_task(), call}
        await asyncio.gather(call, *swaps, return_exceptions=True)
        assert call.cancelled()
        assert serving.active == shop.versions[0]
        assert told.is_set()
        serving.close()
        journal.close()

    asyncio.run(run())
    assert ModelFolder(home / "artifacts").traffic == Traffic(shop.versions[0])


def test_damaged_snapshots_beside_a_model_s_own_are_passed_over(home: Path, shop: Shop) -> None:
    from model.artifact import read_manifest
    from server.models import oldest_as_of_ms, snapshot_folder_for

    snapshots = home / "snapshots"
    own = snapshots / shop.snapshot.content_hash[:12]
    for name, manifest in ((".partial", "{"), ("0-damaged", "{"), ("0-list", "[]"), ("0-bare", "{}")):
        (snapshots / name).mkdir()
        (snapshots / name / "manifest.json").write_text(manifest)
    (snapshots / "0-binary").mkdir()
    (snapshots / "0-binary" / "manifest.json").write_bytes(b"\xff")
    shutil.copytree(own, snapshots / ".0-own")
    assert snapshot_folder_for(snapshots, read_manifest(home / "artifacts" / shop.versions[0])) == own
    models = ModelFolder(home / "artifacts").manifests()
    assert oldest_as_of_ms(snapshots, models) == shop.snapshot.as_of_ms
    assert oldest_as_of_ms(home / "nowhere", models) is None


def test_a_folder_that_is_named_otherwise_than_its_model_is_passed_over_and_refused(home: Path, shop: Shop) -> None:
    version = shop.versions[0]
    models = ModelFolder(home / "artifacts")
    shutil.copytree(models.folder / version, models.folder / "copy")
    assert {each.model_version for each in models.manifests()} == set(shop.versions)
    assert len(models.manifests()) == len(shop.versions)
    with pytest.raises(ModelRefusedError, match=f"the folder copy has model {version}") as refused:
        models.load("copy")
    assert refused.value.remedy.startswith(f"Name the folder {version}")


def test_where_the_active_model_is_gone_the_one_before_it_is_served(home: Path, shop: Shop) -> None:
    old, new = shop.versions
    models = ModelFolder(home / "artifacts")
    models.note(Traffic("gone", (Share(new, 5.0),), None, ("older", old, "gone-too"), 57))
    assert models.traffic == Traffic(old, before=("older",))
    assert models.traffic.commit == 0  # of the switch to what is gone it is yet to hear
    assert models.lost == "ACTIVE names model gone, which is not there"
    models.note(Traffic(old, (Share("gone", 5.0),), "gone-too"))
    assert models.lost == "ACTIVE names models gone, gone-too, which are not there"
    models.note(Traffic("gone"))
    assert models.active == new
    models.note(Traffic(old))
    assert models.active == old
    assert models.lost is None


@pytest.mark.parametrize("written", [b"\xff", b"{", b"g\xff", b""])
def test_a_damaged_note_of_the_active_model_is_told_and_the_newest_is_served(
    home: Path, shop: Shop, written: bytes
) -> None:
    (home / "artifacts" / ACTIVE).write_bytes(written)
    models = ModelFolder(home / "artifacts")
    assert {each.model_version for each in models.returning()} == {shop.versions[1]}
    with capture_logs() as logged, running(home) as server:
        assert server.server.active == shop.versions[1]
    told = [each for each in logged if each["event"] == "active_missing"]
    assert [(each["reason"], each["begins_with"]) for each in told] == [("ACTIVE is damaged", shop.versions[1])]


def test_a_note_that_an_editor_began_with_a_mark_is_read(home: Path, shop: Shop) -> None:
    (home / "artifacts" / ACTIVE).write_bytes(b"\xef\xbb\xbf" + shop.versions[0].encode())
    assert ModelFolder(home / "artifacts").active == shop.versions[0]
