"""What stands under deploy/: checked by its own tools where they can be had, and against what the server really has."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from server.cli.asking import own_address
from server.config import ServeSettings, load_settings
from server.watch.metrics import Metrics
from tests.server.certificates import Authority
from tests.server.command import CommandLine, kgrank
from tests.server.running import running

__all__ = ["kgrank"]

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total", "up"}
GAUGE = re.compile(r'yield "(\w+)"')
SLOWER = re.compile(r"histogram_quantile\(.*rate\((\w+_bucket).*> ([\d.]+)$", re.DOTALL)
BUCKET = re.compile(r'(\w+_bucket)\{.*\ble="([^"]+)"')
SETTINGS = DEPLOY / "kustomize" / "base" / "kgrank.toml"


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
    kept_out = (ROOT / ".gitignore").read_text().splitlines()
    assert all(f"deploy/{Path(secret['file']).parent}/" in kept_out for secret in told["secrets"].values())


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


def made(layer: str) -> dict[str, Any]:
    """Return what a layer of the manifests comes to, by kind and name."""
    text = run(tool("kubectl"), "kustomize", DEPLOY / "kustomize" / layer).stdout
    return {f"{each['kind']} {each['metadata']['name']}": each for each in yaml.safe_load_all(text)}


@pytest.mark.parametrize("layer", ["base", "overlays/train", "overlays/cuda"])
def test_kubernetes_would_take_the_manifests(layer: str, tmp_path: Path) -> None:
    objects = made(layer)
    file = tmp_path / "made.yaml"
    file.write_text(yaml.safe_dump_all(objects.values()))
    run(BIN / "kubernetes-validate", "--strict", file)
    kinds = {each["kind"] for each in objects.values()}
    assert {"StatefulSet", "HorizontalPodAutoscaler", "PodDisruptionBudget", "NetworkPolicy", "Service"} <= kinds
    assert ("CronJob" in kinds) == (layer != "base")
    # What is made of the policy: kustomize adds the servers' own label wherever it finds labels to match.
    callers = objects["NetworkPolicy kgrank"]["spec"]["ingress"][0]["from"]
    asked = {"key": "kgrank/caller", "operator": "In", "values": ["true"]}
    assert callers == [{"podSelector": {"matchExpressions": [asked]}}]


def manifests() -> dict[str, Any]:
    files = [file for layer in ("base", "overlays/train") for file in (DEPLOY / "kustomize" / layer).glob("*.yaml")]
    return {
        f"{each['kind']} {each['metadata']['name']}": each
        for file in files
        for each in yaml.safe_load_all(file.read_text())
        if "metadata" in each
    }


def server_pod() -> dict[str, Any]:
    pod: dict[str, Any] = manifests()["StatefulSet kgrank"]["spec"]["template"]["spec"]
    return pod


def training_pod() -> dict[str, Any]:
    template: dict[str, Any] = manifests()["CronJob kgrank-train"]["spec"]["jobTemplate"]["spec"]["template"]
    # Services, disruption budget and network policy choose the servers by this label.
    assert template["metadata"]["labels"]["app.kubernetes.io/name"] != "kgrank"
    pod: dict[str, Any] = template["spec"]
    return pod


@pytest.mark.parametrize("pod", [server_pod, training_pod], ids=["server", "training"])
def test_a_pod_may_do_nothing_that_it_need_not_and_goes_by_its_settings(pod: Callable[[], dict[str, Any]]) -> None:
    told = pod()
    assert told["securityContext"]["runAsNonRoot"] is True
    assert told["automountServiceAccountToken"] is False
    assert told["enableServiceLinks"] is False  # of the service `kgrank` they would be KGRANK_* variables
    for container in [*told.get("initContainers", ()), *told["containers"]]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert "memory" in container["resources"]["limits"]
        mounted = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
        assert set(mounted.values()) <= {each["name"] for each in told["volumes"]} | {"home"}
        # `kgrank doctor`, run in the pod by hand, reads what `serve` reads.
        assert "--config" not in container["args"]
        named = Path(*[each["value"] for each in container["env"] if each["name"] == "KGRANK_CONFIG"])
        assert (mounted[str(named.parent)], named.name) == ("config", SETTINGS.name)


def test_a_server_is_probed() -> None:
    (container,) = server_pod()["containers"]
    assert {"startupProbe", "readinessProbe", "livenessProbe"} <= set(container)


def test_what_is_trained_lies_where_the_servers_look() -> None:
    (server,), trains = server_pod()["containers"], training_pod()
    shared = [each for each in server["volumeMounts"] if each["name"] == "models"]
    assert {each["mountPath"] for each in shared} == {"/data/artifacts", "/data/snapshots"}
    steps = [*trains["initContainers"], *trains["containers"]]
    assert [step["args"][0] for step in steps] == ["snapshot", "train"]
    assert all(each in step["volumeMounts"] for step in steps for each in shared)


def test_a_gpu_is_for_training_alone() -> None:
    objects = made("overlays/cuda")
    trains = objects["CronJob kgrank-train"]["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    serves = objects["StatefulSet kgrank"]["spec"]["template"]["spec"]["containers"]
    assert [(each["image"], "nvidia.com/gpu" in each["resources"]["limits"]) for each in trains + serves] == [
        ("kgrank:cuda", True),
        ("kgrank:cpu", False),
    ]


def test_autoscaling_follows_a_metric_that_the_server_has_and_nothing_stands_in_its_way() -> None:
    scaler = manifests()["HorizontalPodAutoscaler kgrank"]["spec"]
    (metric,) = scaler["metrics"]
    assert metric["pods"]["metric"]["name"] in metrics()
    scaled = manifests()[f"{scaler['scaleTargetRef']['kind']} {scaler['scaleTargetRef']['name']}"]
    assert "replicas" not in scaled["spec"]  # each apply would set them back
    # One backend may be one caller: a rate would refuse it before a queue grows.
    assert load_settings(SETTINGS).serve.access.calls_per_s == 0


def test_the_manifests_settings_are_settings_and_safe_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from server.access.exposure import refuse_exposure

    monkeypatch.chdir(tmp_path)
    serve = load_settings(SETTINGS).serve
    refuse_exposure(serve)
    assert serve.production


def test_who_copies_the_page_s_settings_for_production_can_scrape_the_server(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    (block,) = re.findall(r"^```text\n(\[serve\]\n.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "kgrank.toml").write_text(block)
    serve = load_settings(tmp_path / "kgrank.toml").serve
    assert serve.production
    assert (serve.watch.metrics_port, serve.watch.metrics_host) == (9464, serve.host)


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("0.0.0.0", "localhost:50051"),
        ("::", "localhost:50051"),
        ("[::]", "localhost:50051"),
        ("::1", "[::1]:50051"),
        ("10.0.0.7", "10.0.0.7:50051"),
    ],
)
def test_a_command_beside_a_server_asks_it_where_it_can_be_reached(
    host: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KGRANK_SERVE__HOST", host)
    assert own_address(load_settings(SETTINGS)) == said


@pytest.mark.parametrize(
    ("encrypted", "trusted", "said"),
    [
        (True, "ca.crt", ""),
        (True, "other.crt", "has a certificate that this caller does not trust"),
        (True, "server.key", "can't be asked with these certificates"),
        (True, None, "hangs up on this caller"),
        (False, "ca.crt", "speaks no TLS"),
        (False, None, ""),
    ],
)
def test_a_command_tells_a_server_that_it_can_t_agree_with_from_one_that_is_not_there(
    encrypted: bool,
    trusted: str | None,
    said: str,
    kgrank: CommandLine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    Authority(tmp_path, "other")
    issued = Authority(tmp_path).issue("server")
    if trusted is not None:
        monkeypatch.setenv("KGRANK_CA_FILE", str(tmp_path / trusted))
    tls = {"certificate_file": issued.certificate, "key_file": issued.key} if encrypted else {}
    with running(tmp_path, ready=False, tls=tls) as server:
        done = kgrank(tmp_path, "models", "list", "--target", server.target)
    assert (done.code == 0) == (said == "")
    assert said in done.err
    assert "Start it with" not in done.err


def test_a_server_leaves_when_nobody_is_connected_any_more() -> None:
    serve = load_settings(SETTINGS).serve
    pod = server_pod()
    lives_on_s = pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert 0 < 1.1 * serve.connection_age_s < lives_on_s  # gRPC spreads ages by a tenth
    # Twice: for calls, and for what is journalled.
    assert pod["terminationGracePeriodSeconds"] > lives_on_s + 2 * serve.drain_s


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: alert["alert"])
def test_an_alert_reads_what_there_is_and_is_explained(alert: dict[str, Any]) -> None:
    assert series(alert["expr"]) <= metrics()
    assert f"### {alert['alert']}\n" in (ROOT / "docs" / "operations.md").read_text()
    assert f"alertname: {alert['alert']}\n" in (DEPLOY / "prometheus" / "alerts_test.yml").read_text()


def test_alerts_on_latencies_ask_for_bounds_that_the_server_s_buckets_have() -> None:
    counted = Metrics()
    counted.method("kgrank.v1.RankingService.Rank")  # before, it tells of no bucket
    bounds = {
        (sample.name, float(sample.labels["le"]))
        for family in counted.registry.collect()
        for sample in family.samples
        if "le" in sample.labels
    }
    asked = [found.groups() for alert in alerts() if (found := SLOWER.search(alert["expr"]))]
    tested = BUCKET.findall((DEPLOY / "prometheus" / "alerts_test.yml").read_text())
    assert asked
    assert tested
    assert {(name, float(bound)) for name, bound in asked + tested} <= bounds


def test_servers_in_a_cluster_are_scraped_as_the_job_that_the_alerts_look_for() -> None:
    jobs = {job for alert in alerts() for job in re.findall(r'job="(\w+)"', alert["expr"])}
    for file in ("prometheus.yml", "kubernetes.yml"):
        told = yaml.safe_load((DEPLOY / "prometheus" / file).read_text())
        assert {scraped["job_name"] for scraped in told["scrape_configs"]} == jobs
    (kept,) = [each for each in told["scrape_configs"][0]["relabel_configs"] if each.get("action") == "keep"]
    (labels,) = yaml.safe_load((DEPLOY / "kustomize" / "base" / "kustomization.yaml").read_text())["labels"]
    name = labels["pairs"]["app.kubernetes.io/name"]
    ports = {port["containerPort"]: port["name"] for port in server_pod()["containers"][0]["ports"]}
    assert kept["regex"] == f"{name};{ports[load_settings(SETTINGS).serve.watch.metrics_port]}"


def test_each_server_is_one_process_whose_one_port_of_metrics_is_scraped_and_probed() -> None:
    for told in (load_settings(SETTINGS).serve, ServeSettings()):  # compose has no file of settings
        assert told.processes == 1
    variables = {
        *yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]["kgrank"]["environment"],
        *re.findall(r"(KGRANK_\w+)=", (DEPLOY / "Dockerfile").read_text()),
        *(each["name"] for each in server_pod()["containers"][0]["env"]),
    }
    assert "KGRANK_SERVE__PROCESSES" not in variables
    assert "--processes" not in str(server_pod()["containers"][0]["args"])
    port = load_settings(SETTINGS).serve.watch.metrics_port
    beside = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    assert [found["port"] for each in beside["scrape_configs"] for found in each["dns_sd_configs"]] == [port]
    assert [each["containerPort"] for each in server_pod()["containers"][0]["ports"] if each["name"] == "metrics"] == [
        port
    ]


def test_what_alerts_add_up_stays_apart_by_namespace() -> None:
    for alert in alerts():
        for grouped in re.findall(r"\b(?:sum|max|min|count|avg) *(by *\([^)]*\)|\()", alert["expr"]):
            assert "namespace" in grouped, alert["alert"]


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


def test_the_board_shows_kgrank_s_own_processes_of_the_chosen_servers() -> None:
    for query in board_queries():
        for selected in re.findall(r"\w+\{[^}]*\}", query):
            assert 'namespace=~"$namespace",instance=~"$instance"' in selected
            assert 'job="kgrank"' in selected or not selected.startswith("process_")


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
