"""Let the jobs of a test begin one after the other, in the order submitted, whichever lane they are in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from datetime import datetime

from jsjobs.jetstream.api.streams import stream_info
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.worker.intake.intake import Intake

_LOOK_AGAIN = 0.003
"""Seconds between two looks, at most."""
_SHORTEST = 0.001
"""Seconds that the shortest sleep takes."""
_Held = dict[int, Delivery]
"""The newest delivery of each message that waits for its turn, by sequence."""


class InOrder:
    """Hold back the deliveries of some priorities, and let one job of each run at a time: the one submitted first.

    A job stays in its queue until it has ended, so the first message of a queue is the one that runs or is next.
    """

    def __init__(self, connection: Connection, names: Names, intake: Intake, priorities: Iterable[Priority]) -> None:
        """Hold back what arrives from now on.

        Args:
            connection: The connection to the server.
            names: The namespace.
            intake: What takes the worker's jobs.
            priorities: The priorities whose jobs run in order; those of others begin as they arrive.
        """
        self._connection = connection
        self._names = names
        self._intake = intake
        self._held = {Queue(priority, lane): _Held() for priority in priorities for lane in Lane}
        self._began_at = time.monotonic()
        self._is_closed = False
        intake.on_arrival = self._arrived

    @property
    def holds(self) -> bool:
        """Return whether deliveries wait for their turn."""
        return any(self._held.values())

    async def wait(self) -> None:
        """Wait until it is worth looking again: a quarter of the time that the last job has taken by now."""
        seconds = min(_LOOK_AGAIN, (time.monotonic() - self._began_at) / 4)
        await asyncio.sleep(seconds if seconds > _SHORTEST else 0)

    async def begin_next(self) -> None:
        """Let the next job of each priority begin, if its turn has come.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached.
        """
        waiting = {queue.priority for queue, held in self._held.items() if held}
        await asyncio.gather(*map(self._begin_next_of, waiting))

    def close(self) -> None:
        """Give back what waits, and what still arrives."""
        self._is_closed = True
        for held in self._held.values():
            for delivery in held.values():
                delivery.nak()
            held.clear()

    def _arrived(self, delivery: Delivery) -> None:
        lane = Lane.PARALLEL if delivery.is_parallel else Lane.ORDERED
        held = self._held.get(Queue(delivery.priority, lane))
        if self._is_closed:
            delivery.nak()
        elif held is None:
            self._intake.admit(delivery)
        else:
            held[delivery.sequence] = delivery

    async def _begin_next_of(self, priority: Priority) -> None:
        queues = [Queue(priority, lane) for lane in Lane]
        # A job that arrives while the queues are asked has to wait: one that is older may have been submitted to the
        # other queue after that one was asked.
        in_hand = {queue: set(self._held[queue]) for queue in queues}
        infos = await asyncio.gather(*(stream_info(self._connection, self._names.queue(queue)) for queue in queues))
        heads: list[tuple[datetime, Queue, int]] = []
        for queue, info in zip(queues, infos, strict=True):
            state, held = info.state, self._held[queue]
            for gone in [sequence for sequence in held if sequence < state.first_seq]:
                self._intake.admit(held.pop(gone))  # it has ended; the worker finds that in its entry
            if state.messages and state.first_ts is not None:
                heads.append((state.first_ts, queue, state.first_seq))
        if heads:
            _, queue, sequence = min(heads, key=lambda head: head[0])
            if sequence in in_hand[queue]:
                self._began_at = time.monotonic()
                self._intake.admit(self._held[queue].pop(sequence))
