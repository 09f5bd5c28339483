"""Consumers that stall: messages wait, somebody listens, and the server delivers none; finding and waking them.

nats-server 2.15.1 stops delivering at `max_ack_pending`. After a crash its record of what is pending may be older than
its stream, which no longer has those messages. It drops them when `ack_wait` is over, and does not begin to deliver
again until something stirs the consumer: a new message for it, or the end of a pause. See docs/server-quirks.md.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generations import read_live
from jsjobs.jetstream.shard_consumers import resume
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.safe_log import SafeLogger

LOOK_EVERY = 2.0
"""Seconds between two looks for stalled consumers,"""
LOOK_AGAIN = 0.5
"""and to the next one while one seems to be stalled: a stall is a consumer in which nothing moves from look to look."""

_MOST_DOUBLINGS = 6

Place = tuple[str, str]
"""A stream and its consumer."""


@dataclass(slots=True)
class _Sight:
    """How a consumer was found, look after look."""

    at: tuple[int, ...]
    looks: int = -1
    """Further ones that found the same."""
    told: int = 0


def seems_stalled(info: dict[str, Any]) -> bool:
    """Whether a push consumer could deliver now; one look alone cannot tell whether it is about to."""
    return bool(
        info["num_pending"]
        and info["num_ack_pending"] < info["config"]["max_ack_pending"]
        and info.get("push_bound")
        and not info.get("paused")
    )


class Stalls:
    """Tells which consumers stall, from look to look."""

    def __init__(self, *, looks: int = 1) -> None:
        """Begin without a memory.

        Args:
            looks: How many further looks must find a consumer as the first one did.
        """
        self._looks = looks
        self._seen: dict[Place, _Sight] = {}

    @property
    def suspected(self) -> bool:
        """Whether the last look found any that may be stalled, and were not told yet."""
        return any(not sight.told for sight in self._seen.values())

    def stalled(self, infos: Iterable[dict[str, Any]]) -> list[Place]:
        """The consumers that stall, of those that this look found.

        One in which still nothing moves is told again, after twice as many looks each time.
        """
        found: list[Place] = []
        before, self._seen = self._seen, {}
        for info in filter(seems_stalled, infos):
            place = info["stream_name"], info["name"]
            at = (info["delivered"]["consumer_seq"], info["delivered"]["stream_seq"], info["num_ack_pending"])
            last = before.get(place)
            sight = _Sight(at) if last is None or last.at != at else last
            sight.looks += 1
            if sight.looks >= self._looks << min(sight.told, _MOST_DOUBLINGS):
                sight.looks, sight.told = 0, sight.told + 1
                found.append(place)
            self._seen[place] = sight
        return found


async def wake(connection: Connection, names: Names, place: Place, logger: SafeLogger) -> None:
    """Let a consumer deliver again, by a pause of half a second, whose end stirs it.

    An operator who pauses its priority in this very moment is not overruled.

    Raises:
        NotPermitted: If this user of NATS may not pause consumers: a router's and an operator's may.
        JobError: If the server cannot be asked, or the consumer is gone.
    """
    stream, consumer = place
    info = await find(connection, f"CONSUMER.INFO.{stream}.{consumer}")
    if info is None or not seems_stalled(info):
        return
    noted = await _operators_pause(connection, names, consumer)
    await resume(connection, stream, consumer, operators_pause=noted)
    logger.warning("%s: messages waited and none was delivered; it was woken", consumer)
    # Whoever pauses writes that down before he pauses: what ours has replaced is written by now.
    after = await _operators_pause(connection, names, consumer)
    if after != noted:
        await resume(connection, stream, consumer, operators_pause=after)


async def _operators_pause(connection: Connection, names: Names, consumer: str) -> datetime | None:
    shard = Shard.of(consumer)
    return None if shard is None else (await read_live(connection, names, shard.priority)).operators_pause
