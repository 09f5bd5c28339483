"""The copies of streams: leaders, and servers that are away or behind."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncIterator

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient

_SHOWN = 3
_UNHEARD = 5.0
"""Seconds after which a server is away, which tells of itself every second: one that was killed is not called offline,
and is called current for ten seconds (nats-server 2.15.1, measured)."""


async def copies(patient: Patient) -> AsyncIterator[Finding]:
    """Streams without a leader, and with fewer good copies than they are to have."""
    for name in sorted(patient.silent):
        what = "it does not answer: it has no leader, or this user may not ask for it"
        yield Finding("copies", Severity.PROBLEM, what, name, "start the servers that hold its copies")
    away, behind = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    answering = {server.name for server in patient.servers}
    for name, info in sorted(patient.streams.items()):
        cluster, wanted = info.get("cluster") or {}, info["config"]["num_replicas"]
        others = cluster.get("replicas") or []
        for replica in others:
            # A leader that is new has never heard of it; but then it does not answer us either.
            is_lost = bool(answering) and replica["name"] not in answering
            if is_lost or replica.get("offline") or replica.get("active", 0) / 1e9 >= _UNHEARD:
                away[replica["name"]].append(name)
            elif not replica.get("current"):
                behind[replica["name"]].append(name)
        if len(others) < wanted - 1:
            what = f"it has {1 + len(others)} of its {wanted} copies"
            yield Finding(
                "copies", Severity.PROBLEM, what, name, "start the missing servers, or add others to the cluster"
            )
    for server, streams in away.items():
        what = f"it is away, with a copy of {_named(streams)}: one less may be lost"
        yield Finding(
            "copies", Severity.PROBLEM, what, server, "start it; if it is gone for good, `nats server raft peer-remove`"
        )
    for server, streams in behind.items():
        what = f"its copy of {_named(streams)} is behind"
        remedy = "it catches up by itself; if it does not, look at its disk and network"
        yield Finding("copies", Severity.WARNING, what, server, remedy)


def _named(streams: list[str]) -> str:
    more = f" and {len(streams) - _SHOWN} more" if len(streams) > _SHOWN else ""
    return ", ".join(streams[:_SHOWN]) + more
