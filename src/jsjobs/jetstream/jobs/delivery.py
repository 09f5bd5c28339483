"""One delivery of a job: the message that the server pushed, and the answers to it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.message import IncomingJob, read_job
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.connection")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_V1_WORDS = 9  # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<stored at>.<pending>
_ASKED = 2.0  # seconds to wait for an answer about the consumer
_V2_EXTRA = 2  # later servers put a domain and an account hash before the stream
_ACKNOWLEDGES = b"$JS.ACK."
_PRIORITIES = {priority.encode(): priority for priority in Priority}


class NoDelivery(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """A message on a deliver subject that somebody published there and no consumer sent; it gets no answer."""

    def __init__(self, subject: bytes, reply: bytes) -> None:
        super().__init__(Reason.VALIDATION, f"a message on {subject[:200]!r}, to be answered on {reply[:200]!r}")


def read_delivery(connection: Connection, subject: bytes, reply: bytes, header: bytes, data: bytes) -> Delivery | None:
    """Return the delivery in a message on a deliver subject, or None if no consumer sent it.

    Such a message is logged.
    """
    try:
        return Delivery(connection, subject, reply, header, data)
    except NoDelivery as error:
        logger.warning("message dropped, since no consumer sent it: %s", error.message)
        return None


class Delivery:
    """A job message in this worker's hands until it answers, or until `ack_wait` passes.

    Answers other than `renew` are sent without a receipt. If one is lost the job is delivered again, and its entry then
    says what to do.

    Raises:
        NoDelivery: If no consumer can have sent it.
    """

    __slots__ = (
        "_consumer",
        "_number",
        "attempt",
        "connection",
        "data",
        "header",
        "lost",
        "pending",
        "reply",
        "sequence",
        "stored_at",
        "subject",
        "taken_at",
        "was_kept",
    )

    def __init__(self, connection: Connection, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        words = reply.split(b".")
        at = 4 if len(words) == _V1_WORDS else 4 + _V2_EXTRA
        # A consumer's message has the subject it is stored under; one with the deliver subject itself is a stranger's.
        if not reply.startswith(_ACKNOWLEDGES) or subject.startswith(b"deliver.", subject.find(b".") + 1):
            raise NoDelivery(subject, reply)
        try:
            self._consumer = words[at - 2], words[at - 1]
            self.attempt = int(words[at])
            """How often the server has delivered this message."""
            self.sequence = int(words[at + 1])
            self._number = int(words[at + 2])
            self.stored_at = _EPOCH + timedelta(microseconds=int(words[at + 3]) // 1000)
            self.pending = int(words[at + 4])
            """Number of messages that the consumer had after this one when it was sent."""
        except (ValueError, IndexError, OverflowError) as error:
            raise NoDelivery(subject, reply) from error
        self.connection = connection
        self.subject = subject
        self.reply = reply
        self.header = header
        self.data = data
        self.taken_at = time.monotonic()
        """The latest moment from which the server can be counting `ack_wait`."""
        self.was_kept = False
        """Whether it waited for a slot for so long that it had to be kept alive."""
        self.lost = False
        """Whether a newer delivery of the message is known: an answer here would act on that one."""

    @property
    def stream(self) -> str:
        """Return the stream that holds its message."""
        return self._consumer[0].decode()

    @property
    def consumer(self) -> bytes:
        """Return the name of the consumer that delivered it."""
        return self._consumer[1]

    @property
    def priority(self) -> Priority:
        """Return the priority of its queue, as its consumer's name tells it."""
        return _PRIORITIES.get(self._consumer[1].partition(b"-")[0], Priority.NORMAL)

    @property
    def is_parallel(self) -> bool:
        """Return whether it comes from a parallel lane, whose jobs hold up nobody while they wait."""
        return b"-parallel-" in self._consumer[1]

    @property
    def wake(self) -> str | None:
        """Return the subject on which a bare NAK ends the delay of this delivery's NAK; None in an ordered shard."""
        return self.reply.decode() if self.is_parallel else None

    def job(self, names: Names) -> IncomingJob:
        """Read the message."""
        return read_job(names, self.subject, self.header, self.data, sequence=self.sequence, stored_at=self.stored_at)

    def age(self) -> float:
        """Return for how many seconds, at most, the server has waited for an answer."""
        return time.monotonic() - self.taken_at

    def ack(self) -> None:
        """Acknowledge the ended job, so that the server removes its message and delivers the next one."""
        self.answer(b"+ACK")

    def nak(self, delay: float = 0) -> None:
        """Have the message delivered again after `delay` seconds; its shard waits meanwhile."""
        self.answer(b'-NAK {"delay": %d}' % int(delay * 1e9) if delay > 0 else b"-NAK")

    def term(self, reason: str) -> None:
        """End the deliveries of a dead job whose letter is stored."""
        self.answer(b"+TERM " + reason.encode("ascii", "replace"))

    def answer_through(self, newer: Delivery) -> None:
        """Send all answers through a newer delivery of the message.

        The server takes an acknowledgement by its message, but a NAK only by the delivery's own number.
        """
        self.reply, self._number = newer.reply, newer._number
        if newer.attempt == 1:  # from a consumer that was created again: no earlier renewal reached it
            self.taken_at = newer.taken_at

    async def is_paused(self) -> bool:
        """Return whether its consumer is paused by now and would not deliver it again.

        Raises:
            JobError: If the server cannot be asked.
        """
        info = await self._consumer_info()
        return info is not None and info.paused

    async def is_newest(self) -> bool:
        """Return whether its consumer has delivered nothing since; a shard has one delivery at a time.

        If it has, the server has given this delivery up: it waited in a buffer while its worker was stalled.

        Raises:
            JobError: If the server cannot be asked.
        """
        info = await self._consumer_info()
        return info is None or info.delivered.consumer_seq <= self._number

    async def consumer_created(self) -> datetime:
        """Return when its consumer was created.

        Raises:
            JobError: If the server cannot be asked.
        """
        info = await self._consumer_info()
        return _EPOCH if info is None else info.created

    async def _consumer_info(self) -> ConsumerInfo | None:
        stream, consumer = (word.decode() for word in self._consumer)
        return await find_consumer(self.connection, stream, consumer, timeout=_ASKED)

    async def renew(self, timeout: float) -> None:
        """Ask the server to wait for another `ack_wait`.

        Raises:
            JobError: `RunnerUnavailable`, if the server did not confirm it, or a newer delivery is known.
        """
        if self.lost:
            raise ConnectionLost("the message was delivered again")
        asked_at = time.monotonic()
        await self.connection.ask(self.reply, b"+WPI", timeout=timeout)
        self.taken_at = asked_at

    def answer(self, data: bytes) -> None:
        """Send an acknowledgement, in the words of the server, unless the delivery is no longer ours."""
        if self.lost:
            return
        # A lost answer is not sent later: it would act on a newer delivery; the redelivery finds the entry.
        try:  # noqa: SIM105 - `suppress` takes longer than the rest, and every job passes here
            self.connection.post(self.reply, data)
        except ConnectionLost:
            pass
