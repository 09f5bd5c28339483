"""Make a replicated queue take due jobs again after its source has stopped.

The source can stop when the queue's stream gets more copies, and then goes on only under another leader:
docs/server-quirks.md#a-queue-stops-sourcing-when-it-gets-more-copies.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress

from jsjobs.jetstream.api.streams import step_down, stream_info
from jsjobs.jetstream.api.types import StreamInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import QUEUES

UNHEARD = 3.5
"""Seconds without a message from the schedules after which a stream counts as not sourcing. Heartbeats come every
second; a source that found its queue full tries again after two."""
STOPPED = 30.0
"""Seconds without a message from them after which a stream that nobody touched has stopped sourcing."""
WITHIN = 60.0
"""Seconds to wait until a stream sources and has a settled leader."""
_LOOK = 0.25


async def see_that_it_sources(connection: Connection, stream: str) -> bool:
    """Wait until a replicated stream sources under a settled leader; give it another leader if it does not.

    The leader changes only once all copies are current: two new and empty copies would elect one of themselves.

    Args:
        connection: The connection to the server.
        stream: A queue's stream, with several copies.

    Returns:
        Whether it sources. It may not if the schedules themselves are unavailable; it then does once they are back.
    """
    began, settled, is_new = time.monotonic(), None, False
    while time.monotonic() - began < WITHIN:
        with suppress(JobError):  # a stream without a leader does not answer
            info = await stream_info(connection, stream, timeout=2)
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
    """Make a stream that got more copies go on, if it is a queue's or the schedules'."""
    if stream in map(names.queue, QUEUES):
        await see_that_it_sources(connection, stream)
    elif stream == names.schedule_stream:
        # Nothing shows which schedules it takes for fired. A new leader works that out anew.
        await _change_leader(connection, stream)


async def _change_leader(connection: Connection, stream: str) -> None:
    began = time.monotonic()
    while time.monotonic() - began < WITHIN:
        with suppress(JobError):
            info = await stream_info(connection, stream, timeout=2)
            if _is_settled(info):
                await _step_down(connection, stream, info)
                return
        await asyncio.sleep(_LOOK)


async def _step_down(connection: Connection, stream: str, info: StreamInfo) -> None:
    await step_down(connection, stream, info.replicas[0].name)


class Sourcing:
    """Make a replicated stream source; do so once."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self._stream = stream
        self._is_done = False

    async def see(self) -> bool:
        """Do as `see_that_it_sources` does, the first time only; return whether this was the first time."""
        if self._is_done:
            return False
        self._is_done = True
        await see_that_it_sources(self._connection, self._stream)
        return True


def unheard(info: StreamInfo) -> float:
    """Return the seconds since a stream last heard from the schedules; -1 if it has not under its present leader."""
    return info.sources[0].active / 1e9 if info.sources and info.sources[0].active >= 0 else -1.0


def _is_settled(info: StreamInfo) -> bool:
    current = [each for each in info.replicas if each.current]
    return info.cluster is not None and bool(info.cluster.leader) and len(current) == info.config.num_replicas - 1
