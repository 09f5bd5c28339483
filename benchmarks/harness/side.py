"""What every side of a comparison offers: a way to submit jobs, and a worker."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

CONCURRENCY = 10
"""Jobs at once in the worker of a peer that has to be told: what most have by default, and as many as jsjobs has shards."""
WINDOW = 1000
"""Submits under way together where they are pipelined, and jobs in one batch."""
RESULT = {"done": True}
"""What every handler returns."""

Handle = Callable[[Any], None]
"""Called by each handler with its payload: counts, or tells the submitter."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a process of the harness finds its server, and what is to be done there."""

    url: str
    home: str
    """A folder of this measurement alone."""
    jobs: int
    scale: int = 1
    padding: int = 0
    """Bytes that each payload carries along."""
    failing: str = ""
    """How every tenth job fails: `once`, or `dead`; only jsjobs is asked to."""

    @property
    def payload(self) -> dict[str, Any]:
        """One job's payload."""
        return {"n": 1, "pad": "x" * self.padding} if self.padding else {"n": 1}


class Client:
    """Submits jobs."""

    batches = False
    """Whether `submit_many` sends many jobs in one request."""

    async def submit(self, payload: Any) -> Any:
        """Submit one job, and wait until it is stored."""
        raise NotImplementedError

    async def call(self, payload: Any) -> None:
        """Submit one job, and wait for its result."""
        raise NotImplementedError

    async def pipeline(self, payloads: Sequence[Any]) -> None:
        """Submit each job by itself, all under way together."""
        await asyncio.gather(*(self.submit(payload) for payload in payloads))

    async def submit_many(self, payloads: Sequence[Any]) -> None:
        """Submit a list of jobs as the library does it best."""
        await self.pipeline(payloads)


class Side:
    """One side; made anew in each process."""

    name = ""
    title = ""
    """As tables show it."""
    broker = "nats"
    packages: tuple[str, ...] = ()
    """Whose versions matter."""
    share = 1.0
    """Jobs of a drain, relative to jsjobs': about as many seconds for each."""
    results = False
    """Whether results are kept, and a submitter can wait for one."""
    setting = ""
    """Its configuration, in a few words."""
    lacks = ""
    """What it does not do, of what jsjobs does in the same time."""
    ways = ("one by one", "pipelined")
    """In which ways enqueueing is measured."""

    async def prepare(self, place: Place) -> None:
        """Make what workers and clients need on the server."""

    def client(self, place: Place) -> AbstractAsyncContextManager[Client]:
        """A connected client."""
        raise NotImplementedError

    async def work(self, place: Place, handle: Handle) -> None:
        """Run a worker until this is cancelled."""
        raise NotImplementedError

    async def fill(self, place: Place) -> None:
        """Queue the jobs of a drain."""
        async with self.client(place) as client:
            for start in range(0, place.jobs, WINDOW):
                await client.submit_many([place.payload] * min(WINDOW, place.jobs - start))
