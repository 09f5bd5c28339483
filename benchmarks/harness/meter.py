"""What handlers call: a counter for throughput, a bell for latency."""

from __future__ import annotations

import asyncio
import json
import resource
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

SLICE = 10_000
_IDLE = 1.5  # seconds without a job after which one of several workers takes the queue for empty


class Meter:
    """Counts jobs as their handlers are called, from the first to the last.

    The clock is the machine's, so that the times of several processes can be compared.
    """

    def __init__(self, jobs: int) -> None:
        self.jobs = jobs
        self.count = 0
        self.first = self.last = 0.0
        self.slices: list[float] = []
        self._done = asyncio.Event()
        self._cpu = 0.0

    def tick(self, _: Any) -> None:
        """One handler was called."""
        self.count += 1
        self.last = time.monotonic()
        if self.count == 1:
            self.first = self.last
            self._cpu = time.process_time()
        if self.count % SLICE == 0:
            self.slices.append(self.last)
        if self.count == self.jobs:
            self._done.set()

    async def wait(self, *, alone: bool) -> None:
        """Until all jobs were seen; where others take some of them, until none has come for a while."""
        if alone:
            await self._done.wait()
            return
        while not self._done.is_set():
            before = self.count
            await asyncio.sleep(_IDLE)
            if self.count == before:
                return

    def report(self) -> dict[str, Any]:
        """What was found, for the parent process."""
        return {
            "count": self.count,
            "first": self.first,
            "last": self.last,
            "slices": self.slices,
            "cpu": time.process_time() - self._cpu,
            "peak": peak_memory(),
        }


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    with suppress(OSError):  # Linux counts the parent's into getrusage
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Bell:
    """Tells a submitter in another process how old a job was when its handler was called.

    A datagram costs a few microseconds, the same for every side, whether it keeps results or not.
    """

    def __init__(self, place: str) -> None:
        self._path = str(Path(place) / "bell")
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)

    def ring(self, payload: Any) -> None:
        """A handler was called; its payload says when it was sent."""
        now = time.time()
        sent = (json.loads(payload) if isinstance(payload, bytes) else payload)["sent"]
        self._socket.sendto(str(now - sent).encode(), self._path)

    async def listen(self) -> None:
        """Be the one who is told."""
        self._socket.setblocking(False)
        self._socket.bind(self._path)
        self._heard: asyncio.Queue[float] = asyncio.Queue()
        asyncio.get_running_loop().add_reader(self._socket, self._hear)

    def _hear(self) -> None:
        self._heard.put_nowait(float(self._socket.recv(64)))

    async def next(self, timeout: float = 30.0) -> float:
        """The next job's age in seconds."""
        async with asyncio.timeout(timeout):
            return await self._heard.get()
