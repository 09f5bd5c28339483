"""The compose file's NATS nodes, started with their own options on this machine's loopback."""

import asyncio
import socket
import subprocess
from functools import partial
from pathlib import Path
from typing import IO

from deployed import NODES, ROOT, SERVICES

from bare_environment import bare_environment
from facts import eventually, is_ok
from jsjobs.embedded.nats import find_binary

PORTS = (4222, 6222, 8222)
"""Of clients, of routes between the nodes, and of monitoring: each node in its container has the same ones."""


class Cluster:
    """Three nodes; what still runs of them at the end is killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.is_secured = False
        """Whether the nodes run the configuration that the compose file gives them, with its accounts and users."""
        self.config = ""
        """More configuration of every node, in the server's own format."""
        sockets = {(name, port): socket.create_server(("127.0.0.1", 0)) for name in NODES for port in PORTS}
        self.ports = {place: found.getsockname()[1] for place, found in sockets.items()}
        for found in sockets.values():
            found.close()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.logs: list[IO[bytes]] = []

    def here(self, name: str, text: str) -> str:
        """What a text of this node's container means on this machine."""
        text = text.replace("/data", str(self.folder / name)).replace("0.0.0.0:", f"{name}:")
        text = text.replace("/etc/nats/", f"{ROOT}/streams/auth/").replace("--addr=0.0.0.0", "--addr=127.0.0.1")
        for other in NODES:
            for port in PORTS:
                text = text.replace(f"{other}:{port}", f"127.0.0.1:{self.ports[other, port]}")
        for port in PORTS:
            text = text.replace(f"port={port}", f"port={self.ports[name, port]}")
            text = text.replace(f"127.0.0.1:{port}/", f"127.0.0.1:{self.ports[name, port]}/")
        return text

    def start(self, name: str) -> None:
        options = [self.here(name, option) for option in SERVICES[name]["command"]]
        home = self.folder / name
        home.mkdir(exist_ok=True)
        if not self.is_secured:
            [config] = [option for option in options if option.startswith("--config=")]
            options[options.index(config) : options.index(config) + 1] = ["--jetstream", f"--store_dir={home}"]
        if self.config:
            own = self.folder / f"{name}.conf"  # one that all share would be written while another node reads it
            own.write_text(self.config)
            options.append(f"--config={own}")
        log = (self.folder / f"{name}.log").open("ab")
        self.logs.append(log)
        self.processes[name] = subprocess.Popen(
            [find_binary(), *options],
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            env=bare_environment() | SERVICES[name]["environment"],
        )

    async def form(self) -> str:
        """Start all nodes; once they are a cluster, where a client finds it."""
        for name in NODES:
            self.start(name)
        for name in NODES:
            await eventually(partial(self.is_healthy, name), within=30)
        return self.here("nats-1", SERVICES["setup"]["environment"]["NATS_URL"])

    async def is_healthy(self, name: str) -> bool:
        """What the compose file's own health check says."""
        assert self.processes[name].poll() is None, (self.folder / f"{name}.log").read_text()
        return await asyncio.to_thread(is_ok, self.here(name, SERVICES[name]["healthcheck"]["test"][-1]))

    def kill(self, name: str) -> None:
        self.processes[name].kill()
        self.processes[name].wait()

    def close(self) -> None:
        for name in self.processes:
            self.kill(name)
        for log in self.logs:
            log.close()
