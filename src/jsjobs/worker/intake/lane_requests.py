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
from collections.abc import Callable, Iterable

from jsjobs.jetstream.api import endpoints
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.jobs.delivery import Delivery, read_delivery
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.model.job import Priority
from jsjobs.worker.intake.partition_requests import PartitionRequests, read_status

_CHECK_EVERY = 1.0
_HELD_FOR = 0.01
"""Seconds for which a priority whose ask is under way keeps its turn; then another may have the slot."""


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
        self._requests: dict[int, PartitionRequests] = {}
        self._inbox = ""
        self._sid: int | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def partitions(self) -> set[Partition]:
        """Return the partitions that this worker works."""
        return {each.partition for each in self._partitions.values()}

    @property
    def asked(self) -> int:
        """Return for how many jobs asks are under way."""
        return sum(each.asked for each in self._partitions.values())

    def open(self) -> None:
        """Listen for answers on a new inbox: after a reconnect, requests made on the old one still stand."""
        if self._sid is not None:
            self._connection.listen_no_more(self._sid)
            self._connection.forget(self._sid)
        self._inbox = self._connection.new_inbox()
        self._sid = self._connection.listen(f"{self._inbox}.*".encode(), self._receive)
        self._requests.clear()
        for each in self._partitions.values():
            each.forget()
        if self._timer is None:
            self._check_again()

    async def close(self) -> None:
        """Take no more; return once everything that the server had sent has arrived."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        sid, self._sid = self._sid, None
        if sid is not None:
            await self._connection.stop_receiving(sid)

    def take(self, partition: Partition) -> None:
        """Work a partition from now on."""
        endpoint = endpoints.next_messages(self._names.queue(partition.queue), partition.consumer)
        requests = PartitionRequests(partition, endpoints.subject(endpoint).encode(), self._send)
        self._partitions[partition.consumer.encode()] = requests
        self._of_priority[partition.priority].append(requests)

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

    # -- turns

    def busy(self) -> set[Priority]:
        """Return the priorities that are known to have jobs."""
        now = time.monotonic()
        return {
            priority
            for priority, all_of_it in self._of_priority.items()
            if any(each.has_work and now >= each.not_before for each in all_of_it)
        }

    def wish(self, priority: Priority, wishes: Counter[PartitionRequests]) -> bool | None:
        """Count one slot for the next partition of a priority that has jobs.

        Returns:
            Whether one could take it. None: it must wait, since asks of this priority are under way.
        """
        waiting = self._of_priority[priority]
        now, must_wait = time.monotonic(), False
        for _ in range(len(waiting)):
            each = waiting[0]
            waiting.rotate(-1)
            if not each.has_work or now < each.not_before:
                continue
            if not each.is_asking:
                wishes[each] += 1
                return True
            must_wait = must_wait or each.asking_for(now) < _HELD_FOR
        return None if must_wait else False

    def ask(self, wishes: Counter[PartitionRequests]) -> None:
        """Send the asks that were wished for."""
        now = time.monotonic()
        for each, count in wishes.items():
            each.ask(count, now)

    def ring(self, priorities: Iterable[Priority]) -> None:
        """See that a bell waits for each partition that is not known to have jobs."""
        now = time.monotonic()
        for priority in priorities:
            for each in self._of_priority[priority]:
                if not (each.has_work or each.has_bell or each.is_asking) and now >= each.not_before:
                    each.ring(now)

    # -- messages

    def _send(self, subject: bytes, body: bytes) -> int | None:
        if self._sid is None:
            return None
        number = next(self._numbers)
        try:
            self._connection.post(subject, body, reply=f"{self._inbox}.{number}".encode())
        except ConnectionLost:
            return None
        return number

    def _receive(self, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        if subject.startswith(self._inbox.encode()):
            self._told(subject, header)
            return
        delivery = read_delivery(self._connection, subject, reply, header, data)
        if delivery is None:
            return
        requests = self._partitions.get(delivery.consumer)
        if requests is not None:
            requests.took(delivery, time.monotonic())
        self._on_delivery(delivery)

    def _told(self, subject: bytes, header: bytes) -> None:
        number = int(subject[len(self._inbox) + 1 :])
        status, text = read_status(header)
        now, is_missing = time.monotonic(), False
        for each in self._partitions.values():
            is_missing = each.told(number, status, text, now) or is_missing
        if is_missing:
            self._on_missing()
        self._on_answer()

    def _check_again(self) -> None:
        now = time.monotonic()
        for each in self._partitions.values():
            each.check(now)
        self._timer = asyncio.get_running_loop().call_later(_CHECK_EVERY, self._check_again)
        self._on_answer()
