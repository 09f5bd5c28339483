"""Check the streams' copies and leaders, and how full the queues are, and with what."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator

from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity, how_full
from jsjobs.jetstream.monitoring.backlog import look_at_mailboxes
from jsjobs.model.lanes import Lane

_UNHEARD = 5.0
"""Seconds of silence after which a server counts as away; servers report every second. The server's own judgement
comes later: docs/server-quirks.md#a-server-that-was-killed-is-called-current."""
_MANY_TYPES = 1_000
"""The most job types in a queue; a normal number is hundreds, and a queue with many more drains ever more slowly."""
_SHOWN = 3
_BYTES_SETTING = {Lane.ORDERED: "JSJOBS_QUEUE_BYTES", Lane.PARALLEL: "JSJOBS_LANE_BYTES"}
_PART = {Lane.ORDERED: "shard", Lane.PARALLEL: "partition"}
_SHORT_WINDOW = 60.0
"""Seconds; a publisher that repeats what an outage left unanswered usually does so within a minute."""


async def copies(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the streams without a leader, and those with fewer good copies than they should have."""
    for name in sorted(deployment.silent):
        what = "it does not answer: it has no leader, or this user may not ask for it"
        yield Finding("copies", Severity.PROBLEM, what, name, "start the servers that hold its copies")
    away, behind = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    answering = {server.name for server in deployment.servers}
    for name, info in sorted(deployment.streams.items()):
        others, wanted = info.replicas, info.config.num_replicas
        for replica in others:
            # A new leader has never heard of a lost server; but such a server does not answer us either.
            is_lost = bool(answering) and replica.name not in answering
            if is_lost or replica.offline or replica.active / 1e9 >= _UNHEARD:
                away[replica.name].append(name)
            elif not replica.current:
                behind[replica.name].append(name)
        if len(others) < wanted - 1:
            what = f"it has {1 + len(others)} of its {wanted} copies"
            yield Finding(
                "copies", Severity.PROBLEM, what, name, "start the missing servers, or add others to the cluster"
            )
    for server, streams in away.items():
        what = f"it is offline, and holds a copy of {_named(streams)}: one less may be lost"
        yield Finding(
            "copies", Severity.PROBLEM, what, server, "start it; if it is gone for good, `nats server raft peer-remove`"
        )
    for server, streams in behind.items():
        what = f"its copy of {_named(streams)} is behind"
        remedy = "it catches up by itself; if it does not, check its disk and network"
        yield Finding("copies", Severity.WARNING, what, server, remedy)


def _named(streams: list[str]) -> str:
    more = f" and {len(streams) - _SHOWN} more" if len(streams) > _SHOWN else ""
    return ", ".join(streams[:_SHOWN]) + more


async def types(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the queues with so many job types that the types must hold data."""
    for queue, info in deployment.queues.items():
        if info.state.num_subjects <= _MANY_TYPES:
            continue  # there are at least as many subjects as types
        found = await look_at_mailboxes(deployment.connection, deployment.names, queue, examples=_SHOWN)
        if found.types > _MANY_TYPES:
            what = f"{found.types:,} types of jobs wait in it, such as {', '.join(found.examples)}: it drains slowly"
            token = "<entity>" if queue.lane is Lane.ORDERED else "<key>"
            remedy = (
                f"publish on {deployment.names.subject_of(queue, token, '<type>')}, without a dot in {token}: what "
                "follows its first dot counts as type"
            )
            yield Finding("types", Severity.WARNING, what, info.config.name, remedy)


async def room(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the queues, and the mailboxes in them, that are nearly full."""
    for queue, info in deployment.queues.items():
        name, state = info.config.name, info.state
        if finding := _near(name, state.bytes, info.config.max_bytes, "bytes", _BYTES_SETTING[queue.lane]):
            yield finding
        most = info.config.max_msgs_per_subject
        if how_full(state.messages, most):  # with fewer messages no mailbox can be full
            found = await look_at_mailboxes(deployment.connection, deployment.names, queue, examples=0)
            where = f"{name}, {found.fullest_subject}"
            if finding := _near(
                where, found.fullest, most, f"jobs of one {_PART[queue.lane]} and type", "JSJOBS_CAPACITY"
            ):
                yield finding


async def consumers(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the streams that have nearly as many consumers as the account may have on each."""
    for name, info in deployment.streams.items():
        used = info.state.consumer_count
        if severity := how_full(used, deployment.max_consumers):
            what = (
                f"{used:,} of {deployment.max_consumers:,} consumers are used: at the limit no shard can be recreated"
            )
            remedy = "`jsjobs streams apply` removes what queues have undeclared; or raise max_consumers of the account"
            yield Finding("consumers", severity, what, name, remedy)


def _near(where: str, used: int, most: int, what: str, setting: str) -> Finding | None:
    severity = how_full(used, most)
    if severity is None:
        return None
    text = f"{used:,} of {most:,} {what} are used: a full queue refuses jobs, and delays due ones"
    return Finding("capacity", severity, text, where, f"add workers, or raise {setting}, then `jsjobs streams apply`")


async def duplicates(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the queues that forget dedupe keys too soon."""
    for info in deployment.queues.values():
        window = info.config.duplicate_window / 1e9
        if window < _SHORT_WINDOW:
            what = f"dedupe keys are remembered for {window:g} s: a publisher that repeats a job later queues it twice"
            remedy = "JSJOBS_DUPLICATE_WINDOW=120, then `jsjobs streams apply`"
            yield Finding("duplicates", Severity.NOTE, what, info.config.name, remedy)
