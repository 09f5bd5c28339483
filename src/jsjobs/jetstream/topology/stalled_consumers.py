"""Find consumers that stall, and wake them: messages wait, somebody listens, and the server delivers none.

A crash of the server can leave a consumer in this state: docs/server-quirks.md#a-consumer-that-falls-asleep. A pause
that ends after half a second wakes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology.consumers import resume
from jsjobs.jetstream.topology.generations import read_live
from jsjobs.safe_log import SafeLogger

LOOK_EVERY = 2.0
"""Seconds between two checks for stalled consumers."""
LOOK_AGAIN = 0.5
"""Seconds to the next check while a consumer seems to stall. It stalls if nothing moves in it from check to check."""

_MOST_DOUBLINGS = 6

Place = tuple[str, str]
"""A stream and its consumer."""


@dataclass(slots=True)
class _Sight:
    """The state of a consumer over several checks."""

    at: tuple[int, ...]
    looks: int = -1
    """The number of further checks that found the same."""
    told: int = 0


def seems_stalled(info: ConsumerInfo) -> bool:
    """Return whether a push consumer could deliver now; one check alone cannot tell whether it is about to."""
    return bool(
        info.num_pending and info.num_ack_pending < info.config.max_ack_pending and info.push_bound and not info.paused
    )


class Stalls:
    """Tell which consumers stall, from check to check."""

    def __init__(self, *, looks: int = 1) -> None:
        """Start with no earlier checks.

        Args:
            looks: How many further checks must find a consumer as the first one did.
        """
        self._looks = looks
        self._seen: dict[Place, _Sight] = {}

    @property
    def suspected(self) -> bool:
        """Return whether the last check found consumers that may stall and were not reported yet."""
        return any(not sight.told for sight in self._seen.values())

    def stalled(self, infos: Iterable[ConsumerInfo]) -> list[Place]:
        """Return the consumers that stall, among those that this check found.

        A consumer in which still nothing moves is reported again, after twice as many checks each time.
        """
        found: list[Place] = []
        before, self._seen = self._seen, {}
        for info in filter(seems_stalled, infos):
            place = info.stream_name, info.name
            at = (info.delivered.consumer_seq, info.delivered.stream_seq, info.num_ack_pending)
            last = before.get(place)
            sight = _Sight(at) if last is None or last.at != at else last
            sight.looks += 1
            if sight.looks >= self._looks << min(sight.told, _MOST_DOUBLINGS):
                sight.looks, sight.told = 0, sight.told + 1
                found.append(place)
            self._seen[place] = sight
        return found


async def wake(connection: Connection, names: Names, place: Place, logger: SafeLogger) -> None:
    """Let a consumer deliver again by pausing it for half a second: the end of the pause wakes it.

    It does not overrule an operator who pauses the priority at the same moment.

    Raises:
        NotPermitted: If this user of NATS may not pause consumers; a router's and an operator's may.
        JobError: If the server cannot be asked, or the consumer is gone.
    """
    stream, consumer = place
    info = await find_consumer(connection, stream, consumer)
    if info is None or not seems_stalled(info):
        return
    noted = await _operators_pause(connection, names, consumer)
    await resume(connection, stream, consumer, operators_pause=noted)
    logger.warning("%s: messages waited and none was delivered; it was woken", consumer)
    # An operator's pause is noted before it is set: a pause that ours replaced is noted by now.
    after = await _operators_pause(connection, names, consumer)
    if after != noted:
        await resume(connection, stream, consumer, operators_pause=after)


async def _operators_pause(connection: Connection, names: Names, consumer: str) -> datetime | None:
    shard = Shard.of(consumer)
    return None if shard is None else (await read_live(connection, names, shard.priority)).operators_pause
