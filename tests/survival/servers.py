"""The servers that are hurt: one nats-server, or three nodes that keep three copies; and Postgres."""

import asyncio
import json
import socket
from base64 import b64decode
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from facts import eventually, is_ok
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.jetstream.api.consumers import list_consumers
from jsjobs.jetstream.api.requests import call, find
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.model.errors import JobError
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate
from jsjobs.settings import Config
from survival.disk import Disk

LOOKS_EVERY = 0.2
KEPT_VERSIONS = 64
"""Of each entry in the state bucket, where the shipped stream keeps one: the checker is to see them all."""


class Servers:
    """All of them, each in a folder of its own; a context manager that starts and stops them."""

    def __init__(self, folder: Path, nodes: int, *, own_disks: bool = False) -> None:
        self.postgres = PostgresServer(folder / "postgres")
        ports = _free_ports(3 * nodes)
        client, route, self._monitors = ports[:nodes], ports[nodes : 2 * nodes], ports[2 * nodes :]
        self.nodes = [
            NatsServer(folder / f"nats-{n}", port=client[n], config=_configuration(n, route, self._monitors[n]))
            for n in range(nodes)
        ]
        self.disks = {node.home.name: Disk(node.home / "jetstream") for node in self.nodes} if own_disks else {}
        """By the names of the nodes that have one of their own; that may not be mounted."""
        self._mounts = ExitStack()

    async def __aenter__(self) -> Self:
        for disk in self.disks.values():
            self._mounts.enter_context(disk)
        await asyncio.gather(*(asyncio.to_thread(server.start) for server in (*self.nodes, self.postgres)))
        for number in range(len(self.nodes)):
            await eventually(partial(self.is_healthy, number), within=30)
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes:
            node.resume()
            await asyncio.to_thread(node.stop)
        self._mounts.close()
        await asyncio.to_thread(self.postgres.remove)

    @property
    def url(self) -> str:
        return ",".join(node.url for node in self.nodes)

    @property
    def monitor(self) -> str:
        """Where the first node tells how it is."""
        return f"http://127.0.0.1:{self._monitors[0]}"

    async def is_healthy(self, number: int) -> bool:
        """Whether the node says that it is up, and has caught up with all its streams and consumers."""
        return await asyncio.to_thread(is_ok, f"http://127.0.0.1:{self._monitors[number]}/healthz")

    async def is_in_sync(self, connection: Connection) -> bool:
        """Whether every node is healthy, and every stream has a leader whose followers have all it has."""
        await asyncio.sleep(LOOKS_EVERY)  # many answers for one look
        healthy = await asyncio.gather(*(self.is_healthy(number) for number in range(len(self.nodes))))
        if not all(healthy):
            return False
        try:
            for name in (await call(connection, "STREAM.NAMES", timeout=2))["streams"]:
                if not _is_current(await call(connection, f"STREAM.INFO.{name}", timeout=2), len(self.nodes)):
                    return False
        except JobError:
            return False
        return True


async def declare(config: Config, servers: Servers, *, kept_versions: int = KEPT_VERSIONS) -> Connection:
    """Make the streams and the table; a connection to look at them with."""
    assert config.database_url is not None
    async with Database(config.database_url.get_secret_value()) as database:
        await migrate(database)
    connection = await connect(config, name="survival")
    names = Names(config.namespace)

    async def applied() -> bool:
        try:  # a new cluster's first leader may not stay
            await TopologyReconciler(connection, names, config).apply()
            bucket = (await call(connection, f"STREAM.INFO.{names.state_stream}"))["config"]
            await call(
                connection, f"STREAM.UPDATE.{names.state_stream}", {**bucket, "max_msgs_per_subject": kept_versions}
            )
        except JobError:
            return False
        return await servers.is_in_sync(connection)

    await eventually(applied, within=60)
    return connection


async def leftovers(connection: Connection, names: Names, queues: list[str]) -> dict[str, int]:
    """What is still in streams that are empty when every job has ended, and in flight there."""
    left: dict[str, int] = {}
    for stream in (*queues, names.dead_stream):
        left[stream] = (await call(connection, f"STREAM.INFO.{stream}"))["state"]["messages"]
        async for consumer in list_consumers(connection, stream):
            left[f"{stream}/{consumer.name}"] = consumer.num_ack_pending
    schedule = names.schedule_stream
    left[schedule] = await _live_schedules(connection, names)
    async for consumer in list_consumers(connection, schedule):
        left[f"{schedule}/{consumer.name}"] = consumer.num_pending
    return left


async def _live_schedules(connection: Connection, names: Names) -> int:
    """Those that are to fire; a cancelled one leaves a tombstone for a minute."""
    stream, count = names.schedule_stream, 0
    asked = {"subjects_filter": f"{names.namespace}.at.>"}
    for subject in (await call(connection, f"STREAM.INFO.{stream}", asked))["state"].get("subjects") or ():
        found = await find(connection, f"STREAM.MSG.GET.{stream}", {"last_by_subj": subject})
        count += found is not None and b"\r\nNats-Schedule:" in b64decode(found["message"].get("hdrs", ""))
    return count


def _configuration(number: int, routes: list[int], monitor: int) -> str:
    text = f"http: 127.0.0.1:{monitor}\n"
    if len(routes) == 1:
        return text
    others = json.dumps([f"nats://127.0.0.1:{port}" for port in routes])
    cluster = f"name: survival, listen: 127.0.0.1:{routes[number]}, no_advertise: true, routes: {others}"
    return f"{text}server_name: nats-{number}\ncluster {{ {cluster} }}\n"


def _is_current(info: dict[str, Any], nodes: int) -> bool:
    if nodes == 1:
        return True
    cluster = info.get("cluster") or {}
    replicas = cluster.get("replicas") or []
    return bool(cluster.get("leader")) and len(replicas) == nodes - 1 and all(one.get("current") for one in replicas)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports
