"""Running a namespace's jobs until none is left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import Any, NamedTuple

from jsjobs.jetstream.api import call
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.lookup import Lookup
from jsjobs.jetstream.schedules import ScheduleChanged, Schedules
from jsjobs.jetstream.state import StateStore
from jsjobs.jetstream.stored import stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.waiting import delayed_schedules
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.service import JobService
from jsjobs.testing.queued import FAR, queued_jobs, scheduled_jobs
from jsjobs.testing.settlement import PromptSettlement
from jsjobs.worker.worker import Worker

_LOOK_AGAIN = 0.003  # seconds
_MAX_LISTED = 20


class Drained(NamedTuple):
    """What came of it."""

    ended: list[JobStatusResponse]
    """The jobs that ended, in this order."""
    causes: dict[str, BaseException]
    """What dead ones ended in."""


async def drain(connection: Connection, service: JobService, timeout: float, *, with_scheduled: bool) -> Drained:
    """Run a worker until no job is left.

    Args:
        connection: To the server.
        service: Whose handlers run.
        timeout: Seconds.
        with_scheduled: Whether delayed jobs are due at once.

    Raises:
        TimeoutError: Naming the jobs that have not ended after `timeout` seconds.
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    __tracebackhide__ = True
    names, began = Names(service.config.namespace), utc_now()
    before = (await call(connection, f"STREAM.INFO.{names.state_stream}"))["state"]["last_seq"]
    causes: dict[str, BaseException] = {}
    worker = service.worker()
    worker.beside.clear()  # what the application does every minute is not to happen in the middle of its test
    worker.settles_with = partial(PromptSettlement, causes=causes)
    await worker.start()
    try:
        async with asyncio.timeout(timeout):
            await _until_quiet(connection, names, worker)
            while with_scheduled and await _fire_all(connection, names):
                await _until_quiet(connection, names, worker)
    except TimeoutError:
        raise TimeoutError(await _unfinished(connection, names, timeout, scheduled=with_scheduled)) from None
    finally:
        await worker.stop(0)
    return Drained(await _ended(connection, names, before, began), causes)


async def _until_quiet(connection: Connection, names: Names, worker: Worker) -> None:
    """Wait until all queues are empty at the same moment: a running job stands in its queue until it has ended.

    Queues are asked one by one, and a job may put another into one that was asked already. But queues that were empty,
    and are so again without any message in between, were all of them empty between the two rounds.
    """
    earlier: list[int] | None = None
    while True:
        now = None if worker.running else await _when_empty(connection, names)
        if now is not None and now == earlier:
            return
        earlier = now
        if now is None:
            await asyncio.sleep(_LOOK_AGAIN)


async def _fire_all(connection: Connection, names: Names) -> bool:
    """Let every delayed job run now, those that are due first, and wait for their ends; False if there was none."""
    schedules, state = Schedules(connection, names), StateStore(connection, names)
    found = [schedule async for schedule in delayed_schedules(connection, names)]
    fired = []
    for schedule in sorted(found, key=lambda schedule: schedule.due or FAR):
        with suppress(ScheduleChanged):  # it is due just now
            await schedules.fire(schedule)
        fired.append(schedule.job_id or "")
    for job_id in fired:
        await _end_of(state, job_id)
    return bool(fired)


async def _end_of(state: StateStore, job_id: str) -> None:
    """Wait for the end of a job that fired: between its schedule and its queue, its entry alone shows it."""
    while True:
        known = await state.read(job_id)
        if known is not None and not known.is_deleted and (known.entry is None or known.entry.status.is_terminal):
            return
        await asyncio.sleep(_LOOK_AGAIN)


async def _when_empty(connection: Connection, names: Names) -> list[int] | None:
    """The last sequence of each queue, if all of them are empty, and nothing that is due is on its way to one."""
    # In the order in which a message goes: a replay, or what fired, is in the one or in the other.
    stream = names.schedule_stream
    sources = await asyncio.gather(
        *(call(connection, f"CONSUMER.INFO.{stream}.{names.source(priority)}") for priority in Priority)
    )
    infos = await asyncio.gather(*(call(connection, f"STREAM.INFO.{names.stream(priority)}") for priority in Priority))
    states = [info["state"] for info in infos]
    if any(state["messages"] for state in states) or not all(map(_has_taken, infos, sources)):
        return None
    return [state["last_seq"] for state in states]


def _has_taken(queue: dict[str, Any], source: dict[str, Any]) -> bool:
    """Whether a queue has stored all that was due for it; it acknowledges that up to a second later."""
    taken = max((each.get("seq", 0) for each in queue.get("sources") or []), default=0)
    is_stored = not source["num_ack_pending"] or taken >= source["delivered"]["stream_seq"]
    return not source["num_pending"] and is_stored


async def _ended(connection: Connection, names: Names, after: int, began: datetime) -> list[JobStatusResponse]:
    """The jobs whose entries were written after a sequence and that ended after a moment.

    A router writes the entry of a dead job once more, when its letter is in the database: that is no other end.
    """
    ended: list[tuple[datetime, JobStatusResponse]] = []
    async for message in stored(connection, names.state_stream, f"$KV.{names.bucket}.*", after=after):
        entry = JobStatusResponse.model_validate_json(message.data) if message.data else None
        if entry is not None and entry.completed_at is not None and entry.completed_at >= began:
            ended.append((entry.completed_at, entry))
    return [entry for _, entry in sorted(ended, key=itemgetter(0))]


async def _unfinished(connection: Connection, names: Names, timeout: float, *, scheduled: bool) -> str:
    lookup = Lookup(connection, names, StateStore(connection, names))
    found = []
    for job in [*await queued_jobs(connection, names), *(await scheduled_jobs(connection, names) if scheduled else [])]:
        try:
            status = await lookup.status(job.job_id)
        except JobError as error:
            if error.reason is not Reason.NOT_FOUND:
                raise
            continue  # it has ended just now
        if not status.status.is_terminal:
            found.append(_line(status))
    listed = "; ".join(found[:_MAX_LISTED])
    more = f"; and {len(found) - _MAX_LISTED} more" if len(found) > _MAX_LISTED else ""
    what = f"{len(found)} job{'s' if len(found) != 1 else ''} had not ended after {timeout:g} s"
    return f"{what}: {listed}{more}" if found else what


def _line(status: JobStatusResponse) -> str:
    text = f"{status.job_id} ({status.type}) {status.status}"
    if status.status is Status.PROCESSING:
        return f"{text}, attempt {status.attempts}"
    if status.snoozed_until is not None:
        return f"{text}, its handler snoozed"
    return f"{text}, last error: {status.last_error}" if status.last_error else text
