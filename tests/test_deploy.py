"""What is shipped beside the code: rules, dashboard, compose, Kubernetes; checked as far as no engine is needed."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from config.settings import load_settings
from config.values import parse_duration
from worker import topology
from worker.app import DRAIN_MARGIN
from worker.telemetry import Metrics

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
SYSTEMS = ("barometerit", "planview_admin", "planpoint")

METRICS = frozenset(
    {
        "planrelay_commands_total",
        "planrelay_command_duration_seconds",
        "planrelay_in_flight",
        "planrelay_http_requests_total",
        "planrelay_http_request_duration_seconds",
        "planrelay_rate_limit_points_remaining",
        "planrelay_gate_closed",
        "planrelay_gate_wait_seconds_total",
        "planrelay_retries_total",
        "planrelay_dead_letters_total",
        "planrelay_publishes_refused_total",
        "planrelay_event_loop_lag_seconds",
    }
)
"""All that the workers promise to tell."""


def yaml(path: Path) -> list[Any]:
    """Read every document of a YAML file."""
    return list(YAML(typ="safe").load_all(path))


def labels_of_metrics() -> dict[str, frozenset[str]]:
    """Give the samples that a worker may tell, with their labels."""
    found: dict[str, frozenset[str]] = {}
    for family in Metrics().registry.collect():
        if family.name.startswith(("process_", "python_")):  # every Prometheus client tells these
            continue
        match family.type:
            case "counter":
                names = [f"{family.name}_total"]
            case "histogram":
                names = [f"{family.name}_bucket", f"{family.name}_count", f"{family.name}_sum"]
            case _:
                names = [family.name]
        found |= dict.fromkeys(names, frozenset())
    return found


def expressions() -> dict[str, str]:
    """Give every query of rules and dashboard by where it stands."""
    (rules,) = yaml(DEPLOY / "prometheus" / "rules.yml")
    found = {rule.get("alert") or rule["record"]: rule["expr"] for group in rules["groups"] for rule in group["rules"]}
    dashboard = json.loads((DEPLOY / "grafana" / "planrelay.json").read_text())
    for panel in dashboard["panels"]:
        found |= {f"{panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


def names_in(expression: str) -> set[str]:
    """Give the metrics that a query names."""
    return set(re.findall(r"\b(?:planrelay|rabbitmq)[a-z_:0-9]*\b(?=[\s{\[()/]|$)", re.sub(r'"[^"]*"', "", expression)))


def test_a_worker_tells_the_metrics_that_are_promised_and_no_others() -> None:
    """The names of the workers' metrics are those that other systems rely on."""
    told = {re.sub(r"_(bucket|count|sum)$", "", name) for name in labels_of_metrics()}
    assert told == METRICS


def test_every_query_asks_for_metrics_that_exist() -> None:
    """Rules and dashboard name only what the workers, RabbitMQ's exporter or a recording rule tell."""
    (rules,) = yaml(DEPLOY / "prometheus" / "rules.yml")
    recorded = {rule["record"] for group in rules["groups"] for rule in group["rules"] if "record" in rule}
    exporter = {"rabbitmq_queue_messages", "rabbitmq_queue_messages_ready", "rabbitmq_queue_consumers"}
    known = {*labels_of_metrics(), *recorded, *exporter}
    assert {where: names_in(query) - known for where, query in expressions().items() if names_in(query) - known} == {}


def test_the_dashboard_shows_every_metric() -> None:
    """Each of the workers' metrics is on the dashboard."""
    dashboard = (DEPLOY / "grafana" / "planrelay.json").read_text()
    assert {name for name in METRICS if name not in dashboard} == set()


def test_the_dashboard_fits_its_grid() -> None:
    """No two panels overlap, each has an id of its own, and all ask the provisioned source."""
    dashboard = json.loads((DEPLOY / "grafana" / "planrelay.json").read_text())
    (source,) = yaml(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        assert panel["datasource"]["uid"] == source["datasources"][0]["uid"]
        taken |= cells
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_alert_says_what_to_do() -> None:
    """Each alert has a severity, a sentence, and a place in docs/operating.md that is there."""
    (rules,) = yaml(DEPLOY / "prometheus" / "rules.yml")
    operating = (ROOT / "docs" / "operating.md").read_text()
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    assert len(alerts) == 8
    for alert in alerts:
        assert alert["labels"]["severity"] in {"warning", "critical"}
        assert alert["annotations"]["summary"]
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        assert page == "docs/operating.md"
        assert f'<a id="{anchor}"></a>\n**{alert["alert"]}**' in operating


def test_every_alert_is_tried() -> None:
    """Each alert has a case in which promtool sees it fire."""
    (rules,) = yaml(DEPLOY / "prometheus" / "rules.yml")
    (cases,) = yaml(DEPLOY / "prometheus" / "rules_test.yml")
    tried = {case["alertname"] for test in cases["tests"] for case in test["alert_rule_test"]}
    assert tried == {rule["alert"] for group in rules["groups"] for rule in group["rules"] if "alert" in rule}


@pytest.mark.parametrize(
    "arguments",
    [("check", "config", "prometheus.yml"), ("check", "rules", "rules.yml"), ("test", "rules", "rules_test.yml")],
)
def test_promtool_agrees(arguments: tuple[str, ...]) -> None:
    """Prometheus' own tool reads configuration and rules, and sees each alert fire when it should."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip(
            "promtool is not installed (Debian's package prometheus has it): rules are checked in Python alone."
        )
    run = subprocess.run([promtool, *arguments], cwd=DEPLOY / "prometheus", check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


# --- Compose ----------------------------------------------------------------------------------------------------------


def test_compose_profiles_start_what_they_say() -> None:
    """`observe` adds Prometheus and Grafana, `sandbox` the stand-ins; every file that is mounted is there."""
    services = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]
    profiles = {name: service.get("profiles", []) for name, service in services.items()}
    assert {name for name, of in profiles.items() if not of} == {"worker", "beat", "rabbitmq", "valkey"}
    assert {name for name, of in profiles.items() if of == ["observe"]} == {"prometheus", "grafana"}
    assert {name for name, of in profiles.items() if of == ["sandbox"]} == {"sandbox"}
    for name in ("prometheus", "grafana"):
        mounts = [volume.split(":") for volume in services[name]["volumes"]]
        assert [mount[0] for mount in mounts if mount[0].startswith(".") and not (ROOT / mount[0]).exists()] == []
    (scraped,) = yaml(DEPLOY / "prometheus" / "prometheus.yml")
    assert [job["job_name"] for job in scraped["scrape_configs"]] == ["planrelay", "rabbitmq"]


def test_every_published_port_is_on_loopback() -> None:
    """Nothing that compose starts listens to the outside."""
    services = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]
    ports = [port for service in services.values() for port in service.get("ports", [])]
    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_compose_gives_a_worker_time_to_drain() -> None:
    """SIGKILL comes after the drain timeout and what giving back takes."""
    services = YAML(typ="safe").load(ROOT / "docker-compose.yml")["services"]
    assert (
        parse_duration(services["worker"]["stop_grace_period"])
        > load_settings(None, {}).worker.drain_timeout + DRAIN_MARGIN
    )


# --- Kubernetes -------------------------------------------------------------------------------------------------------


@pytest.fixture
def manifests() -> dict[tuple[str, str], dict[str, Any]]:
    """Give the example's objects by kind and name."""
    return {(each["kind"], each["metadata"]["name"]): each for each in yaml(DEPLOY / "kubernetes" / "planrelay.yaml")}


def test_kubernetes_objects_are_of_versions_that_are_served(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Each object has the version under which its kind is served today, and no key twice or unknown at its top."""
    versions = {
        "ConfigMap": "v1",
        "Deployment": "apps/v1",
        "PodDisruptionBudget": "policy/v1",
        "ScaledObject": "keda.sh/v1alpha1",
        "TriggerAuthentication": "keda.sh/v1alpha1",
    }
    assert {kind: each["apiVersion"] for (kind, _), each in manifests.items()} == versions
    for each in manifests.values():
        assert set(each) == {"apiVersion", "kind", "metadata", "data" if each["kind"] == "ConfigMap" else "spec"}


def test_kubernetes_settings_are_read(manifests: dict[tuple[str, str], dict[str, Any]], tmp_path: Path) -> None:
    """The example's planrelay.toml loads with the files that the example's secret brings."""
    text = manifests["ConfigMap", "planrelay"]["data"]["planrelay.toml"]
    for name, value in (
        ("amqp", "amqp://u:secret@rabbitmq//"),
        ("state", "redis://valkey"),
        ("planpoint-token", "token"),
    ):
        (tmp_path / name).write_text(value)
    file = tmp_path / "planrelay.toml"
    file.write_text(text.replace("/run/secrets/planrelay", str(tmp_path)))
    settings = load_settings(file, {})
    assert settings.worker.metrics_host == "0.0.0.0"
    files = set(re.findall(r'file = "/run/secrets/planrelay/([^"]+)"', text))
    assert files == {"amqp", "state", "planpoint-token"}


def test_kubernetes_gives_a_worker_time_to_drain(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    """The grace period is longer than the drain timeout and what giving back takes."""
    pod = manifests["Deployment", "planrelay-worker"]["spec"]["template"]["spec"]
    settings = tomllib.loads(manifests["ConfigMap", "planrelay"]["data"]["planrelay.toml"])
    drain = parse_duration(settings["worker"]["drain_timeout"]) + DRAIN_MARGIN
    assert pod["terminationGracePeriodSeconds"] > drain.total_seconds()


def test_kubernetes_pods_may_do_nothing_special(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Worker and beat run as nobody special, on a root that can't be written; each mount has its volume."""
    user = re.search(r"^USER (\d+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    for name in ("planrelay-worker", "planrelay-beat"):
        pod = manifests["Deployment", name]["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == int(user[1])
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert {each["name"] for each in container["volumeMounts"]} == {each["name"] for each in pod["volumes"]}


def test_kubernetes_selectors_find_their_pods(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Deployments, budget and scaler each name what is there, and the probes a port that the container opens."""
    worker = manifests["Deployment", "planrelay-worker"]["spec"]
    for name in ("planrelay-worker", "planrelay-beat"):
        spec = manifests["Deployment", name]["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]
    budget = manifests["PodDisruptionBudget", "planrelay-worker"]["spec"]
    assert budget["selector"]["matchLabels"] == worker["template"]["metadata"]["labels"]
    (container,) = worker["template"]["spec"]["containers"]
    ports = {port["name"] for port in container["ports"]}
    for probe in ("livenessProbe", "readinessProbe", "startupProbe"):
        assert container[probe]["httpGet"]["port"] in ports
    assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
    scaler = manifests["ScaledObject", "planrelay-worker"]["spec"]
    assert ("Deployment", scaler["scaleTargetRef"]["name"]) in manifests
    assert "replicas" not in worker  # else each apply would undo what KEDA chose


def test_keda_watches_every_work_queue(manifests: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Each queue that workers read has a trigger, in the mode and with the values that KEDA documents."""
    scaler = manifests["ScaledObject", "planrelay-worker"]["spec"]
    watched = {trigger["metadata"]["queueName"] for trigger in scaler["triggers"]}
    assert watched == {*map(topology.work_queue, SYSTEMS), topology.BATCH}
    for trigger in scaler["triggers"]:
        assert trigger["type"] == "rabbitmq"
        assert trigger["metadata"]["mode"] == "QueueLength"
        assert int(trigger["metadata"]["value"]) > 0
        assert ("TriggerAuthentication", trigger["authenticationRef"]["name"]) in manifests
    assert scaler["minReplicaCount"] >= 2
