"""Processes of the harness: each runs one action of one side, and ends with whoever started it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from harness.side import Place

_CHILD = Path(__file__).parents[1] / "child.py"


class ChildFailed(RuntimeError):  # noqa: N818 - it says what is the case
    """A process ended without a finding; what it wrote stands above."""


class Child:
    """One process, ready when this returns; it begins when it is told to.

    Args:
        side: The name of the side.
        action: A function of `child.py`.
        place: Where, and how much.
        way: How jobs are enqueued, where that is the action.
        env: More environment.
    """

    def __init__(
        self, side: str, action: str, place: Place, *, way: str = "", env: dict[str, str] | None = None
    ) -> None:
        asked = asdict(place) | ({"way": way} if way else {})
        own = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "JSJOBS_"))}
        self._what = f"{side} {action}"
        self._process = subprocess.Popen(
            [sys.executable, str(_CHILD), side, action, json.dumps(asked)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=own | (env or {}),
        )
        self._line()

    def go(self) -> None:
        """Let it begin."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()

    def finding(self) -> dict[str, Any]:
        """What it found, when it has ended."""
        found = json.loads(self._line())
        self._process.wait()
        return found

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise ChildFailed(f"{self._what} ended with code {self._process.wait()}")
        return line

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            stream.close()


def run(side: str, action: str, place: Place, *, way: str = "", env: dict[str, str] | None = None) -> dict[str, Any]:
    """One action in a process of its own; what it found."""
    with Child(side, action, place, way=way, env=env) as child:
        child.go()
        return child.finding()


def drain(side: str, place: Place, *, env: dict[str, str] | None = None, processes: int = 1) -> dict[str, Any]:
    """Work a filled queue off; jobs per second from the first handler's call to the last's, CPU and memory.

    Raises:
        ChildFailed: If not every job was handled exactly once, which nothing here should cause.
    """
    with ExitStack() as stack:
        action = "drain" if processes == 1 else "share"
        children = [stack.enter_context(Child(side, action, place, env=env)) for _ in range(processes)]
        for child in children:
            child.go()
        found = [child.finding() for child in children]
    count = sum(one["count"] for one in found)
    if count != place.jobs:
        raise ChildFailed(f"{side}: {count} handler calls for {place.jobs} jobs")
    working = [one for one in found if one["count"]]
    first, last = min(one["first"] for one in working), max(one["last"] for one in working)
    return {
        "rate": (count - 1) / (last - first),
        "cpu": sum(one["cpu"] for one in found) / count,
        "peak": max(one["peak"] for one in found),
        "slices": [time - first for time in working[0]["slices"]] if processes == 1 else [],
    }


def latency(side: str, place: Place) -> dict[str, list[float]]:
    """Seconds from submit to start, and to the result, one job at a time, across processes."""
    with Child(side, "serve", place) as worker, Child(side, "send", place) as sender:
        worker.go()
        time.sleep(1)  # idle means: it has stood for a while
        sender.go()
        return sender.finding()
