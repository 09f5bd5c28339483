"""Messages that lie in a queue and that no shard ever takes: strangers' alone, since this library publishes none.

The server acknowledges a message whose subject has a wildcard for a word, and stores it as it came, not where the
queue's transform would put it; one with the character DEL in its subject it does not find again by a subject
(nats-server 2.15.1, both measured).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.stored import find_at_leader
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority

NOT_TAKEN = JobError.from_validation(
    "no shard takes a job from such a subject: a word of it is a wildcard, or the character DEL stands in it"
)
_MOST = 1000
"""Strays of a priority that one look finds; the next finds others."""
_NOT_FOUND_AGAIN = b"\x7f"


class Strays:
    """Looks for them. `begin`, then read how far the shards are, then `of`: what came since is not judged."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._last: dict[Priority, int] = {}

    async def begin(self) -> None:
        """Note what the queues hold.

        Raises:
            JobError: If the server cannot be asked.
        """
        for priority in Priority:
            queue = await find(self._connection, f"STREAM.INFO.{self._names.stream(priority)}")
            self._last[priority] = 0 if queue is None else queue["state"]["last_seq"]

    async def of(self, priority: Priority, shards: Sequence[dict[str, Any]]) -> list[int]:
        """The sequences of messages that all shards of a priority have passed over.

        Args:
            priority: Which.
            shards: What the server told of its consumers since `begin`.

        Raises:
            JobError: If the server cannot be asked.
        """
        passed = [info["delivered"]["stream_seq"] for info in shards if info["num_pending"]]
        until = min([self._last.get(priority, 0), *passed]) if shards else 0
        taken = tuple(info["config"]["filter_subject"].removesuffix(">").encode() for info in shards)
        in_flight = {info["delivered"]["stream_seq"] for info in shards if info["num_ack_pending"]}
        found: list[int] = []
        sequence = 1
        while len(found) < _MOST:
            # Few lie there: what the shards have passed, and is still stored, is in flight, given up, or a stray.
            request = {"seq": sequence, "next_by_subj": ">"}
            message = await find_at_leader(self._connection, self._names.stream(priority), request)
            if message is None or message.sequence > until:
                break
            sequence = message.sequence + 1
            is_taken = message.subject.startswith(taken) and _NOT_FOUND_AGAIN not in message.subject
            if not is_taken and message.sequence not in in_flight:
                found.append(message.sequence)
        return found
