"""What deploy/ has for several relays on one PostgreSQL fits the relay, its image, and itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay.config import Config, load
from relay.units import parse_duration

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"

CLOSING = timedelta(seconds=15)  # after the drain, at the very worst: docs/operations.md
PRE_STOP = timedelta(seconds=5)
RELAYS = ("relay-1", "relay-2")


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


COMPOSE = read_yaml(DEPLOY / "compose.yaml")
SERVICES = COMPOSE["services"]
MANIFESTS = {path.stem: read_yaml(path) for path in sorted(KUBERNETES.glob("*.yaml"))}
POD = MANIFESTS["deployment"]["spec"]["template"]["spec"]
CONTAINER = POD["containers"][0]
CADDYFILE = (DEPLOY / "Caddyfile").read_text(encoding="utf-8")
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")


def said_in_dockerfile(instruction: str) -> str:
    """Return the arguments of the last instruction of a kind."""
    return str(re.findall(rf"^{instruction} (.*)$", DOCKERFILE, flags=re.MULTILINE)[-1])


def loaded(config: Path, folder: Path, secrets: set[str]) -> Config:
    """Load a configuration with a folder of those secrets alone, as the container has it."""
    for name in secrets:
        (folder / name).write_text("a secret\n", encoding="utf-8")
    return load(config, {"CREDENTIALS_DIRECTORY": str(folder)})


@pytest.fixture
def of_compose(tmp_path: Path) -> Config:
    return loaded(DEPLOY / "compose" / "config.yaml", tmp_path, set(SERVICES["relay-1"]["secrets"]))


@pytest.fixture
def of_kubernetes(tmp_path: Path) -> Config:
    file = tmp_path / "config.yaml"
    file.write_text(MANIFESTS["configmap"]["data"]["config.yaml"], encoding="utf-8")
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    return loaded(file, secrets, set(MANIFESTS["secret"]["stringData"]))


def port_of(address: str) -> int:
    return int(address.rpartition(":")[2])


@pytest.mark.parametrize("path", sorted(DEPLOY.rglob("*.yaml")), ids=lambda path: path.name)
def test_yaml_can_be_read(path: Path) -> None:
    assert read_yaml(path)


# ---- the configurations


def test_compose_configuration_is_valid(of_compose: Config) -> None:
    assert of_compose.store.is_postgres
    assert of_compose.store.url == "postgresql://relay@postgres/relay"


def test_kubernetes_configuration_is_valid(of_kubernetes: Config) -> None:
    assert of_kubernetes.store.is_postgres
    assert "sslmode=verify-full" in of_kubernetes.store.url


def test_database_of_compose_is_the_one_that_the_relays_open() -> None:
    environment = SERVICES["postgres"]["environment"]
    assert (environment["POSTGRES_USER"], environment["POSTGRES_DB"]) == ("relay", "relay")
    assert environment["POSTGRES_PASSWORD_FILE"] == "/run/secrets/database"
    assert "database" in SERVICES["postgres"]["secrets"]


def test_proxy_of_compose_is_trusted_and_nobody_else(of_compose: Config) -> None:
    address = SERVICES["caddy"]["networks"]["front"]["ipv4_address"]
    assert of_compose.server.trusted_proxies == (address,)
    pool = COMPOSE["networks"]["front"]["ipam"]["config"][0]
    assert ip_address(address) in ip_network(pool["subnet"])
    assert ip_address(address) not in ip_network(pool["ip_range"])


# ---- compose


def test_every_secret_of_compose_is_declared_and_used() -> None:
    used = {name for service in SERVICES.values() for name in service.get("secrets", ())}
    assert used == COMPOSE["secrets"].keys()


def test_every_network_and_volume_of_compose_is_declared() -> None:
    networks = {name for service in SERVICES.values() for name in service["networks"]}
    volumes = {
        volume.partition(":")[0] for service in SERVICES.values() for volume in service.get("volumes", ())
    }
    assert networks == COMPOSE["networks"].keys()
    assert {volume for volume in volumes if not volume.startswith(".")} == COMPOSE["volumes"].keys()


def test_files_that_compose_mounts_exist() -> None:
    mounts = [volume for service in SERVICES.values() for volume in service.get("volumes", ())]
    files = [mount.partition(":")[0] for mount in mounts if mount.startswith(".")]
    assert len(files) == 5
    assert [file for file in files if not (DEPLOY / file).exists()] == []


def test_images_of_compose_are_pinned() -> None:
    images = [service["image"] for service in SERVICES.values() if "build" not in service]
    assert len(images) == 3
    assert all(re.fullmatch(r"[a-z/]+:v?[0-9][0-9.]*", image) for image in images)


@pytest.mark.parametrize("name", RELAYS)
def test_compose_runs_the_image_as_it_is_made(name: str, of_compose: Config) -> None:
    service = SERVICES[name]
    assert service["user"] == said_in_dockerfile("USER")
    assert f"{config_path()}:ro" in [volume.partition(":")[2] for volume in service["volumes"]]
    assert str(port_of(of_compose.server.listen)) == said_in_dockerfile("EXPOSE")
    assert f"127.0.0.1:{port_of(of_compose.admin.listen)}/-/ready" in service["healthcheck"]["test"][-1]
    assert service["read_only"]


def config_path() -> str:
    """Return where the image looks for its configuration."""
    found = re.search(r'"-c", "([^"]+)"', said_in_dockerfile("CMD"))
    assert found
    return found[1]


def test_health_check_of_compose_is_a_program() -> None:
    compile(SERVICES["relay-1"]["healthcheck"]["test"][-1], "healthcheck", "exec")


def test_relays_of_compose_may_drain_before_they_are_killed(of_compose: Config) -> None:
    grace: timedelta = parse_duration(SERVICES["relay-1"]["stop_grace_period"])
    assert grace > of_compose.server.drain_timeout + CLOSING


def test_proxy_sends_to_both_relays(of_compose: Config) -> None:
    port = port_of(of_compose.server.listen)
    sites = re.findall(r"^http://(:[0-9]+) \{\n\timport relay (.*)\n\}$", CADDYFILE, flags=re.MULTILINE)
    assert [upstream for _, upstream in sites] == [f"{relay}:{port}" for relay in RELAYS]
    tried = re.search(r"reverse_proxy (127.*) \{", CADDYFILE)
    assert tried
    assert tried[1].split() == [f"127.0.0.1{site}" for site, _ in sites]


def test_proxy_forwards_the_webhooks(of_compose: Config) -> None:
    assert "handle /webhooks/* {" in CADDYFILE
    assert all(path.startswith("/webhooks/") for path in of_compose.paths)


# ---- Prometheus


def test_prometheus_scrapes_both_relays_with_a_login_that_they_know(of_compose: Config) -> None:
    prometheus = read_yaml(DEPLOY / "prometheus" / "prometheus.yaml")
    (job,) = prometheus["scrape_configs"]
    port = port_of(of_compose.admin.listen)
    assert job["job_name"] == "itscope-relay"
    assert job["static_configs"] == [{"targets": [f"{relay}:{port}" for relay in RELAYS]}]
    assert job["basic_auth"]["username"] in [account.username for account in of_compose.admin.auth]
    secret = Path(job["basic_auth"]["password_file"]).name
    assert secret in SERVICES["prometheus"]["secrets"]


def test_promtool_agrees_with_the_prometheus_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None and "CI" not in os.environ:
        pytest.skip("promtool is not installed")
    assert promtool is not None
    done = subprocess.run(  # noqa: S603
        [promtool, "check", "config", "--syntax-only", "prometheus.yaml"],
        cwd=DEPLOY / "prometheus",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# ---- Kubernetes


def test_pods_run_the_image_as_it_is_made() -> None:
    user, group = map(int, said_in_dockerfile("USER").split(":"))
    context = POD["securityContext"]
    assert (context["runAsUser"], context["runAsGroup"], context["fsGroup"]) == (user, group, group)
    assert context["runAsNonRoot"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]
    assert CONTAINER["args"] == ["serve", "-c", config_path()]


def test_pods_mount_the_configuration_and_the_secrets() -> None:
    volumes = {volume["name"]: volume for volume in POD["volumes"]}
    paths = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert paths["config"] == str(Path(config_path()).parent)
    assert [paths["secrets"]] == [variable["value"] for variable in CONTAINER["env"]]
    assert volumes["config"]["configMap"]["name"] == MANIFESTS["configmap"]["metadata"]["name"]
    assert volumes["secrets"]["secret"]["secretName"] == MANIFESTS["secret"]["metadata"]["name"]


def test_probes_ask_the_admin_listener(of_kubernetes: Config) -> None:
    ports = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
    assert ports["admin"] == port_of(of_kubernetes.admin.listen)
    assert ports["webhooks"] == port_of(of_kubernetes.server.listen)
    asked = {kind: CONTAINER[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")}
    assert asked == {
        "startup": {"path": "/-/healthy", "port": "admin"},
        "readiness": {"path": "/-/ready", "port": "admin"},
        "liveness": {"path": "/-/healthy", "port": "admin"},
    }


def test_pods_may_drain_before_they_are_killed(of_kubernetes: Config) -> None:
    assert CONTAINER["lifecycle"]["preStop"]["exec"]["command"] == ["sleep", f"{PRE_STOP.seconds}"]
    grace = timedelta(seconds=POD["terminationGracePeriodSeconds"])
    assert grace > PRE_STOP + of_kubernetes.server.drain_timeout + CLOSING


def test_a_rolling_update_and_a_drained_node_leave_a_relay() -> None:
    deployment = MANIFESTS["deployment"]["spec"]
    assert deployment["replicas"] == 2
    assert deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    assert MANIFESTS["disruption"]["spec"]["minAvailable"] == 1


def test_selectors_find_the_pods() -> None:
    labels = MANIFESTS["deployment"]["spec"]["template"]["metadata"]["labels"]
    assert MANIFESTS["deployment"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["disruption"]["spec"]["selector"]["matchLabels"] == labels
    assert MANIFESTS["service"]["spec"]["selector"] == labels
    assert POD["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"] == labels


def test_service_leads_to_the_webhooks_and_not_to_the_admin_listener() -> None:
    assert [port["targetPort"] for port in MANIFESTS["service"]["spec"]["ports"]] == ["webhooks"]
