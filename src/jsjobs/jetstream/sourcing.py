"""Seeing that a replicated queue takes what is due.

Where a stream gets more copies, its node is no leader for a moment. If anything comes from the schedules in that
moment, a heartbeat say, nats-server 2.15.1 takes down what sources the stream and, since its leader stayed the same,
never sets it up again; a schedule that falls due in that moment is taken for fired and never looked at again. Both were
measured on three nodes: nothing moved any more until another leader was elected.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import Any

from jsjobs.jetstream.api import call
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority

UNHEARD = 3.5
"""Seconds without a word from the schedules after which a stream does not source; heartbeats come every second, and one
that found its queue full tries again after two."""
STOPPED = 30.0
"""Seconds without a word from them after which a stream that nobody touched has stopped."""
_WITHIN = 60.0
_LOOK = 0.25


async def see_that_it_sources(connection: Connection, stream: str) -> bool:
    """Wait until a replicated stream sources under a settled leader; give it another leader if it does not.

    Not before all its copies are current: two new and empty ones would elect one of them.

    Args:
        connection: To the server.
        stream: A queue's, with several copies.

    Returns:
        Whether it sources. It may not where the schedules themselves are away: then it does once they are back.
    """
    began, settled, is_new = time.monotonic(), None, False
    while time.monotonic() - began < _WITHIN:
        with suppress(JobError):  # a stream without a leader does not answer
            info = await call(connection, f"STREAM.INFO.{stream}", timeout=2)
            now = time.monotonic()
            settled = (settled or now) if _is_settled(info) else None
            if settled is not None and 0 <= unheard(info) < now - settled:
                return True
            if settled is not None and now - settled > UNHEARD and not is_new:
                await _step_down(connection, stream, info)
                settled, is_new = None, True
        await asyncio.sleep(_LOOK)
    return False


async def after_more_copies(connection: Connection, names: Names, stream: str) -> None:
    """See that a stream which gets more copies goes on, if it is a queue's or the schedules'."""
    if stream in map(names.stream, Priority):
        await see_that_it_sources(connection, stream)
    elif stream == names.schedule_stream:
        # What it takes for fired cannot be seen: whatever that is, another leader looks at it.
        await _change_leader(connection, stream)


async def _change_leader(connection: Connection, stream: str) -> None:
    began = time.monotonic()
    while time.monotonic() - began < _WITHIN:
        with suppress(JobError):
            info = await call(connection, f"STREAM.INFO.{stream}", timeout=2)
            if _is_settled(info):
                await _step_down(connection, stream, info)
                return
        await asyncio.sleep(_LOOK)


async def _step_down(connection: Connection, stream: str, info: dict[str, Any]) -> None:
    other = {"placement": {"preferred": info["cluster"]["replicas"][0]["name"]}}
    await call(connection, f"STREAM.LEADER.STEPDOWN.{stream}", other)


class Sourcing:
    """Sees, once, that a replicated stream sources."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._is_done = False

    async def see(self) -> bool:
        """As `see_that_it_sources`; whether it was left to do."""
        if self._is_done:
            return False
        self._is_done = True
        await see_that_it_sources(self._connection, self._stream)
        return True


def unheard(info: dict[str, Any]) -> float:
    """Seconds since a stream last heard from the schedules; -1 if it did not since its leader is one."""
    sources = info.get("sources") or []
    return sources[0]["active"] / 1e9 if sources and sources[0]["active"] >= 0 else -1.0


def _is_settled(info: dict[str, Any]) -> bool:
    cluster = info.get("cluster") or {}
    others = [each for each in cluster.get("replicas") or [] if each.get("current")]
    return bool(cluster.get("leader")) and len(others) == info["config"]["num_replicas"] - 1
