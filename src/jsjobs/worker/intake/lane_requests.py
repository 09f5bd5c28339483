"""Turn free slots into requests for jobs of the parallel lanes.

While slots are free, a bell waits on the server for each partition that is not known to have jobs. Partitions that are
known to have some are asked for as many as there is room for: the priorities by weight, the partitions of one priority
in turn.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter, deque
from collections.abc import Callable
from functools import partial

from jsjobs.jetstream.api import endpoints
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.delivery import Delivery, read_delivery
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.model.job import Priority
from jsjobs.worker.intake.partition_requests import (
    ASK_SILENT,
    BELL_EXPIRES,
    Kind,
    PartitionRequests,
    read_status,
)

_CHECK_EVERY = 0.5
_HELD_FOR = 0.01
"""Seconds for which a priority whose ask is under way keeps its turn; then another may have the slot."""
_LATE_BELL = BELL_EXPIRES + 5
"""Seconds after which no request that was sent on an inbox can bring a job."""
_LONGEST_NUMBER = 18
"""Digits of a request's number, at most."""
_DRAINED_WITHIN = 1.0
"""Seconds in which the last asks bring their jobs, at a stop."""


class LaneRequests:
    """The requests of one worker to all partitions that it works."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        *,
        on_delivery: Callable[[Delivery], None],
        on_answer: Callable[[], None],
        on_missing: Callable[[], None],
    ) -> None:
        """Start with no partition.

        Args:
            connection: The connection to the server.
            names: The namespace.
            on_delivery: Called with each job.
            on_answer: Called when a request has ended, so that free slots may be used for another.
            on_missing: Called when a partition's consumer may be gone.
        """
        self._connection = connection
        self._names = names
        self._on_delivery = on_delivery
        self._on_answer = on_answer
        self._on_missing = on_missing
        self._numbers = itertools.count(1)
        self._partitions: dict[bytes, PartitionRequests] = {}
        """The requests of each partition, by its consumer's name."""
        self._of_priority: dict[Priority, deque[PartitionRequests]] = {priority: deque() for priority in Priority}
        """The partitions of each priority; the first is the one whose turn it is."""
        self._inbox = b""
        """The inbox for answers to new requests; empty if none may be sent."""
        self._sids: dict[bytes, list[int]] = {}
        """The subscriptions of each inbox. Bells that were rung on an older one may still bring a job."""
        self.is_settled = False
        """Whether there is nothing to request: a bell waits for each partition, and none is known to have jobs."""
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None

    @property
    def partitions(self) -> set[Partition]:
        """Return the partitions that this worker works."""
        return {each.partition for each in self._partitions.values()}

    def asked(self) -> tuple[int, int]:
        """Return for how many jobs asks are under way: those that are answered in time, and those that are silent."""
        now, prompt, silent = time.monotonic(), 0, 0
        for each in self._partitions.values():
            if not each.asked:
                continue
            if each.asking_for(now) < ASK_SILENT:
                prompt += each.asked
            else:
                silent += each.asked
        return prompt, silent

    def open(self) -> None:
        """Listen for answers on a new inbox: after a reconnect, requests made on the old one may still stand."""
        if self._inbox:
            # Not at once: what a bell on the old inbox brings in this moment would be lost until `ack_wait` is over.
            asyncio.get_running_loop().call_later(_LATE_BELL, self._leave, self._inbox)
        inbox = self._inbox = self._connection.new_inbox().encode()
        listen = self._connection.listen
        self._sids[inbox] = [
            listen(b"%b.%b.>" % (inbox, kind.encode()), partial(self._receive, inbox, kind)) for kind in Kind
        ]
        for each in self._partitions.values():
            each.forget()
        self.is_settled = False
        if self._timer is None:
            self._check_again()

    def _leave(self, inbox: bytes) -> None:
        for sid in self._sids.pop(inbox, ()):
            self._connection.listen_no_more(sid)
            self._connection.forget(sid)

    async def close(self) -> None:
        """Request no more; return once everything that the server had sent has arrived."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._inbox = b""
        # What an ask takes after its inbox is gone would come back only after `ack_wait`.
        self._drained = asyncio.get_running_loop().create_future()
        self._see_whether_drained(self._drained)
        await asyncio.wait({self._drained}, timeout=_DRAINED_WITHIN if self._connection.is_connected else 0)
        sids = [sid for sids in self._sids.values() for sid in sids]
        self._sids.clear()
        await asyncio.gather(*map(self._connection.stop_receiving, sids))

    def _see_whether_drained(self, drained: asyncio.Future[None]) -> None:
        if not drained.done() and not any(each.ask_number for each in self._partitions.values()):
            drained.set_result(None)

    def take(self, partition: Partition) -> None:
        """Work a partition from now on."""
        requests = PartitionRequests(partition, self._send)
        self._partitions[partition.consumer.encode()] = requests
        self._of_priority[partition.priority].append(requests)
        self.is_settled = False

    def drop(self, partition: Partition) -> None:
        """Work a partition no more; jobs that were requested still come."""
        requests = self._partitions.pop(partition.consumer.encode(), None)
        if requests is not None:
            self._of_priority[partition.priority].remove(requests)

    def note_work(self, partition: Partition) -> None:
        """Note that a partition has jobs, as its consumer's information says, or a job given back."""
        requests = self._partitions.get(partition.consumer.encode())
        if requests is not None:
            requests.has_work = True
            self.is_settled = False

    # -- turns

    def busy(self) -> set[Priority]:
        """Return the priorities that are known to have jobs."""
        now = time.monotonic()
        return {
            each.partition.priority for each in self._partitions.values() if each.has_work and now >= each.not_before
        }

    def wish(self, priority: Priority, count: int, wishes: Counter[PartitionRequests]) -> bool | None:
        """Share slots among the partitions of a priority that have jobs.

        Returns:
            Whether one could take them. None: they must wait, since asks of this priority are under way.
        """
        waiting = self._of_priority[priority]
        now, must_wait, ready = time.monotonic(), False, list[PartitionRequests]()
        for each in waiting:
            if not each.has_work or now < each.not_before:
                continue
            if each.ask_number is None:
                ready.append(each)
            else:
                must_wait = must_wait or each.asking_for(now) < _HELD_FOR
        if not ready:
            return None if must_wait else False
        share, rest = divmod(count, len(ready))
        for place, each in enumerate(ready):
            if place < rest:
                waiting.remove(each)
                waiting.append(each)
            if share or place < rest:
                wishes[each] += share + (place < rest)
        return True

    def ask(self, wishes: Counter[PartitionRequests]) -> None:
        """Send the asks that were wished for."""
        now = time.monotonic()
        for each, count in wishes.items():
            each.ask(count, now)

    def ring(self) -> None:
        """See that a bell waits for each partition that is not known to have jobs."""
        now, is_settled = time.monotonic(), True
        for each in self._partitions.values():
            if each.has_work or each.ask_number is not None:
                is_settled = False
            elif each.bell_number is None:
                if now >= each.not_before:
                    each.ring(now)
                is_settled = is_settled and each.bell_number is not None
        self.is_settled = is_settled

    # -- messages

    def _send(self, partition: Partition, kind: Kind, body: bytes) -> int | None:
        if not self._inbox:
            return None
        number = next(self._numbers)
        consumer = partition.consumer
        subject = endpoints.subject(endpoints.next_messages(self._names.queue(partition.queue), consumer)).encode()
        reply = b"%b.%b.%b.%d" % (self._inbox, kind.encode(), consumer.encode(), number)
        try:
            self._connection.post(subject, body, reply=reply)
        except ConnectionLost:
            return None
        return number

    def _receive(self, inbox: bytes, kind: Kind, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        is_present = inbox == self._inbox or not self._inbox
        self.is_settled = False
        if subject.startswith(inbox):
            if is_present:
                self._told(subject, header)
        elif (delivery := read_delivery(self._connection, subject, reply, header, data)) is not None:
            requests = self._partitions.get(delivery.consumer)
            if requests is not None and is_present:
                requests.took(delivery, kind, delivery.taken_at)
            self._on_delivery(delivery)
        if self._drained is not None:
            self._see_whether_drained(self._drained)

    def _told(self, subject: bytes, header: bytes) -> None:
        _, consumer, number = subject.rsplit(b".", 2)
        requests = self._partitions.get(consumer)
        status, text = read_status(header)
        # A stranger who heard a request may answer on a subject of his own choice.
        request = int(number) if number.isdigit() and len(number) <= _LONGEST_NUMBER else 0
        if requests is not None and requests.told(request, status, text, time.monotonic()):
            self._on_missing()
        self._on_answer()

    def _check_again(self) -> None:
        now = time.monotonic()
        for each in self._partitions.values():
            each.check(now)
        self.is_settled = False
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY, self._check_again)
        self._on_answer()
