"""What is due, on its way into queues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import timedelta

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.api import find, server_time
from jsjobs.jetstream.stored import find_at_leader
from jsjobs.jetstream.subjects import Names


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


async def set_aside(patient: Patient) -> AsyncIterator[Finding]:
    """What was due and fits into no queue."""
    names = patient.names
    if names.schedule_stream not in patient.streams:
        return
    subject = _unfit(names)
    request = {"subjects_filter": subject}
    info = await find(patient.connection, f"STREAM.INFO.{names.schedule_stream}", request)
    count = ((info or {}).get("state", {}).get("subjects") or {}).get(subject, 0)
    if count:
        what = f"what was due and too large for its queue was set aside: {count:,}; that is no job"
        remedy = (
            f"`nats stream get {names.schedule_stream} --last-for {subject}` shows one, its header Jsjobs-Unfit says "
            "where it was due: find who publishes them, then "
            f"`nats stream purge {names.schedule_stream} --subject {subject}`"
        )
        yield Finding("unfit", Severity.WARNING, what, subject, remedy)


def _unfit(names: Names) -> str:
    return f"{names.namespace}.due.unfit"
