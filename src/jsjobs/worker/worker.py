"""Run a worker: take deliveries from every shard, and run each in a task of its own."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from jsjobs.cancellation import Shared
from jsjobs.handlers.registry import Registry
from jsjobs.jetstream.api.server_clock import ServerClock
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.blocked_writes import BlockedWrites
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.lease_time import LeaseTime
from jsjobs.jetstream.jobs.progress import ProgressSender
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.jetstream.topology.generations import Shards, live_shards
from jsjobs.model.errors import JobError
from jsjobs.model.job import random_token, utc_now
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config
from jsjobs.worker.cancel_counts import CancelCounts
from jsjobs.worker.cancel_requests import CancelRequests
from jsjobs.worker.claim import Claims
from jsjobs.worker.executor import Pools
from jsjobs.worker.intake.intake import Intake
from jsjobs.worker.intake.rooms import NOTED_EVERY, Rooms, delay_without_room
from jsjobs.worker.intake.slots import Slot, Slots
from jsjobs.worker.job_run import JobRun, RunKey
from jsjobs.worker.lane_monitor import LaneMonitor
from jsjobs.worker.lease import LeaseKeeper
from jsjobs.worker.processes.pool import Processes
from jsjobs.worker.run_state import State
from jsjobs.worker.runner import Attempts, JobRunner
from jsjobs.worker.settlement import Settlement
from jsjobs.worker.shard_monitor import ShardMonitor, compare
from jsjobs.worker.timeouts import TimeLimits

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

logger = get_logger("jsjobs.worker")

_LAST_WORD = 5.0  # seconds that interrupted handlers get to end before the worker stops waiting for them


class Worker:
    """Run the jobs of one namespace in this process.

    Use it as an async context manager, or call `start` and `stop`; both are safe to call more than once.
    """

    def __init__(
        self, connection: Connection, config: Config, registry: Registry, telemetry: Telemetry | None = None
    ) -> None:
        self.name = f"{socket.gethostname()}-{os.getpid()}-{random_token()[:6]}"
        self.settles_with: Callable[..., Settlement] = Settlement
        """The class that applies verdicts; tests may set another before the start."""
        self.beside: list[Callable[[], Coroutine[Any, Any, None]]] = []
        """Background work that starts with the worker, and ends by itself or is cancelled; no job waits for it."""
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
        self._rooms = Rooms()
        self._pools: Pools | None = None
        self._limits: TimeLimits | None = None
        self._runner: JobRunner | None = None
        self._keeper: LeaseKeeper | None = None
        self._cancels = CancelRequests(connection, self._names, self.name, self._runs)
        counts = None if telemetry is None else CancelCounts(connection, self._names, self._state, telemetry)
        self._cancel_counts = counts
        self._starting: Shared | None = None
        self._keeping: asyncio.Task[None] | None = None
        self._intake = Intake(
            connection,
            self._names,
            Slots(config.concurrency),
            lease_time=self._time,
            begin=self._begin,
            goes_on=self._goes_on,
            on_missing=self._look_soon,
        )
        self._shard_monitor = ShardMonitor(
            connection,
            self._names,
            config,
            self._intake.shards,
            ack_wait_is=self._time.set,
            max_deliver_is=self._intake.limit_deliveries,
        )
        self._lane_monitor = LaneMonitor(connection, self._names, config, self._intake, self._time.set)
        self._server_clock = ServerClock(connection, self._names)
        self._ending: asyncio.Task[None] | None = None
        self._stopping = False

    # -- life

    async def start(self) -> None:
        """Subscribe to every shard and start working.

        Raises:
            JobError: `Validation`, if a handler cannot run in a process; `RunnerUnavailable`, if the service is not
                connected; `WrongLoop`, if it is in another event loop. Missing streams are no error, nor is a server
                that does not answer now: the worker logs it once and starts when it can.
        """
        if self._keeping is not None and not (self._starting and self._starting.is_usable()):
            return
        self._connection.home.check()
        if self._starting is None or not self._starting.is_usable():
            self._starting = Shared(self._start())
        await self._starting.result()

    async def _start(self) -> None:
        functions = self._registry.for_processes()
        shards: Shards | None = None
        try:
            shards = await live_shards(self._connection, self._names, self._config.priorities)
            compare(shards, self._config)
        except JobError as error:
            if not error.is_transient:
                raise
            # The shard monitor tries again: a cluster may have no majority, or a server may still be starting.
        if self._telemetry is not None:
            self._telemetry.expect(self._registry.types)
        self._pools = Pools(
            ThreadPoolExecutor(self._config.concurrency, thread_name_prefix="jsjobs-handler"),
            Processes(self._config.processes, functions),
        )
        self._limits = TimeLimits()
        self._runner = self._make_runner(self._pools, self._limits)
        self._keeper = LeaseKeeper(self._state, self._time)
        self._keeping = asyncio.ensure_future(self._keep())
        self._connection.on_reconnect.append(self._after_reconnect)
        try:
            await self._cancels.start()
            if self._cancel_counts is not None:
                await self._cancel_counts.start()
            self._intake.open()
            await self._lane_monitor.start()
            await self._shard_monitor.start(shards, self._look_soon)
            self._aside = [asyncio.create_task(work()) for work in self.beside]
        except BaseException:
            await self.stop(0)  # cancelled on the way: nobody would stop a worker that never started
            raise

    def _make_runner(self, pools: Pools, limits: TimeLimits) -> JobRunner:
        settlement = self.settles_with(
            self._connection,
            self._names,
            self._state,
            result_ttl=self._config.result_ttl,
            lease_time=self._time,
            clock=utc_now,
            is_torn_down=self._is_torn_down,
            telemetry=self._telemetry,
        )
        claims = Claims(
            worker=self.name,
            state=self._state,
            settlement=settlement,
            lease_time=self._time,
            clock=utc_now,
            server_now=self._server_clock.now,
            telemetry=self._telemetry,
        )
        attempts = Attempts(
            registry=self._registry,
            pools=pools,
            limits=limits,
            lease_time=self._time,
            retry=self._config.retry,
            max_attempts=self._config.max_attempts,
            grace=self._config.grace,
            progress=ProgressSender(self._connection, self._names),
            settlement=settlement,
            clock=utc_now,
            is_torn_down=self._is_torn_down,
            telemetry=self._telemetry,
        )
        return JobRunner(self._names, self._registry, claims, attempts)

    async def stop(self, grace: float | None = None) -> None:
        """Take no more jobs, let running ones end, then give the rest back.

        Args:
            grace: Seconds for running handlers to end by themselves; None for the configured number.
        """
        if self._keeping is None or self._pools is None or self._limits is None:
            return
        self._connection.home.check()
        if self._ending is None:
            self._ending = asyncio.ensure_future(self._end(self._pools, self._limits, self._keeping, grace))
        await asyncio.shield(self._ending)

    async def _end(self, pools: Pools, limits: TimeLimits, keeping: asyncio.Task[None], grace: float | None) -> None:
        self._stopping = True
        self._connection.on_reconnect.remove(self._after_reconnect)
        await asyncio.gather(self._shard_monitor.stop(), self._lane_monitor.stop())
        for task in self._aside:
            task.cancel()
        await self._intake.close()
        for run in list(self._runs.values()):
            run.wind_down()
        await self._wait_for_runs(self._config.grace if grace is None else grace)
        for run in list(self._runs.values()):
            run.release()
        await self._wait_for_runs(_LAST_WORD)
        if self._tasks:
            logger.warning("%d jobs did not stop; they are delivered again after ack_wait", len(self._tasks))
        keeping.cancel()
        for task in self._tasks:
            task.cancel()
        await self._cancels.stop()
        if self._cancel_counts is not None:
            await self._cancel_counts.stop()
        limits.close()
        await pools.processes.close()
        pools.threads.shutdown(wait=False, cancel_futures=True)
        await self._flush()

    def stop_now(self) -> None:
        """Cut the grace time short: interrupt and give back whatever still runs."""
        for run in list(self._runs.values()):
            run.release()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @property
    def ready(self) -> bool:
        """Return whether the jobs of all queues reach this worker."""
        return not self.why_not_ready

    @property
    def why_not_ready(self) -> str:
        """Return why some jobs do not reach this worker, or cannot begin or end; empty while they do.

        Any thread may read it.
        """
        if self._stopping:
            return "the worker is stopping"
        if self._keeping is not None and not self._connection.is_connected:
            return "there is no connection to NATS"
        return self._shard_monitor.why_not_ready or self._lane_monitor.why_not_ready or self._state.blocked.why

    @property
    def running(self) -> int:
        """Return how many jobs this worker has in hand."""
        return len(self._runs)

    # -- deliveries

    @property
    def intake(self) -> Intake:
        """Return the part that takes jobs from the server; a test may hold some of them back there."""
        return self._intake

    @property
    def taken(self) -> set[Shard | Partition]:
        """Return the shards and partitions that this worker works."""
        return {*self._intake.shards.taken, *self._intake.partitions}

    def _look_soon(self) -> None:
        self._shard_monitor.look_soon()
        self._lane_monitor.look_soon()

    def _after_reconnect(self) -> None:
        self._intake.open()
        self._look_soon()

    def _begin(self, delivery: Delivery, slot: Slot) -> None:
        assert self._runner is not None
        try:
            run = self._runner.take(delivery, slot, self._runs)
        except BaseException:
            slot.leave()
            raise
        if run is None:
            slot.leave()
        elif self._stopping:
            slot.leave()
            delivery.nak()
        elif self._rooms.enter(run):
            self._runs[run.key] = run
            self._run(self._runner, run)
        else:
            slot.leave()
            self._give_back(self._runner, run)

    def _give_back(self, runner: JobRunner, run: JobRun) -> None:
        """Give back a job whose handler has no room."""
        delay = delay_without_room(run.delivery.attempt)
        if run.delivery.attempt % NOTED_EVERY:
            run.delivery.nak(delay)
        else:
            task = runner.loop.create_task(runner.note_return(run, delay))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _goes_on(self, delivery: Delivery) -> bool:
        run = self._runs.get((delivery.stream, delivery.sequence))
        return run is not None and run.goes_on_with(delivery, self._time.lease)

    def _run(self, runner: JobRunner, run: JobRun) -> None:
        task = runner.loop.create_task(runner.run(run), name=run.job_id)
        self._tasks.add(task)
        task.add_done_callback(partial(self._on_end, runner, run))

    def _on_end(self, runner: JobRunner, run: JobRun, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if run.state is State.SNOOZED:
            run.to(State.CLAIMING)
            self._run(runner, run)
            return
        if self._runs.get(run.key) is run:
            del self._runs[run.key]
        run.slot.leave()

    # -- helpers

    async def _keep(self) -> None:
        keeper = self._keeper
        assert keeper is not None
        while True:
            await asyncio.sleep(self._time.ack_wait / 24)
            for run in list(self._runs.values()):
                keeper.look(run)

    def _is_torn_down(self) -> bool:
        # Only we, or the end of the whole event loop, cancel this task.
        return self._keeping is None or self._keeping.done() or self._keeping.cancelling() > 0

    async def _wait_for_runs(self, seconds: float) -> None:
        if self._tasks:
            await asyncio.wait(set(self._tasks), timeout=seconds)

    async def _flush(self) -> None:
        try:
            await self._connection.flush(timeout=2)
        except Exception:
            logger.debug("the last acknowledgements may not have been sent", exc_info=True)
