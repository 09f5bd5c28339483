"""How full queues are, and with what."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.doctor.finding import Finding, Severity, how_full
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.mailboxes import look_at_mailboxes

_MANY_TYPES = 1_000
"""Types are counted in hundreds: a queue with many more of them drains ever more slowly."""
_SHOWN = 3
_SHORT_WINDOW = 60.0
"""Seconds; a publisher that repeats what an outage left unanswered does so within a minute, as a rule."""


async def types(patient: Patient) -> AsyncIterator[Finding]:
    """Queues with so many types of jobs that they are surely data."""
    for priority, info in patient.queues.items():
        if info["state"].get("num_subjects", 0) <= _MANY_TYPES:
            continue  # there are no fewer of these than of types
        found = await look_at_mailboxes(patient.connection, patient.names, priority, examples=_SHOWN)
        if found.types > _MANY_TYPES:
            what = f"{found.types:,} types of jobs wait in it, such as {', '.join(found.examples)}: it drains slowly"
            remedy = (
                f"publish on {patient.names.namespace}.{priority}.<entity>.<type> with an entity without dots: what "
                "follows its first dot counts as type"
            )
            yield Finding("types", Severity.WARNING, what, info["config"]["name"], remedy)


async def room(patient: Patient) -> AsyncIterator[Finding]:
    """Queues, and mailboxes in them, that are nearly full."""
    for priority, info in patient.queues.items():
        name, state = info["config"]["name"], info["state"]
        if finding := _near(name, state["bytes"], info["config"]["max_bytes"], "bytes", "JSJOBS_QUEUE_BYTES"):
            yield finding
        most = info["config"].get("max_msgs_per_subject", -1)
        if how_full(state["messages"], most):  # fewer fill no mailbox
            found = await look_at_mailboxes(patient.connection, patient.names, priority, examples=0)
            where = f"{name}, {found.fullest_subject}"
            if finding := _near(where, found.fullest, most, "jobs of one shard and type", "JSJOBS_CAPACITY"):
                yield finding


async def consumers(patient: Patient) -> AsyncIterator[Finding]:
    """Streams that have nearly as many consumers as the account may have on each."""
    for name, info in patient.streams.items():
        used = info["state"].get("consumer_count", 0)
        if severity := how_full(used, patient.max_consumers):
            what = f"{used:,} of {patient.max_consumers:,} consumers are taken: at the limit no shard can be made again"
            remedy = "`jsjobs streams apply` removes what queues have undeclared; or raise max_consumers of the account"
            yield Finding("consumers", severity, what, name, remedy)


def _near(where: str, used: int, most: int, what: str, setting: str) -> Finding | None:
    severity = how_full(used, most)
    if severity is None:
        return None
    text = f"{used:,} of {most:,} {what} are taken: a full queue refuses jobs, and holds up those that are due"
    return Finding("capacity", severity, text, where, f"more workers, or more {setting}, then `jsjobs streams apply`")


async def duplicates(patient: Patient) -> AsyncIterator[Finding]:
    """Queues that forget dedupe keys soon."""
    for info in patient.queues.values():
        window = info["config"].get("duplicate_window", 0) / 1e9
        if window < _SHORT_WINDOW:
            what = f"dedupe keys are remembered for {window:g} s: a publisher that repeats a job later queues it twice"
            remedy = "JSJOBS_DUPLICATE_WINDOW=120, then `jsjobs streams apply`"
            yield Finding("duplicates", Severity.NOTE, what, info["config"]["name"], remedy)
