"""Servers whose storage is full: by their own limit, by their account's, or because their disk is."""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

FILLER = "FILLER"
BALLAST = "ballast"
"""What fills a disk."""
LIMITS = {
    "server": "jetstream { max_file: %s }",
    "account": """
        accounts {
          JOBS { jetstream { max_file: %s }, users: [{user: "jobs", password: "jobs"}] }
          SYS { users: [{user: "admin", password: "admin"}] }
        }
        system_account: SYS
        no_auth_user: jobs
    """,
    "imported": """
        accounts {
          JOBS {
            jetstream: enabled
            users: [{user: "jobs", password: "jobs"}]
            imports: [{service: {account: SYS, subject: "$SYS.REQ.SERVER.PING.JSZ"}}]
          }
          SYS {
            users: [{user: "admin", password: "admin"}]
            exports: [{service: "$SYS.REQ.SERVER.PING.JSZ", response: stream, accounts: [JOBS]}]
          }
        }
        system_account: SYS
        no_auth_user: jobs
        jetstream { max_file: %s }
    """,
}
"""Where storage is limited, as configuration; in the last, the account may ask how full the server is."""
NAMED = {
    "server": "the file storage of nats-server is full",
    "account": "the storage of this NATS account is full",
}
"""What is said of each."""


class LimitedServer(NatsServer):
    """One whose limit, of the server or of the account, is set to 20 MB once the streams are there."""

    def __init__(self, home: Path, limit: str, *, roomy: str = "4GB") -> None:
        self._limit = LIMITS[limit]
        super().__init__(home, config=self._limit % roomy)

    async def prepare(self, config: JobService.Config) -> None:
        """Apply the streams, and another one that takes whatever it is given."""
        async with connected(config) as connection:
            await TopologyReconciler(connection, Names(config.namespace), config).apply()
            filler = {"name": FILLER, "subjects": ["filler"], "storage": "file"}
            await call(connection, f"STREAM.CREATE.{FILLER}", filler)

    async def lower(self) -> None:
        """Start again, with 20 MB."""
        self.stop()
        self._config = self._limit % "20MB"
        self.start()

    def raise_limit(self) -> None:
        """Have it read another configuration, while it runs."""
        self._config_file.write_text(self._limit % "4GB", encoding="utf-8")
        assert self._child is not None
        self._child.send(signal.SIGHUP)


async def fill(connection: Connection) -> None:
    """Fill what is left, to the last byte."""
    for size in (500_000, 10_000, 300, 1):
        for _ in range(100):
            answer = json.loads((await connection.ask(b"filler", b"x" * size)).data)
            if "error" in answer:
                break
        else:
            raise AssertionError("the server takes whatever it is given")


async def make_room(connection: Connection) -> None:
    await call(connection, f"STREAM.PURGE.{FILLER}")


@contextlib.contextmanager
def small_disk(place: Path) -> Iterator[Path | None]:
    """A disk of 48 MB, mounted there; None where this user may not mount one."""
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(place)], capture_output=True, check=False
    )
    try:
        yield place if mounted.returncode == 0 else None
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", "-l", str(place)], check=True)


async def fill_disk(place: Path) -> None:
    """Fill the disk with one file."""
    ballast = place / BALLAST

    def write() -> None:
        file = os.open(ballast, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        with contextlib.suppress(OSError):
            while True:
                os.write(file, b"x" * 4096)
        os.close(file)

    await asyncio.to_thread(write)
