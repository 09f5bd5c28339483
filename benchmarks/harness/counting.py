"""What a job costs, counted: steadier than any time, since another process cannot change it.

Counted are the calls of functions, Python's and C's, that one thread makes, the files of jsjobs that they are in, and the
blocks of memory that stay. One shard makes it steadier still: no two deliveries are ever read together.
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from sides.ours import settings

import jsjobs
from harness.side import Place
from jsjobs import JobService

_OURS = f"{Path(jsjobs.__file__).parent}/"
LANES = {"ordered": "one", "parallel": None}
"""The entity of each lane's jobs."""
_WARM = 100
"""Jobs that fill caches first."""


class Calls:
    """Counts the calls of this thread between `start` and `stop`."""

    def __init__(self) -> None:
        self.count = 0
        self._code: set[str] = set()

    @property
    def files(self) -> list[str]:
        """Return the files of jsjobs whose functions were called, as `worker/claim.py`."""
        return sorted(name.removeprefix(_OURS) for name in self._code if name.startswith(_OURS))

    def start(self) -> None:
        """From here."""
        sys.setprofile(self._on_event)

    def stop(self) -> None:
        """To here."""
        sys.setprofile(None)

    def _on_event(self, frame: FrameType, event: str, _argument: Any) -> None:
        if event in {"call", "c_call"}:
            self.count += 1
            self._code.add(frame.f_code.co_filename)


async def count(place: Place) -> dict[str, float]:
    """Return for a job of each lane: calls of a submit, calls of a worker's run, blocks of memory that stay behind in the worker."""
    found: dict[str, float] = {}
    for lane, entity in LANES.items():
        counts = await _count(place, entity)
        found |= {f"{lane} {what}": value for what, value in counts.items()}
    return found


async def _count(place: Place, entity: str | None) -> dict[str, float]:
    service = JobService(settings(place))
    seen, started, done, calls, kept = 0, asyncio.Event(), asyncio.Event(), Calls(), [0, 0]

    @service.handler("noop")
    async def noop(payload: dict[str, Any]) -> dict[str, Any]:
        nonlocal seen
        if seen < _WARM:
            await started.wait()
        seen += 1
        if seen == _WARM:
            gc.collect()
            kept[0] = sys.getallocatedblocks()
            calls.start()
        elif seen == _WARM + place.jobs:
            calls.stop()
            gc.collect()
            kept[1] = sys.getallocatedblocks()
            done.set()
        return payload

    async with service:
        submits = await _submits(service, place, entity)
        async with service.worker():
            started.set()
            await done.wait()
    return {
        "submit calls": submits.count / place.jobs,
        "run calls": calls.count / place.jobs,
        "submit files": len(submits.files),
        "run files": len(calls.files),
        "blocks kept": (kept[1] - kept[0]) / place.jobs,
    }


async def _submits(service: JobService, place: Place, entity: str | None) -> Calls:
    calls = Calls()
    for number in range(_WARM + place.jobs):
        if number == _WARM:
            calls.start()
        await service.submit("noop", place.payload, priority="low", entity=entity)
    calls.stop()
    return calls
