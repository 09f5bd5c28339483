"""Starting `app_worker.py`, and reading what its handlers wrote."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from bare_environment import bare_environment
from facts import eventually
from jsjobs import JobService

APP = Path(__file__).with_name("app_worker.py")
Event = dict[str, Any]


class Apps:
    """Processes of one test, and their common journal."""

    def __init__(self, config: JobService.Config, folder: Path) -> None:
        self._folder = folder
        self.journal = folder / "journal"
        assert config.database_url is not None
        self._environment = {
            **bare_environment(),
            "JSJOBS_NATS_URL": config.nats_url,
            "JSJOBS_DATABASE_URL": config.database_url.get_secret_value(),
            "JSJOBS_NAMESPACE": config.namespace,
            "JSJOBS_RETRY": config.retry.model_dump_json(),
            "JSJOBS_GRACE": str(config.grace),
            "JSJOBS_CONCURRENCY": str(config.concurrency or ""),
            "JOURNAL": str(self.journal),
        }
        self.processes: list[subprocess.Popen[bytes]] = []

    async def start(self, role: str = "worker") -> subprocess.Popen[bytes]:
        """Start one; it has subscribed when this returns."""
        process = self.start_soon(role)

        async def is_ready() -> bool:
            assert process.poll() is None, f"it ended: see the logs in {self._folder}"
            return any(event["event"] == "ready" and event["pid"] == process.pid for event in self.events())

        await eventually(is_ready)
        return process

    def start_soon(self, role: str = "worker") -> subprocess.Popen[bytes]:
        """Start one."""
        with (self._folder / f"{role}-{len(self.processes)}.log").open("wb") as log:
            command = [sys.executable, "-W", "error", str(APP), role]
            process = subprocess.Popen(command, env=self._environment, stdout=log, stderr=log)
        self.processes.append(process)
        return process

    def events(self, kind: str | None = None) -> list[Event]:
        """What was written so far, in the order of time."""
        if not self.journal.exists():
            return []
        lines = self.journal.read_bytes().split(b"\n")[:-1]
        events = sorted((json.loads(line) for line in lines), key=lambda event: event["at"])
        return [event for event in events if kind in {None, event["event"]}]

    def close(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()


def by_entity(events: list[Event]) -> dict[str, list[Event]]:
    """Starts and ends of handlers, per entity."""
    entities = defaultdict(list)
    for event in events:
        if event["event"] in {"start", "end"}:
            entities[event["entity"]].append(event)
    return entities


def assert_in_turn(events: list[Event], *, killed: int | None = None) -> None:
    """One entity's handlers never overlapped, and its jobs began in the order 0, 1, 2...; no job before the last ended.

    A handler whose process was killed has no end.
    """
    running: Event | None = None
    numbers = []
    for event in events:
        if event["event"] == "end":
            assert running is not None
            assert (running["job"], running["attempt"]) == (event["job"], event["attempt"])
            running = None
            continue
        assert running is None or running["pid"] == killed, (running, event)
        running = event
        if not numbers or numbers[-1] != event["n"]:
            # A process may be killed between an attempt's begin on paper and its handler's.
            assert event["attempt"] == 1 or killed is not None
            numbers.append(event["n"])
    assert running is None
    assert numbers == list(range(len(numbers)))
