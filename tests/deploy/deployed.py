"""What `deploy/`, the compose file and the Dockerfile say, as data."""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
MANIFESTS = {
    path.name: yaml.safe_load(path.read_text())
    for path in sorted((DEPLOY / "kubernetes").glob("*.yaml"))
    if path.name != "kustomization.yaml"
}
SCALERS = {name: manifest for name, manifest in MANIFESTS.items() if manifest["kind"] == "ScaledObject"}
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
NODES = ("nats-1", "nats-2", "nats-3")
BOARD = json.loads((DEPLOY / "grafana" / "dashboards" / "jsjobs.json").read_text())
ALERTS = [rule for group in yaml.safe_load((DEPLOY / "alerts.yml").read_text())["groups"] for rule in group["rules"]]
TEXTS = [ROOT / "Dockerfile", ROOT / "docker-compose.yml", *DEPLOY.rglob("*.y*ml"), ROOT / "docs" / "deploy.md"]
DOCKERFILE = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")


def instruction(name: str) -> list[str]:
    """What stands after each instruction of this name in the Dockerfile."""
    return re.findall(rf"^{name}\s+(.*)$", DOCKERFILE, re.MULTILINE)


def panels() -> list[dict[str, Any]]:
    """The board's panels that show something."""
    return [panel for panel in BOARD["panels"] if panel["type"] != "row"]


def queries() -> dict[str, str]:
    """Every PromQL expression there is, by where it stands."""
    found = {rule["alert"]: rule["expr"] for rule in ALERTS}
    for panel in panels():
        for target in panel["targets"]:
            found[f"panel {panel['title']}, {target['refId']}"] = target["expr"]
    for name, scaler in SCALERS.items():
        for trigger in scaler["spec"]["triggers"]:
            if trigger["type"] == "prometheus":
                found[name] = trigger["metadata"]["query"]
    return found


def pods() -> dict[str, dict[str, Any]]:
    """The pod of each manifest that has one."""
    return {
        name: manifest["spec"]["template"]["spec"]
        for name, manifest in MANIFESTS.items()
        if manifest["kind"] in {"Deployment", "Job"}
    }


def containers() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every container of every manifest."""
    for name, pod in pods().items():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            yield f"{name}: {container['name']}", container


def commands() -> dict[str, list[str]]:
    """The arguments of every `jsjobs` that is started or told to be, by where it stands."""
    found = {name: container["args"] for name, container in containers()}
    for name, service in SERVICES.items():
        if service["image"] == "jsjobs" and "entrypoint" not in service:
            found[f"compose: {name}"] = service["command"]
    for line in SERVICES["setup"]["command"][0].split("&&"):
        found[f"compose: setup: {line.strip()}"] = shlex.split(line)[1:]
    found["Dockerfile: CMD"] = json.loads(instruction("CMD")[0])
    for path in TEXTS:
        for line in re.findall(r"(?:`|exec \w+ )jsjobs ([^`\n]+)", path.read_text()):
            found[f"{path.name}: {line}"] = shlex.split(line)
    comment = re.search(r"^#   CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert comment
    found["Dockerfile: an application's CMD"] = json.loads(comment[1])
    return found


def secrets() -> dict[str, set[str]]:
    """The settings in each role's Secret, as config.yaml says that it is made."""
    text = (DEPLOY / "kubernetes" / "config.yaml").read_text()
    made = re.findall(r"^# +kubectl create secret generic jsjobs-(\w+)(.*)$", text, re.MULTILINE)
    return {role: set(re.findall(r"--from-literal='?(\w+)=", literals)) for role, literals in made}


def environment() -> dict[str, set[str]]:
    """The names of environment variables that are set for jsjobs, by where."""
    found = {name: set(service["environment"]) for name, service in SERVICES.items() if service["image"] == "jsjobs"}
    found["config.yaml"] = set(MANIFESTS["config.yaml"]["data"])
    found["Dockerfile"] = set(re.findall(r"\b(JSJOBS_\w+)=", DOCKERFILE))
    for path in TEXTS:
        found[path.name] = found.get(path.name, set()) | set(re.findall(r"\bJSJOBS_[A-Z_]+\b", path.read_text()))
    return found


def seconds(text: str) -> float:
    """A duration of the compose file, such as 30s."""
    return float(text.removesuffix("s"))
