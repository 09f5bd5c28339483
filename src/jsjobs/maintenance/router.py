"""Run the dead-letter router: move what ends in `JOBS_DEAD` into Postgres, and record jobs that the server gave up.

The server's advisories arrive on a stream to which anybody may have published, so each is verified. `RouterReadiness`
tells whether letters reach a router: whether the consumer that delivers them exists as declared.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING, NamedTuple, Self

from pydantic_core import from_json

from jsjobs.cancellation import Shared
from jsjobs.dead_letters.recorder import DeadLetterRecorder
from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.api.errors import LimitReached
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import Unstored
from jsjobs.jetstream.jobs.dead_letter_message import read_letter
from jsjobs.jetstream.jobs.delivery import Delivery, read_delivery
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.monitoring.backlog import is_given_up
from jsjobs.jetstream.protocol.names import Names, Shard
from jsjobs.jetstream.topology.declaration import router_faults
from jsjobs.maintenance.consumer_guard import ConsumerGuard
from jsjobs.maintenance.letter_sweep import ADVISORY
from jsjobs.maintenance.sweep import Sweep
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import ORDERED
from jsjobs.poller import Poller
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.postgres.errors import DatabaseError
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config
from jsjobs.trouble import Trouble

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.router")

_MAX_SEQUENCE = 2**63
_INTERVAL = 5.0
_FAST = 0.5  # while something is missing
PATIENT_DELIVERIES = 2
"""The delivery from which on a letter is stored even if its job has no entry; earlier ones wait for the entry."""
_TRY_AGAIN = 0.5
_LONGEST_PAUSE = 10.0
LAST_WORD = 5.0
"""Seconds that the letters in hand get when the router stops."""
SWEEP_EVERY = 120.0
"""Seconds between two sweeps."""


class Advisory(NamedTuple):
    """The content of a max-deliver advisory, in a form that the server can be asked about."""

    stream: str
    consumer: str
    sequence: int


def read_advisory(data: bytes, queues: Collection[str]) -> Advisory | None:
    """Return the advisory; None if it cannot be one of a queue.

    Asking the server about such an advisory would fail, and be repeated for ever.

    Args:
        data: The message's body.
        queues: Names of the queues' streams.
    """
    try:
        value = from_json(data)
    except ValueError:
        return None
    if not isinstance(value, dict):
        return None
    stream, consumer, sequence = value.get("stream"), value.get("consumer"), value.get("stream_seq")
    if not isinstance(stream, str) or not isinstance(consumer, str) or type(sequence) is not int:
        return None
    if stream not in queues or Shard.of(consumer) is None or not 0 < sequence < _MAX_SEQUENCE:
        return None
    return Advisory(stream, consumer, sequence)


class RouterReadiness:
    """Ask the server for the router's consumer now and then, and keep the answer."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._missing = f"{names.dead_stream} has no consumer {names.router}: run `jsjobs streams apply`"
        self._poller = Poller(self._look_again, lambda: _FAST if self.why_not_ready else _INTERVAL)
        self._is_started = False
        self.why_not_ready = "the router has not started"
        """The reason why letters do not reach the router, in words; empty while they do."""

    async def start(self) -> None:
        """Check the consumer, then go on checking.

        Raises:
            JobError: If the server refuses the request; a server that does not answer now is asked again later.
        """
        try:
            self._say(await self._look())
        except JobError as error:
            if not error.is_transient:
                raise
            self._say(_unanswered(error))
        self._is_started = True
        self._connection.on_reconnect.append(self._poller.soon)
        self._poller.start()

    async def stop(self) -> None:
        """Stop checking."""
        if not self._is_started:
            return
        self._is_started = False
        self.why_not_ready = "the router has stopped"
        self._connection.on_reconnect.remove(self._poller.soon)
        await self._poller.stop()

    async def _look_again(self) -> None:
        try:
            self._say(await self._look())
        except JobError as error:
            self._say(_unanswered(error))
        except Exception:
            logger.exception("the check of the router's readiness failed; it is repeated")
            self._say("the check of its readiness failed")

    async def _look(self) -> str:
        info = await find_consumer(self._connection, self._names.dead_stream, self._names.router)
        if info is None:
            return self._missing
        faults = router_faults(self._names, info.config.as_told)
        if not faults:
            return ""
        consumer = f"consumer {self._names.router} of {self._names.dead_stream}"
        return f"the {consumer} differs from its declaration ({', '.join(faults)}): run `jsjobs streams apply`"

    def _say(self, why_not_ready: str) -> None:
        if why_not_ready and why_not_ready != self.why_not_ready:
            logger.warning("dead letters do not reach this router: %s", why_not_ready)
        elif self._is_started and self.why_not_ready and not why_not_ready:
            logger.info("dead letters reach this router again")
        self.why_not_ready = why_not_ready


def _unanswered(error: JobError) -> str:
    return f"the server cannot be asked: {error.message}"


class Router:
    """Route dead letters and max-deliver advisories; any number of routers may run.

    Use it as an async context manager, or call `start` and `stop`.
    """

    def __init__(
        self, connection: Connection, config: Config, letters: DeadLetters, telemetry: Telemetry | None = None
    ) -> None:
        self._connection = connection
        self._names = Names(config.namespace)
        self._queues = {self._names.queue(queue) for queue in ORDERED}
        state = StateStore(connection, self._names)
        self._recorder = DeadLetterRecorder(
            connection, self._names, state, letters, result_ttl=config.result_ttl, telemetry=telemetry
        )
        self._sweep = Sweep(connection, self._names, config, self._recorder)
        self._readiness = RouterReadiness(connection, self._names)
        self._tasks: set[asyncio.Task[None]] = set()
        self._starting: Shared | None = None
        self._subscription: int | None = None
        self._guard = ConsumerGuard(connection, self._names, config, self._sweep.restore)
        self._watching: list[asyncio.Task[None]] = []
        self._trouble = Trouble(logger, "dead letters are pending: %s", "dead letters are stored again")
        self._no_room = ""

    async def start(self) -> None:
        """Start routing; Postgres need not be up.

        Raises:
            JobError: If the server refuses a router's request; a server that does not answer now is asked again later.
        """
        if self._subscription is None:
            self._connection.home.check()
            if self._starting is None or not self._starting.is_usable():
                self._starting = Shared(self._start())
            await self._starting.result()

    async def _start(self) -> None:
        await self._readiness.start()
        subject = self._names.router_deliver.encode()
        try:
            self._subscription = await self._connection.receive(subject, self._on_delivery, queue="routers")
        except BaseException:
            await self._readiness.stop()  # nobody would stop a router that never started
            raise
        self._watching = [asyncio.ensure_future(one) for one in (self._sweep_on(), self._guard.watch())]

    async def stop(self) -> None:
        """Take no more letters and finish the ones in hand; those that cannot be stored now are redelivered later."""
        if self._subscription is None:
            return
        self._connection.home.check()
        for task in self._watching:
            task.cancel()
        await self._readiness.stop()
        await self._connection.stop_receiving(self._subscription)
        self._subscription = None
        for patience in (LAST_WORD, LAST_WORD / 5):
            _, left = await asyncio.wait({*self._tasks, *self._watching}, timeout=patience)
            for task in left:
                task.cancel()  # a write waits for the server without a limit

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def trouble(self) -> str:
        """Return why letters wait at present; empty while they flow. Any thread may read it."""
        return self._trouble.why

    @property
    def why_not_ready(self) -> str:
        """Return why letters do not reach this router, or NATS cannot store their end; empty while all is well.

        Letters that wait because Postgres is down do reach it: see `trouble`. Any thread may read it.
        """
        if self._subscription is not None and not self._connection.is_connected:
            return "there is no connection to NATS"
        return self._readiness.why_not_ready or self._no_room

    @property
    def left(self) -> list[str]:
        """Return what this router may not do and leaves to an operator, and what to do about it, in words.

        Any thread may read it.
        """
        return self._sweep.left

    async def sweep(self) -> None:
        """Search now for messages that the server gave up without any router being told; see `Sweep`.

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
            # It waits and is tried again: nothing that reaches this stream is lost because of a bug of ours.
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
        if delivery.subject.startswith(ADVISORY):
            await self._advised(delivery.data)
            return True
        letter = read_letter(self._names, delivery.subject, delivery.header, delivery.data)
        return await self._recorder.store(letter, patient=delivery.attempt < PATIENT_DELIVERIES)

    async def _advised(self, data: bytes) -> None:
        """Act on a max-deliver advisory if it is true; anybody may have forged it."""
        advisory = read_advisory(data, self._queues)
        if advisory is None:
            return
        stream, consumer, sequence = advisory
        info = await find_consumer(self._connection, stream, consumer)
        if info is not None and is_given_up(info, sequence):
            await self._recorder.dead_letter_if_possible(stream, sequence, info.config.filter_subject)
