"""What is due, on its way into queues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.api import find, server_time
from jsjobs.jetstream.stored import find_at_leader


async def stalled(patient: Patient) -> AsyncIterator[Finding]:
    """Queues that do not take what is due."""
    names = patient.names
    stream = patient.streams.get(names.schedule_stream)
    if stream is None:
        return
    for priority in patient.queues:
        source = await find(patient.connection, f"CONSUMER.INFO.{names.schedule_stream}.{names.source(priority)}")
        if source is None or not source["num_pending"] + source["num_ack_pending"]:
            continue
        request = {"seq": source["ack_floor"]["stream_seq"] + 1, "next_by_subj": source["config"]["filter_subject"]}
        first = await find_at_leader(patient.connection, names.schedule_stream, request)
        waited = timedelta() if first is None else server_time(source) - first.stored_at
        if waited > timedelta(seconds=patient.config.ack_wait):  # around a failover it takes several seconds
            count = source["num_pending"] + source["num_ack_pending"]
            what = (
                f"its queue does not take jobs that are due: {count:,}, the first for {waited.total_seconds():,.0f} s"
            )
            remedy = "if the queue is full (see capacity), make room; else a router sets it going: `jsjobs router`"
            yield Finding("due", Severity.PROBLEM, what, priority, remedy)
