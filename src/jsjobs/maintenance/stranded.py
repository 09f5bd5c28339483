"""Find messages in an ordered queue that no shard ever takes. Only strangers publish them; jsjobs publishes none.

The sweep of a parallel lane finds those there (`maintenance/lane_sweep.py`). Their subjects have a wildcard as a token,
or the character DEL: docs/server-quirks.md#a-subject-with-a-wildcard-in-it.
"""

from __future__ import annotations

from collections.abc import Sequence

from jsjobs.jetstream.api.messages import find_at_leader
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import ConsumerInfo, MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane

NOT_TAKEN = {
    lane: JobError.from_validation(
        f"no {part} takes a job from such a subject: it contains a wildcard or the character DEL"
    )
    for lane, part in ((Lane.ORDERED, "shard"), (Lane.PARALLEL, "partition"))
}
_MOST = 1000
"""Stranded messages of a priority that one search finds, at most; the next one finds others."""
NOT_FOUND_AGAIN = b"\x7f"
"""The character DEL: the server does not deliver from a subject that contains it."""


class StrandedMessages:
    """Search for stranded messages.

    Call `begin`, then read how far the shards are, then call `of`: messages that came since `begin` are not judged.
    """

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._last: dict[Priority, int] = {}

    async def begin(self) -> None:
        """Note the last sequence of each queue.

        Raises:
            JobError: If the server cannot be asked.
        """
        for priority in Priority:
            queue = await find_stream(self._connection, self._names.stream(priority))
            self._last[priority] = 0 if queue is None else queue.state.last_seq

    async def of(self, priority: Priority, shards: Sequence[ConsumerInfo]) -> list[int]:
        """Return the sequences of messages that all shards of a priority have passed over.

        Args:
            priority: The priority.
            shards: The information about its consumers, read since `begin`.

        Raises:
            JobError: If the server cannot be asked.
        """
        passed = [info.delivered.stream_seq for info in shards if info.num_pending]
        until = min([self._last.get(priority, 0), *passed]) if shards else 0
        taken = tuple(info.config.filter_subject.removesuffix(">").encode() for info in shards)
        in_flight = {info.delivered.stream_seq for info in shards if info.num_ack_pending}
        found: list[int] = []
        sequence = 1
        while len(found) < _MOST:
            # There are few: messages that the shards have passed and that are still stored are in flight, given up, or
            # stranded.
            request: MessageRequest = {"seq": sequence, "next_by_subj": ">"}
            message = await find_at_leader(self._connection, self._names.stream(priority), request)
            if message is None or message.sequence > until:
                break
            sequence = message.sequence + 1
            is_taken = message.subject.startswith(taken) and NOT_FOUND_AGAIN not in message.subject
            if not is_taken and message.sequence not in in_flight:
                found.append(message.sequence)
        return found
