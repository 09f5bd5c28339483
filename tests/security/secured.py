"""A server that runs the files of `streams/auth` as they stand, and its users."""

import asyncio
import json
import shutil
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import nats
import pytest
from nats.aio.client import Client

from bare_environment import bare_environment
from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

ROOT = Path(__file__).parents[2]
AUTH = ROOT / "streams" / "auth"
USERS = ("worker", "service", "router", "operator", "publisher", "acme", "viewer")
REFUSED = "Permissions Violation for"


def password(user: str) -> str:
    return f"{user}-s3cret"


@contextmanager
def secured(home: Path, config: str, files: Path = AUTH) -> Iterator[NatsServer]:
    """The server, with the passwords in its environment, as the files want it."""
    shutil.copytree(files, home, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        for user in USERS:
            patch.setenv(f"JSJOBS_{user.upper()}_PASSWORD", password(user))
        server = NatsServer(home, config=config)
        server.start()
    try:
        yield server
    finally:
        server.stop()


def server_config() -> str:
    """`server.conf`, but for the folder of its data, which NatsServer settles itself, and with three more users.

    `root` may everything in the namespace's account, `stranger` everything in that of publishers; `delaying` is a worker
    whose handlers delay jobs.
    """
    head, store, tail = (AUTH / "server.conf").read_text().partition('  store_dir: "./jetstream"\n')
    assert store
    # Beside the roles one who may everything, for what no role may: to show that it would work.
    everybody = f'{{ user: root, password: "{password("root")}" }}\n'
    everybody += (
        f'{{ user: delaying, password: "{password("delaying")}", permissions {{ include "delaying-worker.conf" }} }}'
    )
    beside = f'{{ user: stranger, password: "{password("stranger")}" }}'
    text = head + tail.replace("    users: [\n", f"    users: [\n      {everybody}\n", 1)
    return text.replace("    users: [ { user: publisher", f"    users: [ {beside}, {{ user: publisher", 1)


def inbox_of(user: str) -> str:
    return f"_INBOX.{'worker' if user == 'delaying' else user}"


def config_of(url: str, user: str, **given: object) -> JobService.Config:
    values: dict[str, object] = {
        "nats_url": url,
        "nats_user": user,
        "nats_password": password(user),
        "nats_inbox_prefix": inbox_of(user),
        "namespace": "jobs",
        "queue_bytes": 64 * 2**20,
        "ack_wait": 2,
        "grace": 2,
        **given,
    }
    return JobService.Config(**values)


async def apply(config: JobService.Config) -> None:
    async with JobService(config) as service:
        await TopologyReconciler(service.connection, Names(config.namespace), config).apply()


class Wire:
    """A user's connection, byte for byte: what the server says to each command."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: str) -> None:
        self._reader, self._writer, self._user = reader, writer, user

    async def is_refused(self, subject: str, *, kind: str = "Publish") -> bool:
        """Whether the server says that this subject is not for this user to publish or subscribe to."""
        if kind == "Publish":
            self._writer.write(f"PUB {subject} _INBOX.{self._user}.x 0\r\n\r\n".encode())
        else:
            self._writer.write(f"SUB {subject} 1\r\nUNSUB 1\r\n".encode())
        return f'{REFUSED} {kind} to "{subject}"' in await self._said()

    async def publish(self, subject: str, body: bytes, *, reply: str) -> None:
        self._writer.write(b"PUB %b %b %d\r\n%b\r\n" % (subject.encode(), reply.encode(), len(body), body))
        said = await self._said()
        assert REFUSED not in said, said

    async def listen(self, subject: str) -> bool:
        """Subscribe; whether that was refused."""
        self._writer.write(f"SUB {subject} 1\r\n".encode())
        return f'{REFUSED} Subscription to "{subject}"' in await self._said()

    async def heard(self) -> str:
        """All that came until now."""
        return (await self._said()).removesuffix("PONG\r\n")

    async def _said(self) -> str:
        self._writer.write(b"PING\r\n")
        said = ""
        async with asyncio.timeout(10):
            while not said.endswith("PONG\r\n"):
                said += (await self._reader.readline()).decode()
        return said


@asynccontextmanager
async def wire(url: str, user: str) -> AsyncIterator[Wire]:
    host, port = url.removeprefix("nats://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    login = json.dumps({"user": user, "pass": password(user), "verbose": False, "headers": True})
    writer.write(f"CONNECT {login}\r\n".encode())
    try:
        yield Wire(reader, writer, user)
    finally:
        writer.close()
        await writer.wait_closed()


@asynccontextmanager
async def plain_client(url: str, user: str) -> AsyncIterator[Client]:
    """Any NATS client, as one of the users."""

    async def refused(_error: Exception) -> None:
        """What it does is looked at."""

    client = await nats.connect(url, user=user, password=password(user), inbox_prefix=inbox_of(user), error_cb=refused)
    try:
        yield client
    finally:
        await client.close()


async def api(client: Client, endpoint: str, body: object = None, *, timeout: float = 5) -> dict[str, Any]:
    """What the server answers to a request of JetStream's API, or refuses it with, whoever asks."""
    request = b"" if body is None else json.dumps(body).encode()
    answer: dict[str, Any] = json.loads((await client.request(f"$JS.API.{endpoint}", request, timeout=timeout)).data)
    return answer


async def make_consumer(
    client: Client, stream: str, name: str, config: Mapping[str, object], **how: object
) -> dict[str, Any]:
    """Make or change a consumer, with what a role may; the server's answer."""
    whole = {"durable_name": name, "ack_policy": "explicit", **config}
    body = {"stream_name": stream, "config": whole, **how}
    return await api(client, f"CONSUMER.DURABLE.CREATE.{stream}.{name}", body)


async def delete_consumer(client: Client, stream: str, name: str) -> None:
    await api(client, f"CONSUMER.DELETE.{stream}.{name}")


async def remake_consumer(client: Client, stream: str, name: str, config: Mapping[str, object]) -> None:
    """Delete a consumer and make it anew, as somebody likes it."""
    await delete_consumer(client, stream, name)
    answer = await make_consumer(client, stream, name, config)
    assert "error" not in answer, answer


def environment(config: JobService.Config | None = None, **more: str) -> dict[str, str]:
    """What a process sees that is to use these settings, and no others."""
    env = bare_environment()
    for name in () if config is None else sorted(config.model_fields_set):
        value = getattr(config, name)
        if value is not None:
            env[f"JSJOBS_{name.upper()}"] = str(getattr(value, "get_secret_value", lambda value=value: value)())
    return {**env, **more}


@asynccontextmanager
async def serving(env: Mapping[str, str], *arguments: str, cwd: Path) -> AsyncIterator[Path]:
    """Run a command that stays, once it says that it is ready; the file that it logs to. It must end in good order."""
    log = cwd / f"{arguments[0]}.log"
    with log.open("wb") as out:
        child = await asyncio.create_subprocess_exec(
            str(Path(sys.executable).with_name("jsjobs")), *arguments, env=dict(env), cwd=cwd, stdout=out, stderr=out
        )
    try:
        await eventually(lambda: " ready: namespace" in log.read_text())
        yield log
        child.terminate()
        assert await asyncio.wait_for(child.wait(), 20) == 0, log.read_text()
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
