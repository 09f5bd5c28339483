"""Remove dead letters that a router has acknowledged and that the server keeps all the same.

A server whose disk was full forgets acknowledgements that it took (docs/server-quirks.md#a-full-disk). Such a letter is
never delivered again, and would count as pending for ever.
"""

from __future__ import annotations

import time

from jsjobs.dead_letters.recorder import DeadLetterRecorder
from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.api.messages import find_at_leader
from jsjobs.jetstream.api.streams import delete_message, find_stream
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.dead_letter_message import read_letter
from jsjobs.jetstream.protocol.names import Names

ADVISORY = b"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES."
"""The beginning of the subjects of what is no letter, but the server's word that it gave up a job."""
_MOST = 100
"""Letters that one sweep looks at, at most; the next one finds others."""


class LetterSweep:
    """Sweep the stream of dead letters."""

    def __init__(self, connection: Connection, names: Names, recorder: DeadLetterRecorder) -> None:
        self._connection = connection
        self._names = names
        self._recorder = recorder
        self._seen: dict[int, float] = {}
        """When each letter was first found so."""

    async def once(self) -> None:
        """Remove what an earlier sweep found, too, and at least the consumer's `ack_wait` ago.

        Raises:
            DatabaseError: If Postgres cannot take a letter now.
            JobError: If the server cannot be asked.
        """
        stream, now = self._names.dead_stream, time.monotonic()
        state = await find_stream(self._connection, stream)
        router = await find_consumer(self._connection, stream, self._names.router)
        before, self._seen = self._seen, {}
        if state is None or router is None:
            return
        sequence, floor = state.state.first_seq, router.ack_floor.stream_seq
        for _ in range(_MOST):
            if sequence > floor:
                return
            message = await find_at_leader(self._connection, stream, {"seq": sequence, "next_by_subj": ">"})
            if message is None or message.sequence > floor:
                return
            first_seen = before.get(message.sequence, now)
            if now - first_seen < router.config.ack_wait / 1e9:
                self._seen[message.sequence] = first_seen
            else:
                # It is stored once more, which changes nothing if it was: it may have been passed over.
                is_letter = not message.subject.startswith(ADVISORY)
                letter = read_letter(self._names, message.subject, message.header, message.data) if is_letter else None
                if letter is None or await self._recorder.store(letter, patient=False):
                    await delete_message(self._connection, stream, message.sequence)
            sequence = message.sequence + 1
