"""One delivery of a job: what the server pushed, read, and the answers it takes."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost
from jsjobs.jetstream.incoming import IncomingJob, read_job
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.connection")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_V1_WORDS = 9  # $JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<stored at>.<pending>
_ASKED = 2.0  # seconds for an answer about the consumer
_V2_EXTRA = 2  # later servers put a domain and an account hash before the stream
_ACKNOWLEDGES = b"$JS.ACK."


class NoDelivery(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """What came on a deliver subject was published there by somebody, and sent by no consumer: nothing answers it."""

    def __init__(self, subject: bytes, reply: bytes) -> None:
        super().__init__(Reason.VALIDATION, f"a message on {subject[:200]!r}, to be answered on {reply[:200]!r}")


def read_delivery(connection: Connection, subject: bytes, reply: bytes, header: bytes, data: bytes) -> Delivery | None:
    """What came on a deliver subject; None for what no consumer sent, which a line in the log tells of."""
    try:
        return Delivery(connection, subject, reply, header, data)
    except NoDelivery as error:
        logger.warning("dropped, since no consumer sent it: %s", error.message)
        return None


class Delivery:
    """A job message in this worker's hands until it answers, or until `ack_wait` passes.

    Answers other than `renew` are sent without a receipt: a lost one brings the job back, and its entry then tells what
    to do.

    Raises:
        NoDelivery: If no consumer can have sent it.
    """

    __slots__ = (
        "_connection",
        "_consumer",
        "_number",
        "attempt",
        "data",
        "header",
        "lost",
        "pending",
        "reply",
        "sequence",
        "stored_at",
        "subject",
        "taken_at",
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
            """How many messages the consumer had behind this one when it was sent."""
        except (ValueError, IndexError, OverflowError) as error:
            raise NoDelivery(subject, reply) from error
        self._connection = connection
        self.subject = subject
        self.reply = reply
        self.header = header
        self.data = data
        self.taken_at = time.monotonic()
        """Since when the server counts `ack_wait`, at the latest."""
        self.lost = False
        """Whether a newer delivery of the message is known of: an answer here would act on that one."""

    def job(self, names: Names) -> IncomingJob:
        """Read the message."""
        return read_job(names, self.subject, self.header, self.data, sequence=self.sequence, stored_at=self.stored_at)

    def age(self) -> float:
        """Seconds that the server has waited for an answer, at most."""
        return time.monotonic() - self.taken_at

    def ack(self) -> None:
        """The job has ended; the server removes the message and goes on to the next."""
        self._answer(b"+ACK")

    def nak(self, delay: float = 0) -> None:
        """Deliver it again after `delay` seconds; the shard waits."""
        self._answer(b'-NAK {"delay": %d}' % int(delay * 1e9) if delay > 0 else b"-NAK")

    def term(self, reason: str) -> None:
        """The job is dead and its letter is safe: never deliver it again."""
        self._answer(b"+TERM " + reason.encode("ascii", "replace"))

    def answer_through(self, newer: Delivery) -> None:
        """Send all answers through a newer delivery of the message.

        The server takes an acknowledgement by its message, but a NAK only by the delivery's own number.
        """
        self.reply, self._number = newer.reply, newer._number
        if newer.attempt == 1:  # by a consumer that was made anew: no renewal before reached it
            self.taken_at = newer.taken_at

    async def is_paused(self) -> bool:
        """Whether its consumer is paused by now, and would not deliver it again.

        Raises:
            JobError: If the server cannot be asked.
        """
        info = await self._consumer_info()
        return info is not None and bool(info.get("paused"))

    async def is_newest(self) -> bool:
        """Whether its consumer has delivered nothing since: a shard has one delivery at a time.

        If not, the server has given this one up: it waited in a buffer, while its worker stood still.

        Raises:
            JobError: If the server cannot be asked.
        """
        info = await self._consumer_info()
        return info is None or int(info["delivered"]["consumer_seq"]) <= self._number

    async def _consumer_info(self) -> dict[str, Any] | None:
        stream, consumer = (word.decode() for word in self._consumer)
        return await find(self._connection, f"CONSUMER.INFO.{stream}.{consumer}", timeout=_ASKED)

    async def renew(self, timeout: float) -> None:
        """Ask the server to wait for another `ack_wait`.

        Raises:
            JobError: `RunnerUnavailable`, if the server did not confirm it, or a newer delivery is known of.
        """
        if self.lost:
            raise ConnectionLost("the message was delivered again")
        asked_at = time.monotonic()
        await self._connection.ask(self.reply, b"+WPI", timeout=timeout)
        self.taken_at = asked_at

    def _answer(self, data: bytes) -> None:
        if self.lost:
            return
        # Where it breaks, it is not sent later: it would act on a newer delivery; the redelivery finds the entry.
        try:  # noqa: SIM105 - `suppress` takes longer than the rest, and this is every job's way
            self._connection.post(self.reply, data)
        except ConnectionLost:
            pass
