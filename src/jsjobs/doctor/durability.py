"""What survives the loss of a disk or of power: copies, and when servers bring to disk what they acknowledged."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.servers import ASKED_FOR_JETSTREAM

_ALWAYS = "`jetstream { sync_interval: always }` on every server, and JSJOBS_REPLICAS=3"


async def one_copy(patient: Patient) -> AsyncIterator[Finding]:
    """Streams that nothing but one disk holds."""
    if patient.streams and all(info["config"]["num_replicas"] == 1 for info in patient.streams.values()):
        what = "one copy of each stream: the loss of the server's disk is the loss of all jobs"
        remedy = "if that matters: three servers, JSJOBS_REPLICAS=3, then `jsjobs streams apply`"
        yield Finding("sync", Severity.NOTE, what, "JSJOBS_REPLICAS", remedy)


async def sync(patient: Patient) -> AsyncIterator[Finding]:
    """Sync settings, as far as they can be seen."""
    found = (await patient.jetstream()).sync
    if not found:
        what = (
            "when servers bring to disk what they acknowledged cannot be seen by this account; by default every 2 min"
        )
        remedy = (
            f"to survive the power loss of all servers: {_ALWAYS} (publishing is 5 to 9 times slower). To see it here, "
            f"let the account import the service {ASKED_FOR_JETSTREAM} of the system account"
        )
        yield Finding("sync", Severity.NOTE, what, "sync_interval", remedy)
        return
    late = [server for server in found if not server.always]
    for server in late:
        what = (
            f"sync_interval is {server.interval:g} s: a power loss of every copy may cost as much of what was accepted"
        )
        yield Finding("sync", Severity.NOTE, what, server.server, f"if that matters: {_ALWAYS}")
    if not late:
        yield Finding("sync", Severity.OK, "every server brings to disk what it acknowledges before it does", "")
