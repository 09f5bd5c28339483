"""Run a worker, a router and the micro service in this process until a signal ends it.

The first SIGTERM, SIGINT or SIGHUP asks for a graceful stop; the second interrupts what still runs. The process ends
whatever an application's handlers have left behind, and whether or not anybody reads its output.
"""

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

from jsjobs import JobService
from jsjobs.cli.options import announce, start_log
from jsjobs.cli.run.health import NOWHERE, HealthPlace, health_endpoints, readiness_of
from jsjobs.cli.run.signals import may_hurry, stop_signals
from jsjobs.cli.runtime import loop_factory
from jsjobs.cli.standard_streams import flush_output, relay_output
from jsjobs.health import Readiness
from jsjobs.interrupts import is_ctrl_c
from jsjobs.jetstream.client.errors import without_secrets
from jsjobs.maintenance.router import Router
from jsjobs.model.words import things
from jsjobs.rpc import Rpc
from jsjobs.safe_log import get_logger
from jsjobs.worker.worker import Worker

logger = get_logger("jsjobs.cli")

_LAST_WRITES = 2.0
"""Seconds to give jobs back after the second signal."""
_LEAVING = 3.0
"""Seconds for threads and exit handlers to end, once all parts of jsjobs are closed."""
_LOOK = 0.1
_TELL = 0.25


def start_logging() -> None:
    """Log to standard error, unless the application has set up its own logging; a slow reader holds up nothing."""
    relay_output()
    start_log(logging.INFO, "%(asctime)s %(levelname)-7s %(name)s: %(message)s")


def introduce(service: JobService, *, routes: bool) -> None:
    """Print the servers that a long-running command connects to, before anything else.

    Args:
        service: The service whose servers these are.
        routes: Whether the command brings dead letters into the database.
    """
    config = service.config
    letters = f", dead letters go to {service.database().place}" if routes else ""
    announce(f"connecting to {without_secrets(config.nats_url)}, namespace {config.namespace}{letters}", style="dim")


def say_without_database() -> None:
    """Warn that a worker has no database."""
    announce("no DATABASE_URL is set: dead letters are pending until a router runs", style="yellow")


class Stop:
    """The stop that signals have asked for."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        self.at_once = asyncio.Event()
        for number in stop_signals():
            asyncio.get_running_loop().add_signal_handler(number, self._take, number)

    def _take(self, number: int) -> None:
        if not self.asked.is_set():
            self.asked.set()
        elif may_hurry(number):
            self.at_once.set()


class Serving:
    """One run of a worker, a router, the micro service, or several of them.

    Args:
        service: The service whose handlers run.
        works: Whether to run jobs.
        routes: Whether to bring dead letters into the database.
        answers: Whether to serve the micro service.
        before: Run first, to apply the streams, for example.
        beside: Run while it serves.
        health: Where the health endpoints listen.
        measures: Whether to keep metrics of the queues.
        tell: Called now and then, from the event loop, with whether it is up and whether work reaches it.
        announces: Whether to print where it runs, once it does.
    """

    def __init__(
        self,
        service: JobService,
        *,
        works: bool,
        routes: bool,
        answers: bool = False,
        before: Callable[[], Awaitable[None]] | None = None,
        beside: Callable[[], Coroutine[Any, Any, None]] | None = None,
        health: HealthPlace = NOWHERE,
        measures: bool = False,
        tell: Callable[[bool, Readiness], None] | None = None,
        announces: bool = True,
    ) -> None:
        self._service = service
        self._tell = tell
        self._announces = announces
        self._works = works
        self._routes = routes
        self._answers = answers
        self._before = before
        self._beside = beside
        self._health = health
        self._measures = measures
        self._worker: Worker | None = None
        self._router: Router | None = None
        self._rpc: Rpc | None = None
        self._started = False

    async def run(self) -> None:
        """Serve until a signal asks to stop.

        Raises:
            JobError: If the server cannot be reached at the start.
            Failed: If the health endpoints cannot listen.
        """
        stop = Stop()
        with health_endpoints(self._health, lambda: self._readiness(stop)):
            telling = asyncio.ensure_future(self._go_on_telling(stop))
            try:
                await self._run(stop)
            finally:
                telling.cancel()

    async def _run(self, stop: Stop) -> None:
        living = asyncio.ensure_future(self._live(stop))
        await _first_of(living, stop.asked)
        if not self._started:
            living.cancel()  # nothing has started that could be stopped gracefully
        elif not living.done():
            self._say_what_is_awaited()
        await _first_of(living, stop.at_once)
        if not living.done():
            for part in (self._worker, self._rpc):
                if part is not None:
                    part.stop_now()
            await asyncio.wait({living}, timeout=_LAST_WRITES)
        if living.done() and not living.cancelled():
            living.result()

    async def _live(self, stop: Stop) -> None:
        if self._before is not None:
            await self._before()
        async with AsyncExitStack() as parts:
            service = await parts.enter_async_context(self._service)
            if self._measures:
                await parts.enter_async_context(service.queue_metrics())
            if self._answers:
                # It ends last: whoever waits for a job that ends within the worker's grace time still gets its result.
                # It has a connection of its own: if a flood of requests breaks that, the worker's stays up.
                answering = await parts.enter_async_context(service.sibling()) if self._works else service
                self._rpc = await parts.enter_async_context(Rpc(answering))
            if self._routes:
                self._router = await parts.enter_async_context(service.router())
            if self._works:
                self._worker = await parts.enter_async_context(service.worker())
            self._started = True
            for what in (self._announce, self._beside):
                if what is not None:
                    parts.callback(asyncio.ensure_future(_said_if_it_fails(what)).cancel)
            await stop.asked.wait()
            if self._rpc is not None:
                self._rpc.stop_taking()

    def _say_what_is_awaited(self) -> None:
        if self._worker is None and self._router is None:
            if self._rpc is not None and self._rpc.requests:
                announce(
                    f"stopping: answering {things(self._rpc.requests, 'open request')}; a second signal interrupts"
                )
        elif self._worker is None:
            announce("stopping: storing the dead letters in hand; a second signal interrupts")
        elif self._worker.running:
            announce(f"stopping: waiting for {things(self._worker.running, 'running job')}; a second signal interrupts")

    def _readiness(self, stop: Stop) -> Readiness:
        """Return the readiness now; this only reads, since the health endpoints ask from another thread."""
        if stop.asked.is_set():
            return Readiness(["stopping"], [])
        return readiness_of(self._worker, self._router, self._rpc) if self._started else Readiness(["starting"], [])

    async def _go_on_telling(self, stop: Stop) -> None:
        while self._tell is not None:
            self._tell(self._started, self._readiness(stop))
            await asyncio.sleep(_TELL)

    async def _announce(self) -> None:
        # A worker may start before the streams exist; it reports itself what it waits for.
        while self._worker is not None and not self._worker.ready:  # noqa: ASYNC110 - its readiness comes and goes
            await asyncio.sleep(_LOOK)
        if not self._announces:
            return
        config = self._service.config
        what = " and ".join(name for name, on in (("worker", self._works), ("router", self._routes)) if on) or "rpc"
        where = f"namespace {config.namespace} on {without_secrets(config.nats_url)}"
        letters = f", dead letters go to {self._service.database().place}" if self._routes else ""
        announce(f"{what} ready: {where}{letters}", style="green")


async def _said_if_it_fails(what: Callable[[], Coroutine[Any, Any, None]]) -> None:
    try:
        await what()
    except Exception:
        logger.exception("a background task of the worker failed")


async def _first_of(task: asyncio.Future[None], event: asyncio.Event) -> None:
    waiting = asyncio.ensure_future(event.wait())
    either: set[asyncio.Future[Any]] = {task, waiting}
    await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()


def run_until_stopped(main: Coroutine[Any, Any, None], afterwards: Callable[[], None] | None = None) -> None:
    """Run a coroutine to its end, then make sure that the process ends too.

    Args:
        main: The coroutine.
        afterwards: Called when the coroutine has ended, however it ended.
    """
    runner = asyncio.Runner(loop_factory=loop_factory())
    code = 1
    try:
        _run(runner.get_loop(), main)
        code = 0
    finally:
        for number in stop_signals():
            signal.signal(number, signal.SIG_IGN)  # what follows is short, and must not be interrupted
        if afterwards is not None:
            afterwards()
        _leave_within(_LEAVING, code)
        runner.close()


def _run(loop: asyncio.AbstractEventLoop, main: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine to its end, however often something that a handler started stops the event loop.

    asyncio raises a SystemExit or KeyboardInterrupt of any task or callback at once, while all others are under way.
    """
    task = loop.create_task(main)
    while True:
        try:
            return loop.run_until_complete(task)
        except (Exception, SystemExit, KeyboardInterrupt) as error:
            if task.done() or loop.is_closed() or is_ctrl_c(error):
                raise
            logger.exception("something that a handler started stopped the event loop, which continues")


def _leave_within(seconds: float, code: int) -> None:
    """End the process if it does not end by itself: Python waits forever for a thread that does not end."""

    def leave() -> None:
        left = [thread.name for thread in threading.enumerate() if not thread.daemon]
        logger.warning("exiting while these threads still run: %s", ", ".join(left))
        with suppress(Exception):
            logging.shutdown()
        flush_output()
        os._exit(code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
