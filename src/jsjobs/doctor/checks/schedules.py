"""Check that jobs which are due reach their queues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.api.messages import find_at_leader
from jsjobs.jetstream.api.types import MessageRequest


async def stalled(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the queues that do not take the jobs that are due."""
    names = deployment.names
    stream = deployment.streams.get(names.schedule_stream)
    if stream is None:
        return
    for queue in deployment.queues:
        source = await find_consumer(deployment.connection, names.schedule_stream, names.source(queue))
        if source is None or not source.num_pending + source.num_ack_pending:
            continue
        request: MessageRequest = {"seq": source.ack_floor.stream_seq + 1, "next_by_subj": source.config.filter_subject}
        first = await find_at_leader(deployment.connection, names.schedule_stream, request)
        waited = timedelta() if first is None else source.ts - first.stored_at
        if waited > timedelta(seconds=deployment.config.ack_wait):  # around a failover it takes several seconds
            count = source.num_pending + source.num_ack_pending
            what = f"its queue does not take due jobs: {count:,}, the first for {waited.total_seconds():,.0f} s"
            remedy = "if the queue is full (see capacity), make room; else start a router: `jsjobs router`"
            yield Finding("due", Severity.PROBLEM, what, queue.name, remedy)
