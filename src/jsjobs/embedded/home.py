"""The local servers of a project folder: one owner starts them, other commands find them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING

from jsjobs.embedded import postgres_place
from jsjobs.embedded.discovery import HOME, SERVERS_FILE, Endpoints
from jsjobs.embedded.errors import EmbeddedError, ServersAlreadyRunning
from jsjobs.embedded.nats import NatsServer
from jsjobs.embedded.postgres import PostgresServer
from jsjobs.embedded.processes import birth

if TYPE_CHECKING:
    from collections.abc import Iterable


class LocalServers:
    """The servers of one folder; their data stay in its subfolder `.jsjobs`.

    Args:
        folder: The project's folder; created if it is missing.
        nats_port: The `port` of the `NatsServer`.
        preferred_nats_port: The `preferred_port` of the `NatsServer`.
    """

    def __init__(self, folder: Path, *, nats_port: int | None = None, preferred_nats_port: int | None = None) -> None:
        """See the class."""
        self.folder = folder.resolve()
        self.home = self.folder / HOME
        self.nats = NatsServer(self.home, port=nats_port, preferred_port=preferred_nats_port)
        self.postgres = PostgresServer(self.home)
        self._lock: IO[str] | None = None

    def start(self, *, nats: bool = True, postgres: bool = True) -> Endpoints:
        """Start the servers, both at once, and let other commands find them.

        Raises:
            ServersAlreadyRunning: If another owner, or this one, runs them.
            EmbeddedError: If one did not start; then none runs.
        """
        self._make_home()
        self._lock = self._take_lock()
        try:
            self._end_left_over()
            _start_together([server for server, asked in ((self.nats, nats), (self.postgres, postgres)) if asked])
            found = Endpoints(self.nats.url if nats else None, self.postgres.url if postgres else None)
            self._announce(found)
        except BaseException:
            self.stop()
            raise
        return found

    def stop(self) -> None:
        """Stop the servers gracefully; other commands no longer find them. Do nothing if this owner started none."""
        if self._lock is None:
            return
        with contextlib.ExitStack() as steps:  # runs from the last to the first, and goes on when one fails
            steps.callback(self._release_lock)
            steps.callback(self.nats.stop)
            steps.callback(self.postgres.stop)
            steps.callback((self.home / SERVERS_FILE).unlink, missing_ok=True)

    @property
    def started(self) -> bool:
        """Return whether this owner has started the servers and not stopped them."""
        return self._lock is not None

    @property
    def data(self) -> list[Path]:
        """Return the folders that hold the servers' data; root's Postgres has one of its own."""
        postgres = postgres_place.find_data(self.home)
        return [self.home, *([] if postgres is None or postgres.is_relative_to(self.home) else [postgres])]

    def remove(self) -> None:
        """Stop the servers and delete their data.

        Raises:
            ServersAlreadyRunning: If another owner runs them.
        """
        if not self.home.exists():
            return
        self.stop()
        with self._take_lock():
            self._end_left_over()
            self.postgres.remove()
            shutil.rmtree(self.home)

    def _make_home(self) -> None:
        try:
            self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.home.chmod(0o700)  # it may have existed before
            (self.home / ".gitignore").write_text("*\n", encoding="ascii")
        except OSError as error:
            raise EmbeddedError(f"{self.home} cannot hold the local servers: {error}") from error

    def _end_left_over(self) -> None:
        # End everything of a crashed owner, also a server that is not asked for this time.
        (self.home / SERVERS_FILE).unlink(missing_ok=True)
        self.nats.end_left_over()
        self.postgres.end_left_over()

    def _take_lock(self) -> IO[str]:
        # The system releases the lock of an owner that died, however it died.
        lock = (self.home / "lock").open("a+", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip()
            lock.close()
            raise ServersAlreadyRunning(self.folder, int(owner) if owner.isdigit() else None) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def _announce(self, found: Endpoints) -> None:
        pids = [os.getpid(), *(pid for pid in (self.nats.pid, self.postgres.pid) if pid is not None)]
        # The application adds its settings with `share_settings` once it runs.
        text = json.dumps({**asdict(found), "processes": [{"pid": pid, "born": birth(pid)} for pid in pids]}, indent=1)
        new = self.home / f"{SERVERS_FILE}.new"
        new.write_text(text, encoding="utf-8")
        new.replace(self.home / SERVERS_FILE)


def _start_together(servers: Iterable[NatsServer | PostgresServer]) -> None:
    with ThreadPoolExecutor() as threads:
        starts = [threads.submit(server.start) for server in servers]
    for start in starts:
        start.result()
