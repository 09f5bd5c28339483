"""Run a handler: from a claimed job to a verdict. It does not use NATS."""

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
from functools import partial
from inspect import isawaitable
from typing import TYPE_CHECKING, Any

from jsjobs.handlers.context import JobContext
from jsjobs.handlers.failure import MOST_NAME, HandlerFailed, describe
from jsjobs.handlers.registry import Registration
from jsjobs.handlers.result_check import discard
from jsjobs.interrupts import is_ctrl_c
from jsjobs.model.checks import shortened
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.retry import Retry, RetryState, Snooze
from jsjobs.safe_log import get_logger
from jsjobs.worker.processes.pool import Processes
from jsjobs.worker.result import Cancelled, Complete, DeadLetter, Lost, Release, RetryAfter, SnoozeFor, Verdict
from jsjobs.worker.run_state import Stop
from jsjobs.worker.timeouts import TimeLimits

if TYPE_CHECKING:
    from jsjobs.telemetry.spans import Attempt

logger = get_logger("jsjobs.worker")

_RNG = random.SystemRandom()


@dataclass(frozen=True, slots=True)
class Pools:
    """The pools that plain functions run in; async ones run in the event loop."""

    threads: Executor
    processes: Processes


class Handling:
    """The part of a job's task that may be interrupted: the run of its handler, never a write."""

    def __init__(
        self,
        context: JobContext,
        grace: float,
        limits: TimeLimits,
        is_torn_down: Callable[[], bool] = lambda: False,
    ) -> None:
        """Prepare an attempt that is about to run.

        Args:
            context: The context that its handler gets.
            grace: Seconds that an interrupted handler gets to end, before what it still does is interrupted too.
            limits: The time limits, which tell when its time is up.
            is_torn_down: Returns whether everything in this event loop is being cancelled.
        """
        self.context = context
        self._grace = grace
        self._limits = limits
        self._is_torn_down = is_torn_down
        self.loop = limits.loop
        self.why = ""
        self.asked: Stop | None = None
        """The reason why the handler was asked to end; None if it was not."""
        self.attempt: Attempt | None = None
        """The telemetry that is told when the handler begins; None if there is none."""
        self._task: asyncio.Task[Any] | None = None
        self._again: asyncio.TimerHandle | None = None

    def stop(self, reason: Stop, why: str = "") -> None:
        """Ask the handler to end. A lost lease overrules an earlier reason; otherwise the first reason stands.

        Further calls do not interrupt it again: it has its grace time to end, however often it is asked.
        """
        is_first = self.asked is None
        if is_first or reason is Stop.LOST:
            self.asked, self.why = reason, why or reason
        self.context.cancelled = True
        if is_first:
            self._interrupt()

    @property
    def is_torn_down(self) -> bool:
        """Return whether a cancellation that nobody asked for is the whole event loop's, not one by the handler.

        A job that was asked to end is given back even in the worker's last moment; if the loop ends, that write fails
        at once.
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
        pools: Pools,
        limit: float | None,
        task: asyncio.Task[Any] | None,
    ) -> bytes | None:
        """Run the handler and return its result as JSON; if interrupted, raise `CancelledError` once it has ended.

        The payload is read and the result written where the handler runs, and within its time: both run code of the
        application, which must not hold up any other job.
        """
        self._task = task
        try:
            if registration.in_process:
                begun = partial(self._begin, limit)  # waiting for a process takes none of the handler's time
                run = pools.processes.run
                return await run(registration.function, data, self.context, begun=begun, called=self.called)
            if limit is not None:
                self._limits.begin(self, limit)
            if not registration.is_async:
                return await self._in_thread(registration, data, pools.threads)
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
        """Note that the payload is read and the handler is called."""
        if self.attempt is not None:
            self.attempt.started()

    def time_is_up(self) -> None:
        """Stop the handler: it has had all the time it may take."""
        self.stop(Stop.TIMEOUT)

    async def _in_thread(self, registration: Registration, data: bytes, threads: Executor) -> bytes | None:
        context = copy_context()
        future = self.loop.run_in_executor(threads, context.run, _call, registration, data, self)
        interrupted = False
        while not future.done():
            try:
                await asyncio.wait({future})
            except asyncio.CancelledError:
                # A thread cannot be cancelled: its handler is told and waited for, so that its shard is never shared.
                self.context.cancelled = interrupted = True
        if interrupted:
            if future.exception() is None:  # retrieved, though the outcome no longer matters
                discard(future.result())
            raise asyncio.CancelledError
        value = future.result()
        if value is None or type(value) is bytes:
            return value
        # It wraps an async function, which needed no thread: it goes on as if it had been called here.
        _take_over(context)
        return registration.write_result(await value)


class _Raised(Exception):  # noqa: N818 - reads as what happened
    """Carry a handler's exception out of its thread, marked as the handler's own.

    A future cannot hold a StopIteration (Python 3.11): it would never be done, and the handler would seem to run for
    ever. A KeyboardInterrupt or SystemExit in a task ends the event loop.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error


def _call(registration: Registration, data: bytes, handling: Handling) -> Any:
    """Call a plain handler, in a thread; return its result as JSON, or the awaitable that it returned."""
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
    pools: Pools,
    *,
    limit: float | None,
    policy: Retry,
    clock: Callable[[], datetime],
) -> Verdict:
    """Run the job's handler once.

    Args:
        entry: The job's entry, `processing`.
        read: Returns the handler and the payload as it came; raises a terminal `JobError` if one of them is missing.
        handling: The part of the run that can be interrupted.
        pools: The pools that plain functions run in.
        limit: Seconds that the handler may take; None for no limit.
        policy: The retry policy, unless the handler has its own.
        clock: Returns the time now.

    Returns:
        The verdict, for `Settlement` to apply.
    """
    early = handling.asked
    if early is not None:
        return _stopped(handling, entry, policy, limit, clock())
    task = asyncio.current_task(handling.loop)
    try:
        registration, data = read()
        policy = registration.retry or policy
        verdict: Verdict = Complete(await handling.run(registration, data, pools, limit, task))
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
        if handling.asked is None or _stands(handling):  # saves a call for most jobs
            return verdict
        return _stopped(handling, entry, policy, limit, clock())
    finally:
        # They hold the exception, whose traceback holds this frame: payloads must not live until garbage collection.
        del verdict, task


def _cancelled_from_within() -> JobError:
    return JobError.from_processing("the handler was cancelled by its own code")


async def _answer_cancellations(task: asyncio.Task[Any], handling: Handling) -> None:
    """Absorb cancellations requested while the handler ran, by us or by itself; they must not end the settlement."""
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(0)  # one that the handler requested just before its end arrives here
    if handling.is_torn_down:
        raise asyncio.CancelledError
    while task.cancelling():
        task.uncancel()


def _is_not_the_handlers(error: BaseException, task: asyncio.Task[Any] | None, handling: Handling) -> bool:
    """Return whether an exception came from outside the handler: Ctrl-C, or the end of the coroutine itself."""
    if is_ctrl_c(error):
        return True
    # A suspended coroutine is not closed by the task that runs it.
    return isinstance(error, GeneratorExit) and asyncio.current_task(handling.loop) is not task


def _stands(handling: Handling) -> bool:
    """Return whether the handler's outcome counts: it was not asked to end, or only since the worker is stopping."""
    return handling.asked is None or handling.asked is Stop.RELEASE


def _failed_in_stopping(entry: JobStatusResponse, error: BaseException) -> Release:
    text = "job %s (%s): its handler failed while it was being stopped: %s"
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
        # The application's own exception or retry policy failed.
        text = f"{describe(error)}; deciding on a retry raised {type(broken).__name__}"
        error = JobError.from_processing(text, cause=broken)
        verdict = _after(entry, error, Retry(), now)
    logger.log(
        logging.WARNING if isinstance(verdict, RetryAfter) else logging.ERROR,
        "job %s (%s): attempt %d of %d failed, %s: %s%s",
        entry.job_id,
        entry.type,
        entry.attempts,
        entry.max_attempts,
        f"the next attempt in {verdict.delay:.1f} s" if isinstance(verdict, RetryAfter) else "the job is dead",
        verdict.error,
        f"\n{error.trace}" if isinstance(error, HandlerFailed) else "",
        exc_info=_with_handlers_frames(error) if _has_place(error) else None,
    )
    return verdict


def _with_handlers_frames(error: BaseException) -> BaseException:
    """Leave out the frames of this module: they tell the reader nothing, and take long to write."""
    place = error.__traceback__
    while place is not None and place.tb_frame.f_code.co_filename == __file__:
        place = place.tb_next
    return error if place is None else error.with_traceback(place)


def _has_place(error: BaseException) -> bool:
    """Return whether a traceback adds anything; it does not for a JobError that was not raised from another error."""
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
