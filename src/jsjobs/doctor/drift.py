"""What the server has against what is declared."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.consumer_steps import differing
from jsjobs.jetstream.generation_consumers import waits_for
from jsjobs.jetstream.generations import read_stored
from jsjobs.jetstream.steps import Action, Step
from jsjobs.jetstream.topology import Topology

_APPLY = "jsjobs streams apply"
_AS_SAID = "delete the stream when it is empty, then `jsjobs streams apply`"


async def declared(patient: Patient) -> AsyncIterator[Finding]:
    """Streams, consumers and shard counts that are not as declared, and what differs though nobody here asks for it."""
    for one in patient.unasked:
        remedy = f"to have it compared, set {one.variable} as it is set where the streams are applied"
        what = str(one).partition(": ")[2]
        yield Finding("declared", Severity.NOTE, what, one.where, remedy)
    changing = {priority for priority, live in patient.live.items() if len(live.generations) > 1}
    for step in await Topology(patient.connection, patient.names, patient.config).plan():
        is_of_change = step.kind == "shards" and step.priority in changing
        if (step.action is not Action.KEEP or step.reason) and not is_of_change:
            yield _of(step)


def _of(step: Step) -> Finding:
    where = step.name if step.kind == "stream" else f"{step.kind} {step.name}"
    if step.action is Action.REFUSE:
        remedy = "settle that first, then `jsjobs streams apply`; or set what the settings declare to what there is"
        return Finding("declared", Severity.PROBLEM, f"it is not as declared: {step.reason}", where, remedy)
    if step.action is Action.CREATE:
        return Finding("declared", Severity.PROBLEM, "it is not there", where, _APPLY)
    if step.action is Action.KEEP:
        return Finding("declared", Severity.WARNING, step.reason, where, _AS_SAID)
    if step.kind == "generations":
        return Finding("declared", Severity.PROBLEM, step.reason, where, _APPLY)
    if step.action is Action.DELETE:
        what = f"{step.reason}: they take deliveries, or a place among the consumers that the account may have"
        return Finding("declared", Severity.WARNING, what, step.name, _APPLY)
    if step.kind == "shards" and "shards" in step.changes:
        there, asked = step.changes["shards"]
        what = f"the server has {there:,}; JSJOBS_POOLS and JSJOBS_SCALE here ask for {asked:,}"
        remedy = f"if {asked:,} is meant, `{_APPLY}` with these settings; if {there:,} is, set it here too"
        return Finding("declared", Severity.WARNING, what, where, remedy)
    return Finding("declared", Severity.WARNING, f"it is not as declared: {differing(step)}", where, _APPLY)


async def unfinished_changes(patient: Patient) -> AsyncIterator[Finding]:
    """Shard counts that are being changed."""
    for priority, live in patient.live.items():
        if len(live.generations) < 2:  # noqa: PLR2004 - an old and a new one
            continue
        stored = await read_stored(patient.connection, patient.names, priority)
        first = live.generations[0]
        left = stored.jobs[first] if stored else 0
        why = waits_for(first, {shard: info for shard, info in patient.shards.items() if shard.priority is priority})
        what = f"its shards are being changed from {first} to {live.last}; jobs left in the old ones: {left:,}"
        what += f": {why}" if left and why else ""
        # Routers of `streams/auth` may do all of it but change the stream.
        changes_stream = stored is not None and (stored.target != live.last or stored.copies < (live.copies or 0))
        remedy = f"run the same `{_APPLY}` again" if changes_stream else f"a router finishes it, or `{_APPLY}`"
        yield Finding("change", Severity.WARNING, what, priority, remedy)
