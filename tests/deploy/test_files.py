"""compose, Kubernetes, Prometheus and Grafana: whether names, ports, times and settings fit each other."""

import importlib
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from addons.config.settings import Settings, load_settings, settings_schema
from addons.core.client_address import is_within, parse_address, parse_network
from addons.core.units import parse_duration
from tests.support.front import DEPLOY

KUBERNETES = DEPLOY / "kubernetes"
ENVIRON = {"OPENAI_KEY": "sk-test-0123456789abcdef", "REDIS_URL": "redis://:word@redis:6379/0"}


def known(*keys: str) -> bool:
    """Whether relay.yaml has a key."""
    part: Any = settings_schema()
    for key in keys:
        part = part["$defs"][part["$ref"].rpartition("/")[2]] | {"$defs": part["$defs"]} if "$ref" in part else part
        if key not in part.get("properties", {}):
            return False
        part = part["properties"][key] | {"$defs": part["$defs"]}
    return True


def documents(path: Path) -> list[dict[str, Any]]:
    return [each for each in yaml.safe_load_all(path.read_text(encoding="utf-8")) if each is not None]


def compose() -> dict[str, Any]:
    [found] = documents(DEPLOY / "docker-compose.yml")
    return found


def written(path: Path) -> dict[str, Any]:
    """A relay.yaml as it stands."""
    [found] = documents(path)
    return found


def settings(path: Path, tmp_path: Path) -> Settings:
    """The same, read by relay; of what this relay does not know yet nothing is read."""
    tree = written(path)
    if not known("metrics"):
        tree.pop("metrics")
    if not known("store", "url"):
        tree.pop("store")
    copy = tmp_path / "relay.yaml"
    copy.write_text(yaml.safe_dump(tree), encoding="utf-8")
    return load_settings(copy, ENVIRON)


BOTH = pytest.mark.parametrize(
    "path", [DEPLOY / "relay.yaml", KUBERNETES / "relay.yaml"], ids=["compose", "kubernetes"]
)


# relay.yaml


@BOTH
def test_relay_takes_its_settings(path: Path, tmp_path: Path) -> None:
    read = settings(path, tmp_path)
    assert read.listen.host == "0.0.0.0" and read.keys.open is False
    assert read.listen.client_address.source != "peer" and read.listen.client_address.networks
    assert read.upstreams[0].keys == (ENVIRON["OPENAI_KEY"],)


@BOTH
def test_what_they_share_is_in_redis(path: Path) -> None:
    store = written(path)["store"]
    assert store == {
        "kind": "redis",
        "url": "${REDIS_URL}",
        "prefix": "relay",
        "on_failure": "refuse",
        "path": "/data/store",
    }


@BOTH
def test_every_name_of_the_environment_is_given(path: Path) -> None:
    asked = set(re.findall(r"\$\{(\w+)", path.read_text(encoding="utf-8")))
    if path.parent == DEPLOY:
        given = set(compose()["services"]["relay1"]["environment"])
    else:
        given = {each["name"] for each in container("relay")["env"]}
    assert asked <= given


# compose


def relays() -> Mapping[str, Any]:
    return {name: each for name, each in compose()["services"].items() if name.startswith("relay")}


def test_three_relays_read_only_and_not_root() -> None:
    assert list(relays()) == ["relay1", "relay2", "relay3"]
    for name, each in relays().items():
        assert each["read_only"] is True and each["cap_drop"] == ["ALL"] and each["tmpfs"] == ["/tmp"]
        assert "no-new-privileges:true" in each["security_opt"]
        assert "./relay.yaml:/etc/relay/relay.yaml:ro" in each["volumes"] and f"{name}:/data" in each["volumes"]
        assert "ports" not in each, "HAProxy alone is reached from outside"
        assert each["depends_on"]["redis"]["condition"] == "service_healthy"
        assert "/readyz" in each["healthcheck"]["test"]


def test_volumes_networks_and_files_are_there() -> None:
    found = compose()
    for name, service in found["services"].items():
        for volume in service.get("volumes", []):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), volume
            else:
                assert source in found["volumes"], volume
        assert set(service["networks"]) <= set(found["networks"]), name
        assert set(service.get("depends_on", ())) <= set(found["services"])
        image = service["image"]
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*", image), f"{image}: a version that does not move"


def test_relays_have_longer_to_end_than_they_need() -> None:
    drain = parse_duration(written(DEPLOY / "relay.yaml")["limits"]["drain"])
    for each in relays().values():
        assert parse_duration(each["stop_grace_period"]) >= drain + 5


def test_haproxy_is_the_proxy_that_is_believed() -> None:
    service = compose()["services"]["haproxy"]
    [trusted] = written(DEPLOY / "relay.yaml")["listen"]["client_address"]["trusted"]
    assert service["networks"]["inside"]["ipv4_address"] == trusted
    [subnet] = compose()["networks"]["inside"]["ipam"]["config"]
    address = parse_address(trusted)
    assert address is not None and is_within(address, [parse_network(subnet["subnet"])])
    shared = set(service["networks"]) & set(compose()["services"]["relay1"]["networks"])
    assert shared == {"inside"}, "it connects from no other address"
    config = (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")
    for backend in ("relays", "anyway"):
        lines = config.partition(f"\nbackend {backend}\n")[2].partition("\n\n")[0]
        assert re.findall(r"server (\w+) (\w+):8080", lines) == [(name, name) for name in relays()]
        assert "send-proxy-v2 check-send-proxy" in lines


def test_no_secret_stands_in_a_file() -> None:
    for path in DEPLOY.rglob("*"):
        if path.is_file() and path.name != "env.example":
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\b(?:sk|rk)-[A-Za-z0-9]{8,}", text), path
    asked = set(re.findall(r"\$\{(\w+):\?", (DEPLOY / "docker-compose.yml").read_text(encoding="utf-8")))
    example = (DEPLOY / "env.example").read_text(encoding="utf-8")
    assert asked == set(re.findall(r"^(\w+)=", example, re.MULTILINE))


def test_what_is_money_is_written_and_kept() -> None:
    files = [DEPLOY / "docker-compose.yml", KUBERNETES / "redis.yaml"]
    for path in files:
        text = " ".join(path.read_text(encoding="utf-8").split())
        assert "--appendonly yes --appendfsync always" in text and "--maxmemory-policy noeviction" in text


# Kubernetes


def manifests() -> list[dict[str, Any]]:
    kustomization = written(KUBERNETES / "kustomization.yaml")
    return [each for name in kustomization["resources"] for each in documents(KUBERNETES / name)]


def manifest(kind: str, name: str) -> dict[str, Any]:
    [found] = [each for each in manifests() if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    return found


def container(name: str) -> dict[str, Any]:
    kind = "Deployment" if name == "relay" else "StatefulSet"
    [found] = manifest(kind, name)["spec"]["template"]["spec"]["containers"]
    return dict(found)


def seconds_before_the_end() -> float:
    """What a pod takes to end, at most."""
    stop = container("relay")["lifecycle"]["preStop"]["exec"]["command"]
    return float(stop[-1]) + parse_duration(written(KUBERNETES / "relay.yaml")["limits"]["drain"])


def test_every_kind_has_the_version_it_has() -> None:
    assert {(each["apiVersion"], each["kind"]) for each in manifests()} == {
        ("apps/v1", "Deployment"),
        ("apps/v1", "StatefulSet"),
        ("v1", "Service"),
        ("policy/v1", "PodDisruptionBudget"),
        ("networking.k8s.io/v1", "Ingress"),
    }


@pytest.mark.parametrize(("kind", "name"), [("Deployment", "relay"), ("StatefulSet", "redis")])
def test_whom_a_workload_selects_it_has_made(kind: str, name: str) -> None:
    spec = manifest(kind, name)["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert spec["selector"]["matchLabels"] == labels
    service = manifest("Service", name)["spec"]
    assert service["selector"] == labels
    ports = {port["name"]: port["containerPort"] for port in container(name)["ports"]}
    assert all(port["targetPort"] in ports for port in service["ports"])


@pytest.mark.parametrize("name", ["relay", "redis"])
def test_nobody_runs_as_root_or_writes_beside_its_volumes(name: str) -> None:
    kind = "Deployment" if name == "relay" else "StatefulSet"
    pod = manifest(kind, name)["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True and pod["securityContext"]["runAsUser"] >= 999
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pod["automountServiceAccountToken"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {each["name"] for each in pod.get("volumes", ())}
    volumes |= {each["metadata"]["name"] for each in manifest(kind, name)["spec"].get("volumeClaimTemplates", ())}
    assert {each["name"] for each in container(name)["volumeMounts"]} == volumes
    assert "memory" in container(name)["resources"]["limits"]


def test_a_pod_has_longer_to_end_than_it_needs() -> None:
    pod = manifest("Deployment", "relay")["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] >= seconds_before_the_end() + 5


def test_an_upgrade_takes_nobody_away_before_another_serves() -> None:
    spec = manifest("Deployment", "relay")["spec"]
    assert spec["replicas"] >= 2 and spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    budget = manifest("PodDisruptionBudget", "relay")["spec"]
    assert budget["selector"]["matchLabels"] == spec["selector"]["matchLabels"]
    assert budget["maxUnavailable"] < spec["replicas"]


def test_probes_ask_what_there_is() -> None:
    relay = container("relay")
    ports = {port["name"] for port in relay["ports"]}
    asked = {name: relay[f"{name}Probe"]["httpGet"] for name in ("startup", "readiness", "liveness")}
    assert {name: each["path"] for name, each in asked.items()} == {
        "startup": "/healthz",
        "readiness": "/readyz",
        "liveness": "/healthz",
    }
    assert all(each["port"] in ports for each in asked.values())
    assert relay["readinessProbe"]["timeoutSeconds"] > 5, "as long as relay gives its store"
    ready = relay["readinessProbe"]
    assert ready["periodSeconds"] * ready["failureThreshold"] <= 5, "it hears of the end before relay goes on"


def test_settings_secrets_and_ports_are_those_of_relay_yaml() -> None:
    relay, pod = container("relay"), manifest("Deployment", "relay")["spec"]["template"]
    generated = {
        each["name"]: each["files"] for each in written(KUBERNETES / "kustomization.yaml")["configMapGenerator"]
    }
    [settings_volume] = [each for each in pod["spec"]["volumes"] if "configMap" in each]
    [file] = generated[settings_volume["configMap"]["name"]]
    mounts = {each["name"]: each["mountPath"] for each in relay["volumeMounts"]}
    environ = {each["name"]: each.get("value") for each in relay["env"]}
    assert environ["RELAY_CONFIG"] == f"{mounts[settings_volume['name']]}/{file}"
    assert (KUBERNETES / file).exists()
    told = (KUBERNETES / "kustomization.yaml").read_text(encoding="utf-8")
    for name in ("relay", "redis"):
        for each in container(name)["env"]:
            if "valueFrom" in each:
                assert f"--from-literal={each['valueFrom']['secretKeyRef']['key']}=" in told
    tree = written(KUBERNETES / "relay.yaml")
    ports = {port["name"]: port["containerPort"] for port in relay["ports"]}
    assert ports == {"http": tree["listen"].get("port", 8080), "metrics": int(tree["metrics"]["listen"].split(":")[1])}
    assert pod["metadata"]["annotations"]["prometheus.io/port"] == str(ports["metrics"])
    assert tree["store"]["path"].startswith(mounts["data"])


def test_the_ingress_leads_to_relay_and_buffers_nothing() -> None:
    ingress = manifest("Ingress", "relay")
    annotations = ingress["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/proxy-"
    assert annotations[f"{prefix}buffering"] == annotations[f"{prefix}request-buffering"] == "off"
    assert int(annotations[f"{prefix}read-timeout"]) >= 3600
    assert all(isinstance(value, str) for value in annotations.values())
    backend = ingress["spec"]["rules"][0]["http"]["paths"][0]["backend"]["service"]
    service = manifest("Service", backend["name"])
    assert backend["port"]["name"] in {port["name"] for port in service["spec"]["ports"]}


# Prometheus and Grafana


def targets() -> set[str]:
    found = written(DEPLOY / "prometheus.yml")
    return {each for job in found["scrape_configs"] for config in job["static_configs"] for each in config["targets"]}


def test_prometheus_asks_who_is_there() -> None:
    port = written(DEPLOY / "relay.yaml")["metrics"]["listen"].split(":")[1]
    assert targets() == {*(f"{name}:{port}" for name in relays()), "haproxy:8404"}
    assert "bind :8404" in (DEPLOY / "haproxy.cfg").read_text(encoding="utf-8")


def expressions() -> Iterator[str]:
    """What the dashboard and the alerts ask for."""
    for group in written(DEPLOY / "alerts.yml")["groups"]:
        for rule in group["rules"]:
            yield rule["expr"]
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "relay.json").read_text(encoding="utf-8"))
    for panel in board["panels"]:
        for target in panel.get("targets", ()):
            yield target["expr"]


_NAME = re.compile(r"\b(?:relay|gen_ai)_[a-z_]+\b(?=[\[{ )]|$)")
_LABELS = re.compile(r"(?:by|without) \(([^)]*)\)|\{([^}]*)\}")


def asked_of(expression: str) -> tuple[set[str], set[str]]:
    """Metrics and labels in an expression."""
    labels = {
        re.split(r"[=!]", each)[0].strip()
        for match in _LABELS.finditer(expression)
        for each in (match[1] or match[2]).split(",")
    }
    outside = _LABELS.sub(lambda match: "{" if match[2] else "", expression)
    return set(_NAME.findall(outside)), labels


def test_every_metric_that_is_asked_for_exists() -> None:
    try:
        metrics = importlib.import_module("addons.core.metrics").ALL
    except ModuleNotFoundError:
        pytest.skip("this relay counts nothing for Prometheus yet")
    shown: dict[str, set[str]] = {}
    for metric in metrics:
        labels = {*metric.labels, "instance", "job"}
        if metric.kind == "histogram":
            shown |= {
                f"{metric.name}_bucket": labels | {"le"},
                f"{metric.name}_count": labels,
                f"{metric.name}_sum": labels,
            }
        else:
            shown[f"{metric.name}_total" if metric.kind == "counter" else metric.name] = labels
    used = set()
    for expression in expressions():
        names, labels = asked_of(expression)
        assert names or expression.startswith("up{"), expression
        assert names <= shown.keys(), expression
        for name in names:
            assert labels <= shown[name], expression
        used |= names
    kept = {metric.name for metric in metrics if not any(name.startswith(metric.name) for name in used)}
    assert kept <= {"relay_clients", "relay_processes"}, "what is counted is shown"


def test_the_numbers_that_a_page_names_are_counted() -> None:
    try:
        metrics = importlib.import_module("addons.core.metrics").ALL
    except ModuleNotFoundError:
        pytest.skip("this relay counts nothing for Prometheus yet")
    page = (DEPLOY.parent / "docs" / "deployment.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`((?:relay|gen_ai)_[a-z_]+)`", page))
    shown = {f"{metric.name}_total" if metric.kind == "counter" else metric.name for metric in metrics}
    shown |= {f"{metric.name}_count" for metric in metrics if metric.kind == "histogram"}
    assert len(named) > 10 and named <= shown


def test_the_dashboard_has_a_source_and_a_place_for_each_panel() -> None:
    board = json.loads((DEPLOY / "grafana" / "dashboards" / "relay.json").read_text(encoding="utf-8"))
    [source] = written(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and "prometheus" in compose()["services"]
    ids = [panel["id"] for panel in board["panels"]]
    assert len(set(ids)) == len(ids)
    places: set[tuple[int, int]] = set()
    for panel in board["panels"]:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & places and at["x"] + at["w"] <= 24, panel["title"]
        places |= cells
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == source["uid"] and panel["targets"]
    [provider] = written(DEPLOY / "grafana" / "provisioning" / "dashboards" / "relay.yml")["providers"]
    mounted = [each.split(":")[1] for each in compose()["services"]["grafana"]["volumes"]]
    assert provider["options"]["path"] in mounted
