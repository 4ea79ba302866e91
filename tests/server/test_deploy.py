"""What stands under deploy/: checked by its own tools where they can be had, and against what the server really has."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from server.config import Settings, load_settings
from server.watch.metrics import Metrics

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "up"}
GAUGE = re.compile(r'yield "(\w+)"')


def run(*command: object, **more: Any) -> "subprocess.CompletedProcess[str]":
    done = subprocess.run(
        [str(each) for each in command], capture_output=True, text=True, timeout=120, check=False, **more
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def tool(name: str) -> str:
    """Return where a tool is that no Python package brings."""
    found = shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def metrics() -> set[str]:
    """Return the name of every series that the server has."""
    counted = {
        f"{family.name}{end}"
        for family in Metrics().registry.collect()
        for end in ("", "_total", "_bucket", "_sum", "_count")
    }
    looked_up = {f"kgrank_{name}" for name in GAUGE.findall((ROOT / "server/watch/state.py").read_text())}
    return counted | looked_up | PROCESS


def alerts() -> list[dict[str, Any]]:
    told = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())
    return [rule for group in told["groups"] for rule in group["rules"]]


def board_queries() -> list[str]:
    board = json.loads((DEPLOY / "grafana" / "kgrank.json").read_text())
    return [target["expr"] for panel in board["panels"] for target in panel.get("targets", ())]


def series(query: str) -> set[str]:
    """Return the metrics that a query reads; fails where it is no PromQL."""
    plain = query.replace("$__rate_interval", "5m")
    promql_parser.parse(plain)
    return set(re.findall(r"\b(?:kgrank_\w+|process_\w+|up(?=\{))", re.sub(r'"[^"]*"', '""', plain)))


def test_every_yaml_file_is_well_formed() -> None:
    run(BIN / "yamllint", "-s", "-c", DEPLOY / ".yamllint", DEPLOY)


def test_the_image_s_recipe_passes_its_linter() -> None:
    run(BIN / "hadolint", DEPLOY / "Dockerfile")


def test_the_image_runs_as_nobody_in_particular_and_writes_to_its_volume_alone() -> None:
    recipe = (DEPLOY / "Dockerfile").read_text()
    assert re.search(r"^USER 10001:10001$", recipe, re.MULTILINE)
    assert "KGRANK_HOME=/data" in recipe
    for copied in re.findall(r"^COPY (?!--)([^\n]+) \S+$", recipe, re.MULTILINE):
        for name in copied.split():
            assert (ROOT / name).exists(), name
            assert f"!{name}" in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines()


def test_the_compose_file_is_one() -> None:
    run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")
    told = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    published = [port for service in told["services"].values() for port in service.get("ports", ())]
    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)
    server = told["services"]["kgrank"]
    assert (server["read_only"], server["cap_drop"]) == (True, ["ALL"])


def test_the_compose_file_s_settings_are_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    server = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["kgrank"]
    recipe = dict(re.findall(r"(KGRANK_\w+)=(\S+)", (DEPLOY / "Dockerfile").read_text()))
    for name, value in (recipe | server["environment"]).items():
        monkeypatch.setenv(name, value)
    settings = load_settings()
    assert settings.serve.insecure_anywhere
    assert settings.serve.access.required
    assert settings.serve.watch.metrics_port == 9464
    # A name that nothing reads would be passed over in silence.
    for name in recipe | server["environment"]:
        first, *rest = name.removeprefix("KGRANK_").lower().split("__")
        assert first in Settings.model_fields or first.startswith("neo4j_"), name
        assert not rest or hasattr(getattr(settings, first), rest[0]), name


@pytest.mark.parametrize("layer", ["base", "overlays/cuda"])
def test_kubernetes_would_take_the_manifests(layer: str, tmp_path: Path) -> None:
    kubectl = tool("kubectl")
    made = tmp_path / "made.yaml"
    made.write_text(run(kubectl, "kustomize", DEPLOY / "kustomize" / layer).stdout)
    run(BIN / "kubernetes-validate", "--strict", made)
    kinds = {each["kind"]: each for each in yaml.safe_load_all(made.read_text())}
    assert {"StatefulSet", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Service"} <= set(kinds)


def manifests() -> dict[str, Any]:
    files = (DEPLOY / "kustomize" / "base").glob("*.yaml")
    return {
        f"{each['kind']} {each['metadata']['name']}": each
        for file in files
        for each in yaml.safe_load_all(file.read_text())
        if "metadata" in each
    }


def test_a_pod_is_probed_and_may_do_nothing_that_it_need_not() -> None:
    pod = manifests()["StatefulSet kgrank"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)
    assert "memory" in container["resources"]["limits"]
    assert {each["name"] for each in container["volumeMounts"]} <= {each["name"] for each in pod["volumes"]} | {"home"}


def test_autoscaling_follows_a_metric_that_the_server_has() -> None:
    (metric,) = manifests()["HorizontalPodAutoscaler kgrank"]["spec"]["metrics"]
    assert metric["pods"]["metric"]["name"] in metrics()


def test_the_manifests_settings_are_settings_and_safe_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.access.exposure import refuse_exposure

    monkeypatch.chdir(tmp_path)
    serve = load_settings(DEPLOY / "kustomize" / "base" / "kgrank.toml").serve
    refuse_exposure(serve)
    assert serve.production


def test_a_server_leaves_when_nobody_is_connected_any_more() -> None:
    serve = load_settings(DEPLOY / "kustomize" / "base" / "kgrank.toml").serve
    pod = manifests()["StatefulSet kgrank"]["spec"]["template"]["spec"]
    lives_on_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 0 < 1.1 * serve.connection_age_s < lives_on_s  # gRPC spreads ages by a tenth
    # Twice: for calls, and for what is journalled.
    assert pod["terminationGracePeriodSeconds"] > lives_on_s + 2 * serve.drain_s


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_reads_what_there_is_and_is_explained(alert: dict[str, Any]) -> None:
    assert series(alert["expr"]) <= metrics()
    assert f"### {alert['alert']}\n" in (ROOT / "docs" / "operations.md").read_text()
    assert f"alertname: {alert['alert']}\n" in (DEPLOY / "prometheus" / "alerts_test.yml").read_text()


def test_the_alerts_pass_prometheus_own_tool() -> None:
    promtool = tool("promtool")
    for command in (
        ["check", "rules", "alerts.yml"],
        ["test", "rules", "alerts_test.yml"],
        ["check", "config", "prometheus.yml"],
    ):
        run(promtool, *command, cwd=DEPLOY / "prometheus")


def test_the_board_reads_what_there_is() -> None:
    assert all(series(query) for query in board_queries())
    assert {name for query in board_queries() for name in series(query)} <= metrics()


def test_the_board_has_each_panel_once_and_none_over_another() -> None:
    panels = json.loads((DEPLOY / "grafana" / "kgrank.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
