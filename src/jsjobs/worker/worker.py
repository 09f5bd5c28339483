"""A worker: takes deliveries from every shard and runs each in a task of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from jsjobs.jetstream.blocked_writes import BlockedWrites
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.delivery import Delivery, read_delivery
from jsjobs.jetstream.generations import live_shards
from jsjobs.jetstream.progress import ProgressSender
from jsjobs.jetstream.server_clock import ServerClock
from jsjobs.jetstream.state import StateStore
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, random_token, utc_now
from jsjobs.safe_log import get_logger
from jsjobs.settings import MAX_SHARDS, Config
from jsjobs.worker.bounded import BoundedTaking
from jsjobs.worker.cancel_counts import CancelCounts
from jsjobs.worker.cancel_requests import CancelRequests
from jsjobs.worker.executor import Places, Stop
from jsjobs.worker.lease import LeaseKeeper, LeaseTime
from jsjobs.worker.limits import TimeLimits
from jsjobs.worker.place import Place
from jsjobs.worker.processes.pool import Processes
from jsjobs.worker.registry import Registry
from jsjobs.worker.run import JobRun, RunKey
from jsjobs.worker.settle import Settlement
from jsjobs.worker.taking import Taking
from jsjobs.worker.tools import Tools
from jsjobs.worker.watchdog import Watchdog, compare

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.worker")

MAX_THREADS = len(Priority) * MAX_SHARDS
"""One for each shard there can be: a plain handler never waits for a thread while its time limit runs."""
_LAST_WORD = 5.0  # seconds that interrupted handlers get to end before the worker stops waiting for them


class Worker:
    """Runs the jobs of one namespace in this process.

    Use it as an async context manager, or call `start` and `stop`; both are safe to call more than once.
    """

    def __init__(
        self, connection: Connection, config: Config, registry: Registry, telemetry: Telemetry | None = None
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{random_token()[:6]}"
        self.settles_with: Callable[..., Settlement] = Settlement
        """What applies verdicts; tests may set another before the start."""
        self.beside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """What is begun with the work and ends, or is cancelled, by itself: no job waits for it."""
        self._aside: list[asyncio.Task[None]] = []
        self._connection = connection
        self._config = config
        self._registry = registry
        self._telemetry = telemetry
        self._names = Names(config.namespace)
        self._time = LeaseTime(config.ack_wait)
        blocked = BlockedWrites(self._time)
        self._state = StateStore(connection, self._names, blocked=blocked, is_torn_down=self._is_torn_down)
        self._runs: dict[RunKey, JobRun] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._tools: Tools | None = None
        self._keeper: LeaseKeeper | None = None
        self._cancels = CancelRequests(connection, self._names, self.name, self._runs)
        counts = None if telemetry is None else CancelCounts(connection, self._names, self._state, telemetry)
        self._cancel_counts = counts
        self._keeping: asyncio.Task[None] | None = None
        self._taking = self._how_to_take()
        self._watchdog = Watchdog(connection, self._names, config, self._taking, self.limits_are)
        self._server_clock = ServerClock(connection, self._names)
        self._ending: asyncio.Task[None] | None = None
        self._stopping = False

    # -- life

    async def start(self) -> None:
        """Subscribe to every shard and begin to work.

        Raises:
            JobError: `Validation`, if a handler cannot run in a process; `RunnerUnavailable`, if the service is not
                connected; `WrongLoop`, if it is in another event loop. Streams that do not exist yet are no error, nor
                is a server that does not answer now: the worker says so once and begins when it can.
        """
        if self._keeping is not None:
            return
        self._connection.home.check()
        functions = self._registry.for_processes()
        shards: dict[Shard, dict[str, Any]] | None = None
        try:
            shards = await live_shards(self._connection, self._names)
            compare(shards, self._config)
        except JobError as error:
            if not error.is_transient:
                raise
            # The watchdog looks again: of a cluster without a majority, or a server that still starts.
        if self._telemetry is not None:
            self._telemetry.expect(self._registry.types)
        threads = ThreadPoolExecutor(MAX_THREADS, thread_name_prefix="jsjobs-handler")
        self._tools = Tools(
            worker=self.name,
            names=self._names,
            state=self._state,
            settlement=self.settles_with(
                self._connection,
                self._names,
                self._state,
                result_ttl=self._config.result_ttl,
                lease_time=self._time,
                clock=utc_now,
                is_torn_down=self._is_torn_down,
                telemetry=self._telemetry,
            ),
            registry=self._registry,
            places=Places(threads, Processes(self._config.processes, functions)),
            limits=TimeLimits(),
            progress=ProgressSender(self._connection, self._names),
            retry=self._config.retry,
            max_attempts=self._config.max_attempts,
            lease_time=self._time,
            grace=self._config.grace,
            clock=utc_now,
            server_now=self._server_clock.now,
            is_torn_down=self._is_torn_down,
            telemetry=self._telemetry,
        )
        self._keeper = LeaseKeeper(self._state, self._time)
        self._keeping = asyncio.ensure_future(self._keep())
        self._connection.on_reconnect.append(self._watchdog.look_soon)
        try:
            await self._cancels.start()
            if self._cancel_counts is not None:
                await self._cancel_counts.start()
            await self._watchdog.start(shards)
            self._aside = [asyncio.create_task(work()) for work in self.beside]
        except BaseException:
            await self.stop(0)  # cancelled on the way: nobody would stop a worker that never started
            raise

    async def stop(self, grace: float | None = None) -> None:
        """Take no more jobs, let running ones end, then give the rest back.

        Args:
            grace: Seconds for running handlers to end by themselves; None: the setting.
        """
        if self._keeping is None or self._tools is None:
            return
        self._connection.home.check()
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(self._tools, self._keeping, grace))
        await asyncio.shield(self._ending)

    async def _end(self, tools: Tools, keeping: asyncio.Task[None], grace: float | None) -> None:
        self._stopping = True
        self._connection.on_reconnect.remove(self._watchdog.look_soon)
        await self._watchdog.stop()
        for task in self._aside:
            task.cancel()
        await self._taking.close()
        for run in list(self._runs.values()):
            run.wind_down()
        await self._wait_for_runs(self._config.grace if grace is None else grace)
        for run in list(self._runs.values()):
            run.stop(Stop.RELEASE)
        await self._wait_for_runs(_LAST_WORD)
        if self._tasks:
            logger.warning("%d jobs do not end; they come back after ack_wait", len(self._tasks))
        keeping.cancel()
        for task in self._tasks:
            task.cancel()
        await self._cancels.stop()
        if self._cancel_counts is not None:
            await self._cancel_counts.stop()
        tools.limits.close()
        await tools.places.processes.close()
        tools.places.threads.shutdown(wait=False, cancel_futures=True)
        await self._flush()

    def stop_now(self) -> None:
        """Cut the grace time short: whatever still runs is interrupted and given back."""
        for run in list(self._runs.values()):
            run.stop(Stop.RELEASE)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def ready(self) -> bool:
        """Whether jobs of every shard reach this worker."""
        return not self.why_not_ready

    @property
    def why_not_ready(self) -> str:
        """Why jobs of some shard do not reach this worker, or cannot begin or end, in words; empty while they do.

        Any thread may ask.
        """
        if self._stopping:
            return "the worker is stopping"
        if self._keeping is not None and not self._connection.is_connected:
            return "there is no connection to NATS"
        return self._watchdog.why_not_ready or self._state.blocked.why

    @property
    def running(self) -> int:
        """Jobs in this worker's hands."""
        return len(self._runs)

    # -- deliveries

    def limits_are(self, ack_wait: float, max_deliver: int) -> None:
        """The server's own settings are what counts, whatever this process was told."""
        self._time.set(ack_wait)
        if isinstance(self._taking, BoundedTaking):
            self._taking.deliveries_are(max_deliver)

    @property
    def taken(self) -> set[Shard]:
        """The shards that are worked."""
        return self._taking.taken

    def _how_to_take(self) -> Taking | BoundedTaking:
        if self._config.concurrency is None:
            return Taking(self._connection, self._names, self._on_delivery)
        return BoundedTaking(
            self._connection,
            self._names,
            self._config.concurrency,
            lease_time=self._time,
            running=self._runs,
            begin=self._begin,
        )

    def _on_delivery(self, subject: bytes, reply: bytes, header: bytes, data: bytes) -> None:
        if delivery := read_delivery(self._connection, subject, reply, header, data):
            self._begin(delivery)

    def _begin(self, delivery: Delivery, place: Place | None = None) -> None:
        assert self._tools is not None
        run = JobRun(self._tools, delivery, self._runs, place)
        if (goes_on := run.goes_on_elsewhere()) or self._stopping:
            if not goes_on:
                delivery.nak()
            if place is not None:
                place.leave()
            return
        self._runs[run.key] = run
        self._run(run)

    def _run(self, run: JobRun) -> None:
        task = run.begin()
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_end, run))

    def _on_end(self, run: JobRun, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if run.is_snoozed:
            self._run(run)
            return
        if self._runs.get(run.key) is run:
            del self._runs[run.key]
        if run.place is not None:
            run.place.leave()

    # -- helpers

    async def _keep(self) -> None:
        keeper = self._keeper
        assert keeper is not None
        while True:
            await asyncio.sleep(self._time.ack_wait / 24)
            for run in list(self._runs.values()):
                keeper.look(run)

    def _is_torn_down(self) -> bool:
        # Nobody but us, or who ends the whole loop, cancels this one.
        return self._keeping is None or self._keeping.done() or self._keeping.cancelling() > 0

    async def _wait_for_runs(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    async def _flush(self) -> None:
        try:
            await self._connection.flush(timeout=2)
        except Exception:
            logger.debug("the last acknowledgements may not have been sent", exc_info=True)
