"""Taking no more deliveries than may run at once.

A push consumer cannot be told no: what is not wanted must not be subscribed to. But a subscription that ends while the
server is sending to it loses what is sent, until `ack_wait` brings it back (measured on nats-server 2.15.1). It ends
safely only while the shard's one delivery is in this worker's hands, unanswered: the server has nothing to send then.

So a worker stays subscribed to a shard that has no work. A job that comes though all places are taken waits for a
moment; then the worker unsubscribes from its shard and gives the job back: other processes have it at once. Such a
shard is *closed*: it is known to have work, and has its turn when a place becomes free, by priority and by how long it
has waited. Its turn is a subscription until its next job is here. Where nothing comes, it is open, as it was at first.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container
from functools import partial

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.delivery import Delivery, read_delivery
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.worker.busy import EVERY, tell_busy
from jsjobs.worker.lease import LeaseTime
from jsjobs.worker.place import Place
from jsjobs.worker.run import RunKey
from jsjobs.worker.taking import QUEUE
from jsjobs.worker.turns import Claimant, Patience, first

LINGER = 0.01
"""Seconds that a job waits for a place before it is given back: short jobs then cost no subscriptions."""


class _Parked(Claimant):
    """A delivery that waits for a place."""

    __slots__ = ("delivery",)

    def __init__(self, shard: Shard, since: float, begin: Callable[[], None], delivery: Delivery) -> None:
        super().__init__(shard, since, begin)
        self.delivery = delivery


class _Turn(Claimant):
    """A closed shard."""

    __slots__ = ()


class BoundedTaking:
    """Takes deliveries of every shard, and begins so many at once."""

    def __init__(
        self,
        connection: Connection,
        names: Names,
        limit: int,
        *,
        lease_time: LeaseTime,
        running: Container[RunKey],
        begin: Callable[[Delivery, Place], None],
    ) -> None:
        """Nothing is taken yet.

        Args:
            connection: Where deliveries come from.
            names: The namespace.
            limit: How many may run at once.
            lease_time: In which a delivery is surely still ours.
            running: What this worker has in hand.
            begin: Runs a delivery; whoever does leaves the place at the end.
        """
        self._connection = connection
        self._names = names
        self._limit = limit
        self._kept_from = 1
        self._lease_time = lease_time
        self._running = running
        self._begin = begin
        self._taken_places = 0
        self._sids: dict[Shard, int] = {}
        """Of each shard; of a closed one, that of its last subscription."""
        self._closed: set[Shard] = set()
        self._expected: dict[Shard, float] = {}
        """Shards that have their turn, each with a place kept for its job, since when."""
        self._late: dict[Shard, float] = {}
        """Shards whose turn is over without a job, and since when they had it."""
        self._claimants: list[Claimant] = []
        self._more: dict[Shard, float] = {}
        """Shards known to have work, and since when they have had no turn."""
        self._patience = Patience()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = 0.0
        self._is_closing = False
        self._told_busy = float("-inf")

    def deliveries_are(self, max_deliver: int) -> None:
        """Give nothing back that has had half of so many deliveries, but let it wait here: the rest is for attempts."""
        self._kept_from = max_deliver // 2

    # -- what the watchdog asks for

    @property
    def taken(self) -> set[Shard]:
        """The shards that are worked, closed ones too."""
        return set(self._sids)

    def listens_to(self, shard: Shard) -> bool:
        """Whether the server may give a job of this shard to this worker now."""
        return shard in self._sids and shard not in self._closed

    async def take(self, shard: Shard) -> None:
        """Work a shard from now on."""
        self._subscribe(shard)

    async def drop(self, shard: Shard) -> None:
        """Work a shard no more; what it had delivered by then is still run, or given back."""
        sid = self._sids.pop(shard, None)
        self._closed.discard(shard)
        for known in (self._more, self._expected, self._late):
            known.pop(shard, None)
        # Parked ones and those that wait for a place are run all the same.
        self._claimants = [each for each in self._claimants if each.shard != shard or not isinstance(each, _Turn)]
        if sid is not None:
            await self._connection.stop_receiving(sid)
        self._fill()

    async def close(self) -> None:
        """Work no shard any more; what waits for a place is given back."""
        self._is_closing = True
        if self._timer is not None:
            self._timer.cancel()
        for parked in [each for each in self._claimants if isinstance(each, _Parked)]:
            self._give_back(parked.delivery)
        self._claimants = []
        await asyncio.gather(*(self.drop(shard) for shard in list(self._sids)))

    # -- places

    @property
    def _free(self) -> int:
        return self._limit - self._taken_places - len(self._expected)

    def ask(self, shard: Shard, begin: Callable[[], None]) -> Claimant:
        """Have a turn as soon as it is this shard's."""
        claimant = Claimant(shard, time.monotonic(), begin)
        self._claimants.append(claimant)
        self._fill()
        return claimant

    def withdraw(self, claimant: Claimant) -> None:
        """Want no turn any more."""
        if claimant in self._claimants:
            self._claimants.remove(claimant)

    def took(self) -> None:
        """A place is taken."""
        self._taken_places += 1

    def left(self) -> None:
        """A place is free."""
        self._taken_places -= 1
        self._fill()

    def _fill(self) -> None:
        while self._claimants and self._free > 0:
            claimant = first(self._claimants, time.monotonic())
            self._claimants.remove(claimant)
            claimant.begin()

    def make_way(self, shard: Shard, attempt: int) -> bool:
        """Whether a delivery that has waited for a place, and is about to be given back, is not to come here again."""
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
            # It is run here: that run goes on with this delivery, or ends before another begins.
            self._begin(delivery, Place(self, shard, is_taken=False))
            self._fill()
        elif self._free > 0:
            self._start(shard, delivery)
        elif delivery.attempt >= self._kept_from:
            self._begin(delivery, Place(self, shard, is_taken=False))
        else:
            since = self._more.get(shard, now)
            self._claimants.append(_Parked(shard, since, partial(self._start, shard, delivery), delivery))
            self._watch(LINGER)

    def _start(self, shard: Shard, delivery: Delivery) -> None:
        if delivery.pending:
            self._more[shard] = time.monotonic()
            if self._claimants or self._expected:
                # Others wait too. This is the moment to unsubscribe: nothing else can be under way.
                self._shut(shard)
        else:
            self._more.pop(shard, None)
        self._taken_places += 1
        place = Place(self, shard, is_taken=True)
        try:
            self._begin(delivery, place)
        except BaseException:
            place.leave()  # what cannot even be read takes none
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
        """Unsubscribe while its one delivery is in hand, and let it wait for its turn."""
        if not self.listens_to(shard):
            return  # removed meanwhile
        now = time.monotonic()
        if now - self._told_busy >= EVERY:
            self._told_busy = now
            tell_busy(self._connection, self._names)
        self._connection.listen_no_more(self._sids[shard])
        self._closed.add(shard)
        since = self._more[shard] = now if since is None else since
        self._claimants.append(_Turn(shard, since, partial(self._open, shard)))

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
        for parked in [each for each in self._claimants if isinstance(each, _Parked)]:
            if parked.delivery.age() >= LINGER:
                self._claimants.remove(parked)
                self._shut(parked.shard, parked.since)
                self._give_back(parked.delivery)
        for shard in [shard for shard, since in self._expected.items() if now - since >= patience]:
            self._late[shard] = self._expected.pop(shard)
            self._more.pop(shard, None)
        self._fill()
        waiting = [LINGER - each.delivery.age() for each in self._claimants if isinstance(each, _Parked)]
        waiting += [patience - (now - since) for since in self._expected.values()]
        if waiting:
            self._watch(min(waiting))
