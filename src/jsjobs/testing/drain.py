"""Run the jobs of a namespace until none is left."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from jsjobs.jetstream.api.consumers import consumer_info
from jsjobs.jetstream.api.messages import stored
from jsjobs.jetstream.api.streams import stream_info
from jsjobs.jetstream.api.types import ConsumerInfo, StreamInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.store import ScheduleChanged, Schedules
from jsjobs.jetstream.tracking.lookup import Lookup, delayed_schedules
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, utc_now
from jsjobs.model.lanes import QUEUES
from jsjobs.service import JobService
from jsjobs.testing.deployment import runs_in_order
from jsjobs.testing.order import InOrder
from jsjobs.testing.queued import FAR, queued_jobs, scheduled_jobs
from jsjobs.testing.settlement import PromptSettlement
from jsjobs.worker.worker import Worker

_MAX_LISTED = 20


class Drained(NamedTuple):
    """The outcome of a drain."""

    ended: list[JobStatusResponse]
    """The jobs that ended, in the order in which they ended."""
    causes: dict[str, BaseException]
    """The exceptions that the dead jobs ended in, by the job's id."""


async def drain(connection: Connection, service: JobService, timeout: float, *, with_scheduled: bool) -> Drained:
    """Run a worker until no job is left.

    Args:
        connection: The connection to the server.
        service: The service whose handlers run.
        timeout: Seconds in which all jobs must have ended.
        with_scheduled: Whether delayed jobs are due at once.

    Raises:
        TimeoutError: If jobs have not ended after `timeout` seconds; it names them.
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    __tracebackhide__ = True
    names, began = Names(service.config.namespace), utc_now()
    before = (await stream_info(connection, names.state_stream)).state.last_seq
    causes: dict[str, BaseException] = {}
    worker = service.worker()
    worker.beside.clear()  # the application's periodic schedules must not fire in the middle of its test
    worker.settles_with = partial(PromptSettlement, causes=causes)
    priorities = [priority for priority in service.config.priorities if runs_in_order(service.config, priority)]
    order = InOrder(connection, names, worker.intake, priorities)
    await worker.start()
    try:
        async with asyncio.timeout(timeout):
            await _until_quiet(connection, names, worker, order)
            while with_scheduled and await _fire_all(connection, names, order):
                await _until_quiet(connection, names, worker, order)
    except TimeoutError:
        raise TimeoutError(await _unfinished(connection, names, timeout, scheduled=with_scheduled)) from None
    finally:
        order.close()
        await worker.stop(0)
    return Drained(await _ended(connection, names, before, began), causes)


async def _until_quiet(connection: Connection, names: Names, worker: Worker, order: InOrder) -> None:
    """Let jobs begin until all queues are empty at the same moment; a running job stays in its queue until it ends.

    Queues are asked one by one, and a job may submit another into a queue that was asked already. But if all queues
    were empty in two rounds, and none took a message in between, all of them were empty between the two rounds.
    """
    earlier: list[int] | None = None
    while True:
        await order.begin_next()
        now = None if worker.running or order.holds else await _when_empty(connection, names)
        if now is not None and now == earlier:
            return
        earlier = now
        if now is None:
            await order.wait()


async def _fire_all(connection: Connection, names: Names, order: InOrder) -> bool:
    """Run every delayed job now, the earliest due first, and wait until they end; return False if there was none."""
    schedules, state = Schedules(connection, names), StateStore(connection, names)
    found = [schedule async for schedule in delayed_schedules(connection, names)]
    fired = []
    for schedule in sorted(found, key=lambda schedule: schedule.due or FAR):
        with suppress(ScheduleChanged):  # it is due just now
            await schedules.fire(schedule)
        fired.append(schedule.job_id or "")
    for job_id in fired:
        await _end_of(state, job_id, order)
    return bool(fired)


async def _end_of(state: StateStore, job_id: str, order: InOrder) -> None:
    """Let jobs begin until one that fired has ended; between its schedule and its queue, only its entry shows it."""
    while True:
        await order.begin_next()
        known = await state.read(job_id)
        if known is not None and not known.is_deleted and (known.entry is None or known.entry.status.is_terminal):
            return
        await order.wait()


async def _when_empty(connection: Connection, names: Names) -> list[int] | None:
    """Return the last sequence of each queue, if all are empty and nothing that is due is on its way to one."""
    # Asked in the order in which a message travels: a replay, or a job that fired, is in the one or in the other.
    stream = names.schedule_stream
    sources = await asyncio.gather(*(consumer_info(connection, stream, names.source(queue)) for queue in QUEUES))
    infos = await asyncio.gather(*(stream_info(connection, names.queue(queue)) for queue in QUEUES))
    states = [info.state for info in infos]
    if any(state.messages for state in states) or not all(map(_has_taken, infos, sources)):
        return None
    return [state.last_seq for state in states]


def _has_taken(queue: StreamInfo, source: ConsumerInfo) -> bool:
    """Return whether a queue has stored everything that was due for it; it acknowledges that up to a second later."""
    taken = max((each.seq for each in queue.sources), default=0)
    is_stored = not source.num_ack_pending or taken >= source.delivered.stream_seq
    return not source.num_pending and is_stored


async def _ended(connection: Connection, names: Names, after: int, began: datetime) -> list[JobStatusResponse]:
    """Return the jobs whose entries were written after a sequence and that ended after a moment.

    A router writes the entry of a dead job once more when its letter is in the database; the job does not end again.
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
