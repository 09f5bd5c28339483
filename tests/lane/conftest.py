"""Worker processes that a test may kill, and a server of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from bare_environment import bare_environment
from facts import eventually
from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer

APP = Path(__file__).with_name("lane_worker.py")


class Workers:
    """The worker processes of one test, and their common journal."""

    def __init__(self, config: JobService.Config, folder: Path) -> None:
        self._journal = folder / "journal"
        self._folder = folder
        self._environment = {
            **bare_environment(),
            "JSJOBS_NATS_URL": config.nats_url,
            "JSJOBS_NAMESPACE": config.namespace,
            "JSJOBS_GRACE": str(config.grace),
            "JSJOBS_CONCURRENCY": str(config.concurrency),
            "JOURNAL": str(self._journal),
        }
        self._processes: list[subprocess.Popen[bytes]] = []

    async def start(self) -> subprocess.Popen[bytes]:
        """Start one; it works when this returns."""
        process = self.start_soon()
        await eventually(lambda: any(one["pid"] == process.pid for one in self.events("ready")), within=40)
        return process

    def start_soon(self) -> subprocess.Popen[bytes]:
        """Start one."""
        with (self._folder / f"worker-{len(self._processes)}.log").open("wb") as log:
            process = subprocess.Popen([sys.executable, str(APP)], env=self._environment, stdout=log, stderr=log)
        self._processes.append(process)
        return process

    def events(self, kind: str) -> list[dict[str, Any]]:
        """What was noted so far, of one kind."""
        lines = self._journal.read_bytes().split(b"\n")[:-1] if self._journal.exists() else []
        return [event for line in lines if (event := json.loads(line))["event"] == kind]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Callable[[JobService.Config], Workers]]:
    """Makes sets of worker processes; what still runs of them after the test is killed."""
    with ExitStack() as made:

        def make(config: JobService.Config) -> Workers:
            workers = Workers(config, tmp_path)
            made.callback(workers.close)
            return workers

        yield make


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as server:
        yield server
