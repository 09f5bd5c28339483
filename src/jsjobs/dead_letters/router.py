"""The dead-letter router: moves what ends in `JOBS_DEAD` into Postgres, and finds what nobody reported."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from jsjobs.dead_letters.advisory import read_advisory
from jsjobs.dead_letters.consumer_guard import ConsumerGuard
from jsjobs.dead_letters.lookout import Lookout
from jsjobs.dead_letters.sweep import Sweep
from jsjobs.dead_letters.undertaker import Undertaker
from jsjobs.jetstream.api import LimitReached, find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.delivery import Delivery, read_delivery
from jsjobs.jetstream.errors import Unstored
from jsjobs.jetstream.given_up import is_given_up
from jsjobs.jetstream.letters import read_letter
from jsjobs.jetstream.state import StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.postgres.errors import DatabaseError
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config
from jsjobs.trouble import Trouble

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.router")

_ADVISORY = b"$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES."
_PATIENT_DELIVERIES = 2
_TRY_AGAIN = 0.5
_LONGEST_PAUSE = 10.0
_LAST_WORD = 5.0  # seconds for the letters in hand when the router stops
SWEEP_EVERY = 120.0
"""Seconds between two sweeps."""


class Router:
    """Routes dead letters and max-deliver advisories; any number of routers may run.

    Use it as an async context manager, or call `start` and `stop`.
    """

    def __init__(
        self, connection: Connection, config: Config, letters: DeadLetters, telemetry: Telemetry | None = None
    ) -> None:
        self._connection = connection
        self._names = Names(config.namespace)
        self._queues = {self._names.stream(priority) for priority in Priority}
        state = StateStore(connection, self._names)
        self._undertaker = Undertaker(
            connection, self._names, state, letters, result_ttl=config.result_ttl, telemetry=telemetry
        )
        self._sweep = Sweep(connection, self._names, config, self._undertaker)
        self._lookout = Lookout(connection, self._names)
        self._tasks: set[asyncio.Task[None]] = set()
        self._subscription: int | None = None
        self._guard = ConsumerGuard(connection, self._names, config, self._sweep.restore)
        self._watching: list[asyncio.Task[None]] = []
        self._trouble = Trouble(logger, "letters wait: %s", "letters flow again")
        self._no_room = ""

    async def start(self) -> None:
        """Begin to route; Postgres need not be up.

        Raises:
            JobError: If the server refuses what a router asks; one that does not answer now is asked again later.
        """
        if self._subscription is None:
            self._connection.home.check()
            await self._lookout.start()
            subject = self._names.router_deliver.encode()
            try:
                self._subscription = await self._connection.receive(subject, self._on_delivery, queue="routers")
            except BaseException:
                await self._lookout.stop()  # nobody would stop a router that never started
                raise
            self._watching = [asyncio.ensure_future(one) for one in (self._sweep_on(), self._guard.watch())]

    async def stop(self) -> None:
        """Take no more letters and finish the ones in hand; those that cannot be stored now come back later."""
        if self._subscription is None:
            return
        self._connection.home.check()
        for task in self._watching:
            task.cancel()
        await self._lookout.stop()
        await self._connection.stop_receiving(self._subscription)
        self._subscription = None
        for patience in (_LAST_WORD, _LAST_WORD / 5):
            _, left = await asyncio.wait({*self._tasks, *self._watching}, timeout=patience)
            for task in left:
                task.cancel()  # a write that waits for the server waits for as long as it takes

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def trouble(self) -> str:
        """Why letters wait at present; empty while they flow. Any thread may ask."""
        return self._trouble.why

    @property
    def why_not_ready(self) -> str:
        """Why letters do not reach this router, or NATS cannot store their end, in words; empty while all is well.

        Letters that wait because Postgres is down do reach it: see `trouble`. Any thread may ask.
        """
        if self._subscription is not None and not self._connection.is_connected:
            return "there is no connection to NATS"
        return self._lookout.why_not_ready or self._no_room

    @property
    def left(self) -> list[str]:
        """What this router may not do and leaves to an operator, in words, and what he is to do. Any thread may ask."""
        return self._sweep.left

    async def sweep(self) -> None:
        """Look now for messages that the server gave up without anybody being told; see `Sweep`.

        Raises:
            DatabaseError: If Postgres cannot take what was found.
            JobError: If the server cannot be asked.
        """
        await self._sweep.once()

    async def _sweep_on(self) -> None:
        while True:
            try:
                await self._sweep.once()
            except (JobError, DatabaseError) as error:
                logger.warning("the sweep will be tried again: %s", error)
            except Exception:
                logger.exception("the sweep failed and will be tried again")
            await asyncio.sleep(SWEEP_EVERY)

    def _on_delivery(self, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        delivery = read_delivery(self._connection, subject, reply, header, data)
        if delivery is None:
            return
        task = asyncio.ensure_future(self._handle(delivery))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle(self, delivery: Delivery) -> None:
        try:
            done = await self._route(delivery)
        except asyncio.CancelledError:
            delivery.nak()  # this router stops: another, or the next, takes it at once
            raise
        except (JobError, DatabaseError) as error:
            self._no_room = error.message if isinstance(error, LimitReached | Unstored) else ""
            self._trouble.say(str(error))
            done = False
        except Exception:
            # It waits and is looked at again: nothing that reaches this stream is thrown away for a fault of ours.
            logger.exception("a message on %.200r could not be routed and waits", delivery.subject)
            done = False
        else:
            self._no_room = ""
            self._trouble.over()
        if done:
            delivery.ack()
        else:
            delivery.nak(min(_TRY_AGAIN * 2 ** min(delivery.attempt, 8), _LONGEST_PAUSE))

    async def _route(self, delivery: Delivery) -> bool:
        if delivery.subject.startswith(_ADVISORY):
            await self._advised(delivery.data)
            return True
        letter = read_letter(self._names, delivery.subject, delivery.header, delivery.data)
        return await self._undertaker.store(letter, patient=delivery.attempt < _PATIENT_DELIVERIES)

    async def _advised(self, data: bytes) -> None:
        """Act on a max-deliver advisory if it is true: anybody may have forged it."""
        advisory = read_advisory(data, self._queues)
        if advisory is None:
            return
        stream, consumer, sequence = advisory
        info = await find(self._connection, f"CONSUMER.INFO.{stream}.{consumer}")
        if info is not None and is_given_up(info, sequence):
            await self._undertaker.bury_if_possible(stream, sequence, info["config"]["filter_subject"])
