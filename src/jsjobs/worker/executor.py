"""Running a handler: from a claimed job to a verdict. Knows no NATS."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import suppress
from contextvars import Context, copy_context
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from jsjobs.error_text import text_of
from jsjobs.interrupts import is_ctrl_c
from jsjobs.model.checks import shortened
from jsjobs.model.clipping import clipped
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.retry import Retry, RetryState
from jsjobs.model.snooze import Snooze
from jsjobs.safe_log import get_logger
from jsjobs.worker.context import JobContext
from jsjobs.worker.limits import TimeLimits
from jsjobs.worker.processes.pool import Processes
from jsjobs.worker.processes.process import HandlerFailed
from jsjobs.worker.registry import Registration
from jsjobs.worker.results import discard
from jsjobs.worker.verdict import Cancelled, Complete, DeadLetter, Lost, Release, RetryAfter, SnoozeFor, Verdict

if TYPE_CHECKING:
    from jsjobs.telemetry.spans import Attempt

logger = get_logger("jsjobs.worker")

_RNG = random.SystemRandom()
MOST_NAME = 200
"""Characters of the name of an exception's type."""


class Stop(StrEnum):
    """Why a running handler is asked to end early."""

    RELEASE = "the worker is stopping"
    TIMEOUT = "its time is up"
    CANCEL = "the job was cancelled"
    LOST = "the lease was lost"


@dataclass(frozen=True, slots=True)
class Places:
    """Where plain functions run; async ones run in the event loop."""

    threads: Executor
    processes: Processes


class Handling:
    """The part of a job's task that may be interrupted: while its handler runs, never while a write is under way."""

    def __init__(
        self,
        context: JobContext,
        grace: float,
        limits: TimeLimits,
        is_torn_down: Callable[[], bool] = lambda: False,
    ) -> None:
        """An attempt that is about to run.

        Args:
            context: What its handler is told.
            grace: Seconds that an interrupted handler gets to end, before what it still does is interrupted too.
            limits: What tells when its time is up.
            is_torn_down: Tells whether whatever runs in this event loop is being cancelled.
        """
        self.context = context
        self._grace = grace
        self._limits = limits
        self._is_torn_down = is_torn_down
        self.loop = limits.loop
        self.why = ""
        self.asked: Stop | None = None
        """Why the handler was asked to end; None if it was not."""
        self.attempt: Attempt | None = None
        """Who is told when the handler begins; None: nobody."""
        self._task: asyncio.Task[Any] | None = None
        self._again: asyncio.TimerHandle | None = None

    def stop(self, reason: Stop, why: str = "") -> None:
        """Ask the handler to end. A lost lease overrules what was asked before; otherwise the first reason stands.

        Asked again it is not interrupted again: what it does to end has its grace time, however many ask.
        """
        is_first = self.asked is None
        if is_first or reason is Stop.LOST:
            self.asked, self.why = reason, why or reason
        self.context.cancelled = True
        if is_first:
            self._interrupt()

    @property
    def is_torn_down(self) -> bool:
        """Whether a cancellation that nobody asked for is the whole event loop's, not one by the handler.

        Who was asked to end is given back also in the worker's last moment; where the loop ends, that write fails at
        once.
        """
        return self.asked is None and self._is_torn_down()

    def _interrupt(self) -> None:
        if self._task is not None:
            self._task.cancel()
            if self._again is not None:
                self._again.cancel()
            self._again = self.loop.call_later(self._grace, self._interrupt)

    async def run(
        self,
        registration: Registration,
        data: bytes,
        places: Places,
        limit: float | None,
        task: asyncio.Task[Any] | None,
    ) -> bytes | None:
        """The handler's result as JSON; an interruption ends it with `CancelledError`, once the handler has ended.

        The payload is read and the result written where the handler runs, and within its time: both run code of the
        application's own, which must hold up no other job.
        """
        self._task = task
        try:
            if registration.in_process:
                begun = partial(self._begin, limit)  # waiting for a process takes none of the handler's time
                run = places.processes.run
                return await run(registration.function, data, self.context, begun=begun, called=self.called)
            if limit is not None:
                self._limits.begin(self, limit)
            if not registration.is_async:
                return await self._in_thread(registration, data, places.threads)
            payload = registration.read_payload(data)
            if self.attempt is not None:
                self.attempt.started()
            arguments = (payload, self.context) if registration.takes_context else (payload,)
            return registration.write_result(await registration.call(*arguments))
        finally:
            self._task = None
            self._limits.end(self)
            if self._again is not None:
                self._again.cancel()

    def _begin(self, limit: float | None) -> None:
        if limit is not None:
            self._limits.begin(self, limit)

    def called(self) -> None:
        """The payload is read, and the handler is called."""
        if self.attempt is not None:
            self.attempt.started()

    def time_is_up(self) -> None:
        """The handler has had all the time it may take."""
        self.stop(Stop.TIMEOUT)

    async def _in_thread(self, registration: Registration, data: bytes, threads: Executor) -> bytes | None:
        context = copy_context()
        future = self.loop.run_in_executor(threads, context.run, _call, registration, data, self)
        interrupted = False
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError:
                # A thread cannot be cancelled: it is told, and waited for, so that its shard is never shared.
                self.context.cancelled = interrupted = True
        if interrupted:
            if future.exception() is None:  # looked at: what it ended in no longer matters
                discard(future.result())
            raise asyncio.CancelledError
        value = future.result()
        if value is None or type(value) is bytes:
            return value
        # A wrapper of an async function, which the thread was not needed for: it goes on as if it had been called here.
        _take_over(context)
        return registration.write_result(await value)


class _Raised(Exception):  # noqa: N818 - reads as what happened
    """Carries what a handler raised out of its thread, where nobody else can have raised it.

    No future can hold a StopIteration (Python 3.11): it would never be done, and the handler would seem to run for
    ever. A KeyboardInterrupt or SystemExit in a task ends the event loop.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _call(registration: Registration, data: bytes, handling: Handling) -> Any:
    """In a thread: a plain handler's result as JSON, or what it returned to be awaited."""
    try:
        payload = registration.read_payload(data)
        handling.called()
        value = registration.call(*((payload, handling.context) if registration.takes_context else (payload,)))
        return value if isawaitable(value) else registration.write_result(value)
    except Snooze:
        raise
    except BaseException as error:  # noqa: BLE001 - see above
        raise _Raised(error) from None


def _take_over(context: Context) -> None:
    """Set the context variables that a handler's thread has set."""
    for variable, value in context.items():
        if variable.get(None) is not value:
            variable.set(value)


async def execute(
    entry: JobStatusResponse,
    read: Callable[[], tuple[Registration, bytes]],
    handling: Handling,
    places: Places,
    *,
    limit: float | None,
    policy: Retry,
    clock: Callable[[], datetime],
) -> Verdict:
    """Run the job's handler once.

    Args:
        entry: The job's entry, `processing`.
        read: Finds the handler and the payload as it came; raises a terminal `JobError` where one of them is missing.
        handling: Where the run can be interrupted.
        places: Where plain functions run.
        limit: Seconds that the handler may take; None: no limit.
        policy: When to try again, unless the handler brought its own.
        clock: The time now.
    """
    early = handling.asked
    if early is not None:
        return _stopped(handling, entry, policy, limit, clock())
    task = asyncio.current_task(handling.loop)
    try:
        registration, data = read()
        policy = registration.retry or policy
        verdict: Verdict = Complete(await handling.run(registration, data, places, limit, task))
    except asyncio.CancelledError:
        if handling.is_torn_down:
            raise
        verdict = Release() if handling.asked else _failed(entry, _cancelled_from_within(), policy, clock())
    except Snooze as snooze:
        verdict = SnoozeFor(snooze.seconds)
    except BaseException as error:
        if _is_not_the_handlers(error, task, handling):
            raise
        if isinstance(error, _Raised):
            error = error.error
        verdict = _failed(entry, error, policy, clock()) if _stands(handling) else _failed_in_stopping(entry, error)
    if task is not None and task.cancelling():
        await _answer_cancellations(task, handling)
    try:
        if handling.asked is None or _stands(handling):  # for most jobs one call less
            return verdict
        return _stopped(handling, entry, policy, limit, clock())
    finally:
        # They hold the exception, whose traceback holds this frame: payloads must not wait for the garbage collector.
        del verdict, task


def _cancelled_from_within() -> JobError:
    return JobError.from_processing("the handler was cancelled from within")


async def _answer_cancellations(task: asyncio.Task[Any], handling: Handling) -> None:
    """End what was asked for while the handler ran, by us or by itself: it must not end the settlement too."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # one that the handler asked for with its last breath comes here
    if handling.is_torn_down:
        raise asyncio.CancelledError
    while task.cancelling():
        task.uncancel()


def _is_not_the_handlers(error: BaseException, task: asyncio.Task[Any] | None, handling: Handling) -> bool:
    """Whether an exception came from elsewhere while the handler ran: Ctrl-C, or the end of the coroutine itself."""
    if is_ctrl_c(error):
        return True
    # Who throws a suspended coroutine away is not the task that runs it.
    return isinstance(error, GeneratorExit) and asyncio.current_task(handling.loop) is not task


def _stands(handling: Handling) -> bool:
    """Whether what the handler ended in counts: it does where it ended by itself though the worker is stopping."""
    return handling.asked is None or handling.asked is Stop.RELEASE


def _failed_in_stopping(entry: JobStatusResponse, error: BaseException) -> Release:
    text = "job %s (%s): its handler failed in being stopped: %s"
    logger.warning(text, entry.job_id, entry.type, describe(error), exc_info=error)
    return Release()


def _stopped(
    handling: Handling, entry: JobStatusResponse, policy: Retry, limit: float | None, now: datetime
) -> Verdict:
    match handling.asked:
        case Stop.TIMEOUT:
            return _failed(entry, JobError.from_timeout(f"the handler ran longer than {limit or 0:g} s"), policy, now)
        case Stop.CANCEL:
            return Cancelled()
        case Stop.LOST:
            return Lost(handling.why)
        case _:
            return Release()


def _failed(entry: JobStatusResponse, error: BaseException, policy: Retry, now: datetime) -> Verdict:
    try:
        verdict = _after(entry, error, policy, now)
    except BaseException as broken:
        if is_ctrl_c(broken):
            raise
        # A reason or a policy of the application's own.
        text = f"{describe(error)}; deciding what follows raised {type(broken).__name__}"
        error = JobError.from_processing(text, cause=broken)
        verdict = _after(entry, error, Retry(), now)
    logger.log(
        logging.WARNING if isinstance(verdict, RetryAfter) else logging.ERROR,
        "job %s (%s): attempt %d of %d failed, %s: %s%s",
        entry.job_id,
        entry.type,
        entry.attempts,
        entry.max_attempts,
        f"the next in {verdict.delay:.1f} s" if isinstance(verdict, RetryAfter) else "the job is dead",
        verdict.error,
        f"\n{error.trace}" if isinstance(error, HandlerFailed) else "",
        exc_info=error if _has_place(error) else None,
    )
    return verdict


def _has_place(error: BaseException) -> bool:
    """Whether a traceback tells more: a JobError that was not raised from another says all that it has to say."""
    return not isinstance(error, HandlerFailed) and (not isinstance(error, JobError) or error.__cause__ is not None)


def _after(entry: JobStatusResponse, error: BaseException, policy: Retry, now: datetime) -> RetryAfter | DeadLetter:
    text = describe(error)
    kind = _kind(error)
    if isinstance(error, JobError) and error.is_terminal:
        return DeadLetter(error.reason, text, kind, error)
    if entry.attempts >= entry.max_attempts:
        return DeadLetter(Reason.MAX_RETRIES, text, kind, error)
    state = entry.retry or RetryState()
    retry = policy.after_failure(state, now=now, due=state.due or entry.next_attempt_at, rng=_RNG)
    if retry is None:
        return DeadLetter(Reason.MAX_RETRIES, text, kind, error)
    return RetryAfter(delay=retry[0], error=text, retry=retry[1], error_type=kind)


def _kind(error: BaseException) -> str:
    if isinstance(error, HandlerFailed):
        return error.error_type
    return str(error.reason) if isinstance(error, JobError) else shortened(type(error).__qualname__, MOST_NAME)


def describe(error: BaseException) -> str:
    """An exception in one text, at most 4 KiB; even one whose own text cannot be had."""
    text = text_of(error)
    if isinstance(error, JobError | HandlerFailed):
        return clipped(text)
    name = shortened(type(error).__name__, MOST_NAME)
    return clipped(f"{name}: {text}" if text else name)
