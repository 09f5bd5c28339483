"""Give each delivery a slot: pushed jobs of the shards, and jobs of the parallel lanes, as many as there is room for.

A delivery for which no slot is free waits here for a moment, then goes back: another worker may have room. So that a
job for which no worker has room is not sent in circles, one that was given back often waits twice as long each time. An
ordered job that has used half of its deliveries is kept here until a slot is free.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.delivery import Delivery, read_delivery
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.worker.intake.lane_requests import LaneRequests
from jsjobs.worker.intake.partition_requests import PartitionRequests
from jsjobs.worker.intake.slots import Slot, SlotRequest, Slots, Turns
from jsjobs.worker.intake.subscriptions import Subscriptions

LINGER = 0.01
"""Seconds that a job without a slot waits here before it goes back."""
BOUNCES = 20
"""Deliveries of a job after which it waits longer each time."""
_LONGEST = 2.0
_DOUBLINGS = 8


class Intake:
    """Take jobs of both lanes for as long as the worker runs."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        slots: Slots,
        *,
        lease_time: LeaseTime,
        begin: Callable[[Delivery, Slot], None],
        goes_on: Callable[[Delivery], bool],
        on_missing: Callable[[], None],
    ) -> None:
        """Take nothing yet.

        Args:
            connection: The connection to the server.
            names: The namespace.
            slots: The worker's slots.
            lease_time: The time in which a delivery is surely still ours.
            begin: Takes a delivery, with its slot.
            goes_on: Gives a delivery to the run that its message has here, if that run goes on with it.
            on_missing: Called when a partition's consumer may be gone.
        """
        self._connection = connection
        self._slots = slots
        self._lease_time = lease_time
        self._max_deliver = 0
        self._begin = begin
        self._goes_on = goes_on
        self._turns = Turns()
        self._filling = False
        self._later: asyncio.TimerHandle | None = None
        self._is_closed = False
        self.on_arrival: Callable[[Delivery], None] = self.admit
        """Takes each delivery that arrives; a test may hold some back, and admit them later."""
        self.shards = Subscriptions(connection, names, self._on_push)
        self.lanes = LaneRequests(
            connection, names, on_delivery=self._arrived, on_answer=self._soon, on_missing=on_missing
        )
        slots.on_free = self._use_free

    def open(self) -> None:
        """Begin to request jobs; call it again after a reconnect."""
        self.lanes.open()
        self._soon()

    async def close(self) -> None:
        """Take no more; what arrives meanwhile is given back."""
        self._is_closed = True
        if self._later is not None:
            self._later.cancel()
        for waiting in self._slots.waiting.values():
            for request in list(waiting):
                if isinstance(request, _Parked):
                    self._give_back(request)
        await asyncio.gather(self.shards.close(), self.lanes.close())

    @property
    def partitions(self) -> set[Partition]:
        """Return the partitions that this worker works."""
        return self.lanes.partitions

    def take_partition(self, partition: Partition) -> None:
        """Work a partition from now on."""
        self.lanes.take(partition)
        self._soon()

    def drop_partition(self, partition: Partition) -> None:
        """Work a partition no more."""
        self.lanes.drop(partition)

    def limit_deliveries(self, most: int) -> None:
        """Note the most deliveries that an ordered job may have; 0 if there is no limit."""
        self._max_deliver = most

    def note_work(self, partition: Partition) -> None:
        """Note that a partition has jobs that wait."""
        self.lanes.note_work(partition)
        self._soon()

    # -- deliveries

    def _on_push(self, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        if delivery := read_delivery(self._connection, subject, reply, header, data):
            self._arrived(delivery)

    def _arrived(self, delivery: Delivery) -> None:
        self.on_arrival(delivery)

    def admit(self, delivery: Delivery) -> None:
        """Give a delivery a slot, now or in a moment; without a slot by then it goes back."""
        slots = self._slots
        if (self._is_closed or slots.free <= 0) and self._goes_on(delivery):
            return  # its run has a slot
        if self._is_closed:
            delivery.nak()
            return
        priority = delivery.priority
        if slots.free > 0 and not slots.count_waiting:
            self._begin(delivery, slots.take(priority))
            if slots.free > 0 and not self.lanes.is_settled:
                self._soon()
            return
        parked = _Parked(delivery, priority, self)
        after, then = patience(delivery.attempt), self._give_back
        if not delivery.is_parallel and 0 < self._max_deliver <= 2 * delivery.attempt:
            # The other half is for its attempts: a message that has had all deliveries is dead.
            after, then = self._lease_time.ack_wait / 3, self._keep
        parked.timer = asyncio.get_running_loop().call_later(after, then, parked)
        slots.put(parked)

    def _give_back(self, parked: _Parked) -> None:
        """Give back a job for which no slot became free."""
        parked.cancel()
        self._slots.withdraw(parked)
        delivery = parked.delivery
        if (partition := Partition.of(delivery.consumer.decode())) is not None:
            self.lanes.note_work(partition)
        if delivery.age() < self._lease_time.lease:
            delivery.nak()

    def _keep(self, parked: _Parked) -> None:
        """Keep a job alive that waits here until it has a slot."""
        parked.delivery.was_kept = True
        parked.keeping = asyncio.ensure_future(self._renew(parked))

    async def _renew(self, parked: _Parked) -> None:
        third, delivery = self._lease_time.ack_wait / 3, parked.delivery
        while delivery.age() < self._lease_time.lease:
            with suppress(JobError):  # tried again, until the lease is over
                if await delivery.is_paused():  # whoever pauses a priority waits until each delivered job is decided
                    self._give_back(parked)
                    return
                await delivery.renew(third)
            await asyncio.sleep(third)
        self._slots.withdraw(parked)  # it comes back by itself

    def start(self, parked: _Parked) -> None:
        """Begin a delivery that waited, now that a slot is free."""
        parked.cancel()
        self._begin(parked.delivery, self._slots.take(parked.priority))

    # -- turns

    def _soon(self) -> None:
        """Use free slots once everything that is under way in this turn of the event loop is done."""
        if not self._filling and not self._is_closed:
            self._filling = True
            asyncio.get_running_loop().call_soon(self._fill)

    def _use_free(self) -> None:
        """Use free slots, unless nothing wants them."""
        if self._slots.count_waiting or not self.lanes.is_settled:
            self._soon()

    def _after_a_while(self) -> None:
        self._later = None
        self._soon()

    def _fill(self) -> None:
        self._filling = False
        if self._is_closed:
            return
        slots, lanes = self._slots, self.lanes
        if slots.free <= 0:
            return
        in_lanes = lanes.busy()
        # Jobs in hand come before those that are still to be asked for.
        while slots.count_waiting and slots.free > 0:
            waiting = {priority for priority, requests in slots.waiting.items() if requests}
            priority = self._turns.next(waiting)
            self._turns.took(priority, waiting | in_lanes)
            slots.serve(priority)
        if in_lanes:
            prompt, silent = lanes.asked()
            # A server that does not answer in time must not keep the slots; nor is ever more asked of it.
            self._ask(slots.free - prompt if silent < slots.limit else 0, in_lanes)
        if slots.free > 0:
            lanes.ring()

    def _ask(self, left: int, busy: set[Priority]) -> None:
        """Ask for as many jobs as there is room for."""
        wishes: Counter[PartitionRequests] = Counter()
        while left > 0 and busy:
            priority = self._turns.next(busy)
            count = left if len(busy) == 1 else 1
            has_wish = self.lanes.wish(priority, count, wishes)
            if has_wish is None:  # its turn is kept until its ask has ended
                if self._later is None:
                    self._later = asyncio.get_running_loop().call_later(LINGER, self._after_a_while)
                break
            if has_wish:
                self._turns.took(priority, busy)
                left -= count
            else:
                busy.discard(priority)
        self.lanes.ask(wishes)


class _Parked(SlotRequest):
    """A delivery that waits here for a slot."""

    __slots__ = ("delivery", "keeping", "timer")

    timer: asyncio.TimerHandle

    def __init__(self, delivery: Delivery, priority: Priority, intake: Intake) -> None:
        super().__init__(priority, lambda: intake.start(self))
        self.delivery = delivery
        self.keeping: asyncio.Task[None] | None = None

    def cancel(self) -> None:
        """End the wait."""
        self.timer.cancel()
        if self.keeping is not None:
            self.keeping.cancel()


def patience(attempt: int) -> float:
    """Return the seconds that a delivery waits for a slot before it goes back."""
    return min(_LONGEST, LINGER * (1 << min(_DOUBLINGS, max(0, attempt - BOUNCES))))
