"""Take no more deliveries than may run at once, and let monitors know of a worker that does not listen to every shard.

A push consumer cannot be refused: to get no deliveries, a worker must not be subscribed. But a subscription that ends
while the server is sending to it loses what is sent (docs/server-quirks.md#unsubscribing-loses-what-is-on-its-way). It
ends safely only while this worker has the shard's one delivery, unanswered: the server has nothing to send then.

So a worker stays subscribed to a shard that has no work. A job that comes while all slots are taken waits for a moment.
Then the worker unsubscribes from its shard and gives the job back, and other processes get it at once. Such a shard is
*closed*: it is known to have work, and gets its turn when a slot becomes free, by priority and by how long it has
waited. A turn is a subscription until the shard's next job is here. If none comes, the shard stays open, as at first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from contextlib import suppress
from functools import partial

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.delivery import Delivery, read_delivery
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.worker.job_run import RunKey
from jsjobs.worker.slots import Patience, Slot, SlotRequest, first
from jsjobs.worker.subscriptions import QUEUE

EVERY = 3.0
"""Seconds between two writes of the entry that tells of a busy worker; it lives for three times as long."""
_HEADER = b"NATS/1.0\r\nNats-TTL: %ds\r\n\r\n" % (3 * EVERY)
LINGER = 0.01
"""Seconds that a job waits for a slot before it is given back, so that short jobs cost no subscriptions."""


def tell_busy(connection: Connection, names: Names) -> None:
    """Write the entry that tells of a busy worker, for a while, without waiting for the server's answer."""
    with suppress(JobError):
        connection.post(names.busy_worker, b"1", header=_HEADER)


class _Parked(SlotRequest):
    """A delivery that waits for a slot."""

    __slots__ = ("delivery",)

    def __init__(self, shard: Shard, since: float, begin: Callable[[], None], delivery: Delivery) -> None:
        super().__init__(shard, since, begin)
        self.delivery = delivery


class _Turn(SlotRequest):
    """A closed shard that waits for its turn."""

    __slots__ = ()


class BoundedSubscriptions:
    """Take deliveries of every shard, and run a limited number at once."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        limit: int,
        *,
        lease_time: LeaseTime,
        running: Container[RunKey],
        begin: Callable[[Delivery, Slot], None],
    ) -> None:
        """Start without any subscription.

        Args:
            connection: The connection that deliveries come from.
            names: The namespace.
            limit: How many deliveries may run at once.
            lease_time: The time in which a delivery is surely still ours.
            running: The runs of this worker.
            begin: Runs a delivery, and leaves its slot at the end.
        """
        self._connection = connection
        self._names = names
        self._limit = limit
        self._kept_from = 1
        self._lease_time = lease_time
        self._running = running
        self._begin = begin
        self._taken_slots = 0
        self._sids: dict[Shard, int] = {}
        """The subscription of each shard; for a closed one, its last."""
        self._closed: set[Shard] = set()
        self._expected: dict[Shard, float] = {}
        """Shards that have their turn, and since when; a slot is kept for each one's job."""
        self._late: dict[Shard, float] = {}
        """Shards whose turn passed without a job, and when that turn began."""
        self._requests: list[SlotRequest] = []
        self._more: dict[Shard, float] = {}
        """Shards known to have work, and since when they have waited for a turn."""
        self._patience = Patience()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._is_closing = False
        self._told_busy = float("-inf")

    def deliveries_are(self, max_deliver: int) -> None:
        """Set the limit of deliveries: a job that has had half of them waits here, the rest are for attempts."""
        self._kept_from = max_deliver // 2

    # -- what the shard monitor asks for

    @property
    def taken(self) -> set[Shard]:
        """Return the shards that this worker works, including closed ones."""
        return set(self._sids)

    def listens_to(self, shard: Shard) -> bool:
        """Return whether the server may give a job of this shard to this worker now."""
        return shard in self._sids and shard not in self._closed

    async def take(self, shard: Shard) -> None:
        """Work a shard from now on."""
        self._subscribe(shard)

    async def drop(self, shard: Shard) -> None:
        """Stop working a shard; jobs that it has delivered are still run, or given back."""
        sid = self._sids.pop(shard, None)
        self._closed.discard(shard)
        for known in (self._more, self._expected, self._late):
            known.pop(shard, None)
        # Parked deliveries, and those that wait for a slot again, still run.
        self._requests = [each for each in self._requests if each.shard != shard or not isinstance(each, _Turn)]
        if sid is not None:
            await self._connection.stop_receiving(sid)
        self._fill()

    async def close(self) -> None:
        """Stop working all shards; give back the deliveries that wait for a slot."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        for parked in [each for each in self._requests if isinstance(each, _Parked)]:
            self._give_back(parked.delivery)
        self._requests = []
        await asyncio.gather(*(self.drop(shard) for shard in list(self._sids)))

    # -- slots

    @property
    def _free(self) -> int:
        return self._limit - self._taken_slots - len(self._expected)

    def ask(self, shard: Shard, begin: Callable[[], None]) -> SlotRequest:
        """Ask for a slot; `begin` is called when it is the shard's turn."""
        request = SlotRequest(shard, time.monotonic(), begin)
        self._requests.append(request)
        self._fill()
        return request

    def withdraw(self, request: SlotRequest) -> None:
        """Withdraw a request for a slot."""
        if request in self._requests:
            self._requests.remove(request)

    def took(self) -> None:
        """Note that a slot is taken."""
        self._taken_slots += 1

    def left(self) -> None:
        """Note that a slot is free."""
        self._taken_slots -= 1
        self._fill()

    def _fill(self) -> None:
        while self._requests and self._free > 0:
            request = first(self._requests, time.monotonic())
            self._requests.remove(request)
            request.begin()

    def make_way(self, shard: Shard, attempt: int) -> bool:
        """Close a delivery's shard, so that another process can run the job; return whether to give it back.

        It is False, and the shard stays open, if the job has had too many deliveries for that.
        """
        if attempt >= self._kept_from:
            return False
        self._shut(shard)
        return True

    # -- deliveries

    def _arrived(self, shard: Shard, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        delivery = read_delivery(self._connection, subject, reply, header, data)
        if delivery is None:
            return
        is_running = (shard.priority, delivery.sequence) in self._running
        if self._is_closing and not is_running:
            delivery.nak()
            return
        now = time.monotonic()
        opened_at = self._expected.pop(shard, None) or self._late.pop(shard, None)
        if opened_at is not None and now - opened_at < 4 * self._patience.seconds:
            self._patience.learn(now - opened_at)
        if is_running:
            # The job runs here already: that run goes on with this delivery, or ends before the next begins.
            self._begin(delivery, Slot(self, shard, is_taken=False))
            self._fill()
        elif self._free > 0:
            self._start(shard, delivery)
        elif delivery.attempt >= self._kept_from:
            self._begin(delivery, Slot(self, shard, is_taken=False))
        else:
            since = self._more.get(shard, now)
            self._requests.append(_Parked(shard, since, partial(self._start, shard, delivery), delivery))
            self._watch(LINGER)

    def _start(self, shard: Shard, delivery: Delivery) -> None:
        if delivery.pending:
            self._more[shard] = time.monotonic()
            if self._requests or self._expected:
                # Other shards wait too. Now it is safe to unsubscribe: nothing else can be under way.
                self._shut(shard)
        else:
            self._more.pop(shard, None)
        self._taken_slots += 1
        slot = Slot(self, shard, is_taken=True)
        try:
            self._begin(delivery, slot)
        except BaseException:
            slot.leave()  # a message that cannot even be read takes no slot
            raise

    def _give_back(self, delivery: Delivery) -> None:
        if delivery.age() < self._lease_time.lease:
            delivery.nak()

    # -- subscriptions

    def _subscribe(self, shard: Shard) -> None:
        if (earlier := self._sids.get(shard)) is not None:
            self._connection.forget(earlier)
        self._closed.discard(shard)
        subject = self._names.deliver(shard).encode()
        self._sids[shard] = self._connection.listen(subject, partial(self._arrived, shard), queue=QUEUE)

    def _shut(self, shard: Shard, since: float | None = None) -> None:
        """Unsubscribe from a shard while its one delivery is in hand, and let the shard wait for its turn."""
        if not self.listens_to(shard):
            return  # removed meanwhile
        now = time.monotonic()
        if now - self._told_busy >= EVERY:
            self._told_busy = now
            tell_busy(self._connection, self._names)
        self._connection.listen_no_more(self._sids[shard])
        self._closed.add(shard)
        since = self._more[shard] = now if since is None else since
        self._requests.append(_Turn(shard, since, partial(self._open, shard)))

    def _open(self, shard: Shard) -> None:
        self._subscribe(shard)
        self._expected[shard] = time.monotonic()
        self._watch(self._patience.seconds)

    # -- time

    def _watch(self, seconds: float) -> None:
        at = time.monotonic() + seconds
        if self._timer is None or at < self._timer_at:
            if self._timer is not None:
                self._timer.cancel()
            self._timer_at = at
            self._timer = asyncio.get_running_loop().call_later(max(0.001, seconds), self._tick)

    def _tick(self) -> None:
        self._timer = None
        now, patience = time.monotonic(), self._patience.seconds
        for parked in [each for each in self._requests if isinstance(each, _Parked)]:
            if parked.delivery.age() >= LINGER:
                self._requests.remove(parked)
                self._shut(parked.shard, parked.since)
                self._give_back(parked.delivery)
        for shard in [shard for shard, since in self._expected.items() if now - since >= patience]:
            self._late[shard] = self._expected.pop(shard)
            self._more.pop(shard, None)
        self._fill()
        waiting = [LINGER - each.delivery.age() for each in self._requests if isinstance(each, _Parked)]
        waiting += [patience - (now - since) for since in self._expected.values()]
        if waiting:
            self._watch(min(waiting))
