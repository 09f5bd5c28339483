"""Start what the demo runs on, servers, a worker and a router in one temporary folder, and remove all of it again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from jsjobs.embedded.home import LocalServers
from jsjobs.embedded.processes import Child
from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.client.connect import connect
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate
from jsjobs.resources import shipped
from jsjobs.settings import Config, load

NAMESPACE = "jobs"
ACK_WAIT = 10.0
"""Seconds; short, so that the job of a worker that dies comes back while somebody watches."""
MAX_RESTARTS = 3
READY_S = 30.0
LOG_TAIL_LINES = 10
COMMAND_LINE = "from jsjobs.cli.app import main; main()"
"""`jsjobs` as this very Python runs it; the executable may not be on PATH."""


class DemoError(Exception):
    """The servers or processes of the demo cannot be started or kept running; the text says why."""


class DemoEnvironment:
    """The servers and processes of the demo. Call `close` in any case, also when a start failed."""

    def __init__(self) -> None:
        # Settings for the user's own servers, such as a password or a namespace, are not meant for these.
        for name in list(os.environ):
            if name.startswith("JSJOBS_") or name in {"NATS_URL", "DATABASE_URL"}:
                del os.environ[name]
        self.folder = Path(tempfile.mkdtemp(prefix="jsjobs-demo-")).resolve()
        self.app = shipped("examples/files") / "app.py"
        self.names = Names(NAMESPACE)
        self.restarts = 0
        self._servers = LocalServers(self.folder)
        self._config: Config | None = None
        self._connection: Connection | None = None
        self._children: dict[str, Child] = {}

    @property
    def config(self) -> Config:
        """Return the settings of these servers."""
        assert self._config is not None, "the demo has not started its servers"
        return self._config

    @property
    def connection(self) -> Connection:
        """Return a connection to the NATS server."""
        assert self._connection is not None, "the demo has not started its servers"
        return self._connection

    @property
    def pids(self) -> dict[str, int | None]:
        """Return the process id of every process, by name."""
        servers = {"nats-server": self._servers.nats.pid, "postgres": self._servers.postgres.pid}
        return servers | {name: child.pid for name, child in self._children.items()}

    # -- its parts, in the order they are built

    async def start_servers(self) -> None:
        """Start NATS and Postgres.

        Raises:
            EmbeddedError: If one did not start.
        """
        starting = asyncio.ensure_future(asyncio.to_thread(self._servers.start))
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # The thread goes on: what it starts must exist before it can be stopped.
            await asyncio.wait({starting})
            raise
        found = starting.result()
        self._config = load(
            nats_url=found.nats_url, database_url=found.database_url, namespace=NAMESPACE, ack_wait=ACK_WAIT
        )

    async def apply_streams(self) -> int:
        """Create the streams, the consumers and the dead-letter table, and return the number of streams.

        Raises:
            JobError: If the server refuses.
        """
        self._connection = await connect(self.config, name="jsjobs demo")
        steps = await TopologyReconciler(self._connection, self.names, self.config).apply()
        assert self.config.database_url is not None
        async with Database(self.config.database_url.get_secret_value()) as database:
            await migrate(database)
        return sum(step.kind == "stream" for step in steps)

    async def start_processes(self) -> None:
        """Start the worker and the router, and wait until the server has bound them.

        Raises:
            DemoError: If one of them is not ready in time.
        """
        for name in ("worker", "router"):
            self._start(name)
        deadline = asyncio.get_running_loop().time() + READY_S
        while not await self._ready():
            if asyncio.get_running_loop().time() > deadline:
                raise DemoError(f"the worker and the router were not ready within {READY_S:g} s")
            await asyncio.sleep(0.05)

    async def keep(self, say: Callable[[str], None]) -> None:
        """Watch the processes until cancelled, and restart a worker or router that died.

        Raises:
            DemoError: If a server ended, or a process died too often.
        """
        while True:
            for name, pid in self.pids.items():
                child = self._children.get(name)
                if pid is None:
                    raise DemoError(f"the {name} of the demo has ended")
                if child is not None and not child.running:
                    if self.restarts == MAX_RESTARTS:
                        raise DemoError(f"the {name} process died {MAX_RESTARTS + 1} times")
                    self.restarts += 1
                    self._start(name)
                    say(f"the {name} process {pid} died: started another one, which continues its work")
            await asyncio.sleep(0.1)

    def tail(self) -> str:
        """Return the last lines that the worker and the router wrote, for an error report."""
        lines = []
        for name in self._children:
            log = self._log(name)
            text = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
            # Indented lines are tracebacks of the handlers, some of which fail on purpose.
            records = [line for line in text if not line.startswith(" ")]
            lines += [f"{name}: {line}" for line in records[-LOG_TAIL_LINES:]]
        return "\n".join(lines)

    async def close(self) -> None:
        """End every process and delete the folder."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                await self._connection.close()
        with contextlib.ExitStack() as steps:  # they run from the last to the first, each even if another one fails
            steps.callback(shutil.rmtree, self.folder)
            steps.callback(self._servers.remove)
            for child in self._children.values():
                child.send(signal.SIGTERM)  # to both at once, before waiting for each
                steps.callback(child.stop, signal.SIGTERM)

    # -- helpers

    def _start(self, name: str) -> None:
        database_url = self.config.database_url
        assert database_url is not None
        settings = {
            "JSJOBS_NATS_URL": self.config.nats_url,
            "JSJOBS_DATABASE_URL": database_url.get_secret_value(),
            "JSJOBS_NAMESPACE": NAMESPACE,
            "JSJOBS_ACK_WAIT": str(ACK_WAIT),
            "PYTHONDONTWRITEBYTECODE": "1",  # nothing appears beside the installed app
        }
        arguments = [f"{self.app}:jobs", "--no-router"] if name == "worker" else []
        command = [sys.executable, "-c", COMMAND_LINE, name, *arguments]
        self._children[name] = Child(command, log=self._log(name), cwd=self.folder, env={**os.environ, **settings})

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    async def _ready(self) -> bool:
        for name, child in self._children.items():
            if not child.running:
                raise DemoError(f"the {name} process ended as soon as it was started")
        router = await find_consumer(self.connection, self.names.dead_stream, self.names.router)
        shards = await live_shards(self.connection, self.names)
        return all(info is not None and info.push_bound for info in (router, *shards.values()))
