"""The requests of a worker to one partition of a parallel lane: at most one bell and one ask at a time.

A bell waits on the server for the next job of a partition that is not known to have any. An ask takes what a partition
has now, for as many slots as are free. A killed server forgets both and tells nobody, so each has a time after which it
counts as lost. Neither is ever taken back by unsubscribing: what is on its way would be lost with it.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import StrEnum

from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.protocol.names import Partition

BELL_EXPIRES = 30.0
"""Seconds that the server keeps a bell."""
BELL_HEARTBEAT = 10.0
"""Seconds between two signs of life that the server sends for a waiting bell; two missed ones make it lost."""
ASK_SILENT = 0.25
"""Seconds of silence after which the slots of an ask may be used for another one."""
ASK_LOST = 5.0
"""Seconds of silence after which an ask counts as lost."""
ASK_BYTES = 1024 * 1024
"""Bytes that one ask brings, at most: a server cuts the connection to a client that reads more slowly than it sends
(its `max_pending`). A queue takes no larger message."""
_NANOSECONDS = 10**9
_BELL = json.dumps(
    {"batch": 1, "expires": int(BELL_EXPIRES * _NANOSECONDS), "idle_heartbeat": int(BELL_HEARTBEAT * _NANOSECONDS)}
).encode()

NO_MESSAGES, TIMEOUT, CONFLICT, NO_CONSUMER, HEARTBEAT = 404, 408, 409, 503, 100
_BATCH_COMPLETED = b"Batch Completed"
_CODE_DIGITS = 3
_TOO_LARGE = b"Message Size Exceeds MaxBytes"
_MOST_REFUSALS = 7


class Kind(StrEnum):
    """The two kinds of requests. Each has an inbox of its own: a delivery does not say which request brought it."""

    BELL = "bell"
    ASK = "ask"


class PartitionRequests:
    """The bell and the ask of one partition."""

    def __init__(self, partition: Partition, send: Callable[[Partition, Kind, bytes], int | None]) -> None:
        """Start with no requests.

        Args:
            partition: The partition.
            send: Sends a request, and returns the number by which its answers are known; None without a connection.
        """
        self.partition = partition
        self._send = send
        self.has_work = False
        """Whether it is known to have jobs that nobody has been given."""
        self.asked = 0
        """The jobs that the present ask may still bring."""
        self.not_before = 0.0
        """The time before which nothing is requested: the last request was refused."""
        self.ask_number: int | None = None
        """The number of the ask that is under way; None if none is."""
        self.bell_number: int | None = None
        """The number of the bell that waits on the server; None if none does."""
        self._refusals = 0
        self._ask_at = 0.0
        self._has_brought = False
        self._bell_at = 0.0

    @property
    def is_asking(self) -> bool:
        """Return whether an ask is under way."""
        return self.ask_number is not None

    @property
    def has_bell(self) -> bool:
        """Return whether a bell waits on the server."""
        return self.bell_number is not None

    def asking_for(self, now: float) -> float:
        """Return for how many seconds the present ask has brought nothing."""
        return now - self._ask_at if self.ask_number is not None else 0.0

    def ring(self, now: float) -> None:
        """Wait for the next job."""
        self.bell_number, self._bell_at = self._send(self.partition, Kind.BELL, _BELL), now

    def ask(self, count: int, now: float) -> None:
        """Ask for jobs that are there now."""
        body = b'{"batch": %d, "max_bytes": %d, "no_wait": true}' % (count, ASK_BYTES)
        self.ask_number, self._ask_at = self._send(self.partition, Kind.ASK, body), now
        self._has_brought = False
        self.asked = count if self.ask_number is not None else 0

    def took(self, delivery: Delivery, kind: Kind, now: float) -> None:
        """Note a job that a request of some kind brought."""
        self._refusals = 0
        # A redelivered job may be one of many that came back together: the server counts only new ones as pending.
        self.has_work = delivery.pending > 0 or delivery.attempt > 1
        if kind is Kind.BELL:
            self.bell_number = None
        elif self.ask_number is not None:
            self._has_brought = True
            self.asked -= 1
            self._ask_at = now
            if self.asked <= 0:
                self._end_ask()

    def told(self, number: int, status: int, text: bytes, now: float) -> bool:
        """Take the server's word about a request.

        Returns:
            Whether the partition's consumer may be gone.
        """
        if number == self.ask_number:
            return self._told_of_ask(status, text, now)
        if number != self.bell_number:
            return False  # of a request that counts as lost, or has brought its jobs
        if status == HEARTBEAT:
            self._refusals, self._bell_at = 0, now
            return False
        self.bell_number = None
        return status != TIMEOUT and self._refused(status, text, now)

    def _told_of_ask(self, status: int, text: bytes, now: float) -> bool:
        if status == CONFLICT and text.startswith(_BATCH_COMPLETED):
            # All its jobs are sent; on three nodes this overtakes them, since they wait for the other two.
            return False
        has_brought = self._has_brought
        self._end_ask()
        if status in {NO_MESSAGES, TIMEOUT}:
            self._refusals, self.has_work = 0, False
            return False
        if status == CONFLICT and text.startswith(_TOO_LARGE):
            # A bell has no limit: it brings even a message that no ask could bring.
            self.has_work = has_brought
            return False
        return self._refused(status, text, now)

    def _refused(self, status: int, text: bytes, now: float) -> bool:
        self._refusals = min(self._refusals + 1, _MOST_REFUSALS)
        self.not_before = now + 0.01 * 2**self._refusals
        return status == NO_CONSUMER or b"Consumer" in text

    def check(self, now: float) -> None:
        """Forget requests that were lost."""
        if self.ask_number is not None and now - self._ask_at >= ASK_LOST:
            # It is answered at once unless the server was killed: a bell finds out.
            self._end_ask()
            self.has_work = False
        if self.bell_number is not None and now - self._bell_at >= 2 * BELL_HEARTBEAT + ASK_LOST:
            self.bell_number = None

    def forget(self) -> None:
        """Forget all requests: the connection that they were sent on is gone."""
        self._end_ask()
        self.bell_number = None
        self.not_before = 0.0

    def _end_ask(self) -> None:
        self.ask_number, self.asked = None, 0


def read_status(header: bytes) -> tuple[int, bytes]:
    """Return code and text of the server's word about a request; 0 for a message that is none."""
    line = header[: header.find(b"\r\n")] if header.startswith(b"NATS/1.0 ") else b""
    code, _, text = line[9:].partition(b" ")
    return (int(code) if len(code) == _CODE_DIGITS and code.isdigit() else 0), text
