"""Check streams and consumers against what is declared."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity
from jsjobs.jetstream.topology.consumer_repair import differing
from jsjobs.jetstream.topology.consumers import waits_for
from jsjobs.jetstream.topology.generations import read_stored
from jsjobs.jetstream.topology.plan import Action, Step
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

_APPLY = "jsjobs streams apply"
_REMOVED = "a router removes it once it is empty, or `jsjobs streams apply`"
_AS_SAID = "delete the stream when it is empty, then `jsjobs streams apply`"


async def declared(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield streams, consumers and shard counts that are not as declared, and values that no setting here asks for."""
    for one in deployment.unasked:
        remedy = f"to have it compared, set {one.variable} as it is set where the streams are applied"
        what = str(one).partition(": ")[2]
        yield Finding("declared", Severity.NOTE, what, one.where, remedy)
    changing = {priority for priority, live in deployment.live.items() if len(live.generations) > 1}
    steps = await TopologyReconciler(deployment.connection, deployment.names, deployment.config).plan()
    redirected = {step.name for step in steps if "partitions" in step.changes}
    for step in steps:
        is_of_change = step.kind == "shards" and step.priority in changing
        # It is told that the lane's partitions differ; these are the ones that would be removed afterwards.
        is_of_change = is_of_change or (step.action is Action.KEEP and step.stream in redirected)
        if (step.action is not Action.KEEP or step.reason) and not is_of_change:
            yield _of(step)


def _of(step: Step) -> Finding:
    where = step.name if step.kind == "stream" else f"{step.kind} {step.name}"
    if step.action is Action.REFUSE:
        remedy = "resolve that first, then `jsjobs streams apply`; or set here what the server has"
        return Finding("declared", Severity.PROBLEM, f"it differs from the declaration: {step.reason}", where, remedy)
    if step.action is Action.CREATE:
        return Finding("declared", Severity.PROBLEM, "it is missing", where, _APPLY)
    if step.kind == "consumer" and step.action is Action.KEEP:
        what = f"new jobs do not go to this partition any more; {step.reason}"
        return Finding("declared", Severity.NOTE, what, where, _REMOVED)
    if step.action is Action.DELETE and step.priority is not None:
        return Finding("declared", Severity.NOTE, step.reason, step.name, _REMOVED)
    if step.action is Action.KEEP:
        return Finding("declared", Severity.WARNING, step.reason, where, _AS_SAID)
    if step.kind == "generations":
        return Finding("declared", Severity.PROBLEM, step.reason, where, _APPLY)
    if step.action is Action.DELETE:
        what = f"{step.reason}: they take deliveries, or count towards the account's limit of consumers"
        return Finding("declared", Severity.WARNING, what, step.name, _APPLY)
    if step.kind == "shards" and "shards" in step.changes:
        there, asked = step.changes["shards"]
        what = f"the server has {there:,}; JSJOBS_POOLS and JSJOBS_SCALE here ask for {asked:,}"
        remedy = f"if {asked:,} is meant, `{_APPLY}` with these settings; if {there:,} is, set it here too"
        return Finding("declared", Severity.WARNING, what, where, remedy)
    return Finding("declared", Severity.WARNING, f"it differs from the declaration: {differing(step)}", where, _APPLY)


async def unfinished_changes(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the changes of shard counts that are under way."""
    for priority, live in deployment.live.items():
        if len(live.generations) < 2:  # noqa: PLR2004 - an old and a new one
            continue
        stored = await read_stored(deployment.connection, deployment.names, priority)
        first = live.generations[0]
        left = stored.jobs[first] if stored else 0
        why = waits_for(first, {shard: info for shard, info in deployment.shards.items() if shard.priority is priority})
        what = f"its shards are being changed from {first} to {live.last}; jobs left in the old ones: {left:,}"
        what += f": {why}" if left and why else ""
        # Routers with the rights of `streams/auth` may do all of it, except change the stream.
        changes_stream = stored is not None and (stored.target != live.last or stored.copies < (live.copies or 0))
        remedy = f"run the same `{_APPLY}` again" if changes_stream else f"a router finishes it, or `{_APPLY}`"
        yield Finding("change", Severity.WARNING, what, priority, remedy)
