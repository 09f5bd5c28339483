"""Purge fired messages: a delayed job stays in the schedule stream until its queue surely has it.

A message that no queue can ever take becomes a dead letter, so that it holds up nothing behind it.
"""

from __future__ import annotations

from jsjobs.dead_letters.recorder import DeadLetterRecorder
from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.api.messages import StoredMessage
from jsjobs.jetstream.api.streams import find_stream, purge_stream
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.unroutable import is_astray, next_due, next_too_large
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import QUEUES, Queue
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.router")
_SHOWN = 200
MAX_READ = 1000
"""Messages that one pass reads, or dead-letters per priority, at most; the next pass continues behind them."""
MAX_BYTES_READ = 16 * 2**20
"""Bytes, as stored, of the messages that one pass reads, at most."""
_MOST_FAILURES = 3
"""Failures to dead-letter a message in one pass, at most: each takes up to twenty seconds if nothing can be stored."""


class ScheduleCleaner:
    """Purge, for each priority, what its queue had acknowledged by the previous pass."""

    def __init__(self, connection: Connection, names: Names, recorder: DeadLetterRecorder) -> None:
        self._connection = connection
        self._names = names
        self._recorder = recorder
        self._last = 0
        """The last sequence of the stream at the previous pass."""
        self._read_to = 0
        """How far the previous pass got in the due messages; 0 if it reached their end."""
        self._seen: dict[Queue, int] = {}
        self._cleared: dict[Queue, int] = {}

    async def clear(self) -> None:
        """Clear every priority; call it now and then.

        A queue acknowledges what it has stored. One pass later, that has also outlived whatever was going on then. A
        message that cannot become a dead letter now is logged, and stays until a later pass.

        Raises:
            JobError: If the server cannot be asked, or refuses a read or a purge.
        """
        for queue in QUEUES:
            await self._purge(queue)
        for queue in QUEUES:
            await self._dead_letter_too_large(queue)
        await self._dead_letter_astray()

    async def _purge(self, queue: Queue) -> None:
        info = await self._source(queue)
        floor = 0 if info is None else await self._taken(queue, info)
        before, self._seen[queue] = self._seen.get(queue, 0), floor
        # A lower floor is that of a recreated consumer, which has yet to learn what its queue has.
        if info is not None and before <= floor and before > self._cleared.get(queue, 0):
            # The purge stops before the sequence that it is given, hence one more.
            stream, subjects = self._names.schedule_stream, info.config.filter_subject
            await purge_stream(self._connection, stream, subjects=subjects, before=before + 1)
            self._cleared[queue] = before

    async def _taken(self, queue: Queue, source: ConsumerInfo) -> int:
        """Return how far the queue has taken due jobs; a consumer that was reset may claim any higher sequence."""
        floor = source.ack_floor.stream_seq
        info = await find_stream(self._connection, self._names.queue(queue))
        return min(floor, info.sources[0].seq) if info is not None and info.sources else 0

    async def _source(self, queue: Queue) -> ConsumerInfo | None:
        stream = self._names.schedule_stream
        return await find_consumer(self._connection, stream, self._names.source(queue))

    async def _dead_letter_too_large(self, queue: Queue) -> None:
        for _ in range(MAX_READ):
            message = await next_too_large(self._connection, self._names, queue)
            if message is None:
                return
            size = len(message.header) + len(message.data)
            headers = f"{len(message.header)} of them headers"
            why = f"with {size} bytes, {headers}, it is too large for the {queue.name} queue"
            if not await self._recorder.dead_letter_due_if_possible(message, JobError.from_validation(why)):
                return

    async def _dead_letter_astray(self) -> None:
        """End due messages on subjects that no queue takes, if they were there at the previous pass already.

        A schedule may still fire a newer one from there. Of the messages that queues do take, few were there at the
        previous pass and are there still, unless the queues are full.
        """
        info = await find_stream(self._connection, self._names.schedule_stream)
        until, self._last = self._last, 0 if info is None else info.state.last_seq
        size = failures = 0
        for _ in range(MAX_READ):
            message = await next_due(self._connection, self._names, self._read_to)
            if message is None or message.sequence > until:
                self._read_to = 0
                return
            self._read_to = message.sequence
            if is_astray(message.subject):
                failures += not await self._recorder.dead_letter_due_if_possible(message, _astray(message))
            size += len(message.header) + len(message.data)
            if size > MAX_BYTES_READ or failures == _MOST_FAILURES:
                return


def _astray(message: StoredMessage) -> JobError:
    where = message.subject.decode("utf-8", "backslashreplace")[:_SHOWN]
    return JobError.from_validation(
        f"no queue takes what is due on {where!r}: after `due` come a priority, an entity "
        "and a type, or `parallel`, a priority, a key and a type"
    )
