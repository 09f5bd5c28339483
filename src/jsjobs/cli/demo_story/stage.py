"""What the demo runs on: servers, a worker and a router, all in one temporary folder, and nothing of it left after."""

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
from jsjobs.jetstream.api import find
from jsjobs.jetstream.connect import connect
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generations import live_shards
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Topology
from jsjobs.postgres.database import Database
from jsjobs.postgres.migrate import migrate
from jsjobs.resources import shipped
from jsjobs.settings import Config, load

NAMESPACE = "jobs"
ACK_WAIT = 10.0
"""Short, so that the job of a worker that dies comes back while somebody watches."""
MAX_RESTARTS = 3
READY_S = 30.0
LOG_TAIL_LINES = 10
COMMAND_LINE = "from jsjobs.cli.app import main; main()"
"""`jsjobs`, wherever this very Python has it; the executable may not be on PATH."""


class StageError(Exception):
    """The servers or processes of the demo cannot be kept up; the text says why."""


class Stage:
    """Servers and processes. Call `close` in any case, also when `open` failed."""

    def __init__(self) -> None:
        # What is set for the user's own servers, such as a password or a namespace, is not meant for these.
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
        """The settings of these servers."""
        assert self._config is not None, "the stage is not open"
        return self._config

    @property
    def connection(self) -> Connection:
        """A connection to the NATS server."""
        assert self._connection is not None, "the stage is not open"
        return self._connection

    @property
    def pids(self) -> dict[str, int | None]:
        """Every process, by name."""
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
            # A thread goes on: what it starts must be there before it can be ended.
            await asyncio.wait({starting})
            raise
        found = starting.result()
        self._config = load(
            nats_url=found.nats_url, database_url=found.database_url, namespace=NAMESPACE, ack_wait=ACK_WAIT
        )

    async def apply_streams(self) -> int:
        """Make the streams and consumers, and the dead-letter table; how many streams there are.

        Raises:
            JobError: If the server refuses.
        """
        self._connection = await connect(self.config, name="jsjobs demo")
        steps = await Topology(self._connection, self.names, self.config).apply()
        assert self.config.database_url is not None
        async with Database(self.config.database_url.get_secret_value()) as database:
            await migrate(database)
        return sum(step.kind == "stream" for step in steps)

    async def start_processes(self) -> None:
        """Start the worker and the router, and wait until the server has bound them.

        Raises:
            StageError: If one of them is not ready in time.
        """
        for name in ("worker", "router"):
            self._start(name)
        deadline = asyncio.get_running_loop().time() + READY_S
        while not await self._ready():
            if asyncio.get_running_loop().time() > deadline:
                raise StageError(f"worker and router were not ready within {READY_S:g} s")
            await asyncio.sleep(0.05)

    async def keep(self, say: Callable[[str], None]) -> None:
        """Watch the processes until cancelled, and start again a worker or router that died.

        Raises:
            StageError: If a server ended, or a process died too often.
        """
        while True:
            for name, pid in self.pids.items():
                child = self._children.get(name)
                if pid is None:
                    raise StageError(f"the {name} of the demo has ended")
                if child is not None and not child.running:
                    if self.restarts == MAX_RESTARTS:
                        raise StageError(f"the {name} process died {MAX_RESTARTS + 1} times")
                    self.restarts += 1
                    self._start(name)
                    say(f"the {name} process {pid} died: started another, which goes on where it was")
            await asyncio.sleep(0.1)

    def tail(self) -> str:
        """The last lines that worker and router wrote, for an error report."""
        lines = []
        for name in self._children:
            log = self._log(name)
            text = log.read_text("utf-8", "replace").splitlines() if log.exists() else []
            # Indented ones are tracebacks of the handlers, some of which fail on purpose.
            records = [line for line in text if not line.startswith(" ")]
            lines += [f"{name}: {line}" for line in records[-LOG_TAIL_LINES:]]
        return "\n".join(lines)

    async def close(self) -> None:
        """End every process and delete the folder."""
        if self._connection is not None:
            with contextlib.suppress(Exception):
                await self._connection.close()
        with contextlib.ExitStack() as steps:  # from the last to the first, each of them also when one fails
            steps.callback(shutil.rmtree, self.folder)
            steps.callback(self._servers.remove)
            for child in self._children.values():
                child.send(signal.SIGTERM)  # both at once, then wait for each
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
                raise StageError(f"the {name} process ended as soon as it was started")
        router = await find(self.connection, f"CONSUMER.INFO.{self.names.dead_stream}.{self.names.router}")
        shards = await live_shards(self.connection, self.names)
        return all((info or {}).get("push_bound") for info in (router, *shards.values()))
