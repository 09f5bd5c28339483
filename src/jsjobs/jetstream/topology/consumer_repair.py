"""Find consumers that differ from their declaration, and repair them without losing a job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal

from jsjobs.jetstream.api.consumers import create_consumer, delete_consumer, find_consumer, pause_consumer
from jsjobs.jetstream.api.errors import ApiError
from jsjobs.jetstream.api.streams import find_stream, stream_info
from jsjobs.jetstream.api.types import ConsumerInfo, Declared
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.jetstream.topology.consumers import later, resume
from jsjobs.jetstream.topology.declaration import consumer_differences, is_plausible
from jsjobs.jetstream.topology.generations import read_live
from jsjobs.jetstream.topology.plan import Action, Step
from jsjobs.model.job import Priority
from jsjobs.model.times import parse_rfc3339

_IN_PLACE = frozenset(
    {
        "ack_wait",
        "backoff",
        "deliver_group",
        "deliver_subject",
        "description",
        "headers_only",
        "inactive_threshold",
        "max_ack_pending",
        "max_deliver",
        "num_replicas",
        "pause_until",
        "rate_limit_bps",
        "sample_freq",
    }
)
"""Settings that the server can change on an existing consumer. The filter is left out, though the server accepts a new
one: docs/server-quirks.md#a-consumer-that-cannot-be-changed-back."""
_REFUSED = {10012, 10013}
"""Error codes of a change that the server refuses after all: a new deliver subject while somebody listens to the old
one."""
_BRIEF = timedelta(seconds=5)
"""A pause that ends within this time is one that wakes a consumer."""
_SHOWN = 5


def consumer_step(
    stream: str, consumer: Declared, info: ConsumerInfo | None, last: int, priority: Priority | None = None
) -> Step:
    """Return the step that makes a consumer match its declaration.

    Args:
        stream: The consumer's stream.
        consumer: The declared consumer.
        info: The server's information about it; None if it does not exist.
        last: The last sequence of its stream, read after `info`.
        priority: The priority whose shard or partition it is; None if it is neither.
    """
    name = consumer["name"]
    if info is None:
        return Step(Action.CREATE, "consumer", name, stream=stream, config=consumer, priority=priority)
    changes = consumer_differences(consumer, info.config.as_told)
    until = info.paused_until
    if priority is None and until is not None and until - info.ts > _BRIEF:
        changes["pause_until"] = (until.isoformat(), None)  # operators pause priorities, but nobody pauses these
    if _position(info) > last:
        changes["delivered"] = (_position(info), last)  # it was reset, and skips every message up to there
    if not changes:
        return Step(Action.KEEP, "consumer", name)
    # An update that names no pause keeps the present one, which somebody may be lifting at this moment.
    action = Action.UPDATE if changes.keys() <= _IN_PLACE else Action.REPLACE
    return Step(action, "consumer", name, changes, stream=stream, config=consumer, priority=priority)


async def last_sequence(connection: Connection, stream: str) -> int:
    """Return the last sequence of a stream; 0 if the stream does not exist."""
    info = await find_stream(connection, stream)
    return 0 if info is None else info.state.last_seq


def _position(info: ConsumerInfo) -> int:
    """Return the consumer's reported position in its stream.

    It lies beyond the last message only if the consumer was reset to there.
    """
    return max(info.delivered.stream_seq, info.ack_floor.stream_seq)


def foreign_step(stream: str, consumers: Sequence[str]) -> list[Step]:
    """Return the step that removes consumers nobody declared; an empty list if there are none."""
    if not consumers:
        return []
    shown = ", ".join(name[:80] for name in sorted(consumers)[:_SHOWN])
    more = f" and {len(consumers) - _SHOWN:,} more" if len(consumers) > _SHOWN else ""
    reason = f"consumers that are not declared: {shown}{more}"
    return [Step(Action.DELETE, "consumers", stream, reason=reason, foreign=tuple(consumers))]


def gentle(step: Step) -> Step | None:
    """Reduce a step to the repairs that deliveries need; return None if they need none.

    It is for processes whose settings may differ from the operator's: they repair only what holds up deliveries.
    """
    bearable = {name: actual for name, (actual, wanted) in step.changes.items() if is_plausible(name, actual, wanted)}
    if len(bearable) == len(step.changes):
        return None
    kept = {name: actual for name, actual in bearable.items() if actual}
    return Step(step.action, step.kind, step.name, step.changes, stream=step.stream, config={**step.config, **kept})


async def take_consumer_step(connection: Connection, names: Names, step: Step) -> None:
    """Create, change, replace or remove the consumers of a step.

    Raises:
        NotPermitted: If this user of NATS may not do that.
        JobError: If the server refuses or cannot be reached.
    """
    if step.action is Action.DELETE:
        for name in step.foreign:
            await delete_consumer(connection, step.name, name)
        return
    if step.action is Action.REPLACE:
        await _replace(connection, names, step)
        return
    try:
        action: Literal["create", "update"] = "update" if step.action is Action.UPDATE else "create"
        await create_consumer(connection, step.stream, step.config, action)
    except ApiError as error:
        if step.action is not Action.UPDATE or error.err_code not in _REFUSED:
            raise
        await _replace(connection, names, step)
    else:
        if "pause_until" in step.changes:
            await resume(connection, step.stream, step.name)
        if step.action is Action.CREATE:
            await _catch_up(connection, names, step)


async def _catch_up(connection: Connection, names: Names, step: Step) -> None:
    """Apply an operator's decision since the plan to a consumer just created, which the operator did not find."""
    if step.priority is None:
        return
    planned = step.config.get("pause_until")
    noted = (await read_live(connection, names, step.priority)).operators_pause
    if noted != (None if planned is None else parse_rfc3339(planned)):
        await resume(connection, step.stream, step.name, operators_pause=noted)


async def _replace(connection: Connection, names: Names, step: Step) -> None:
    """Delete a consumer and create it anew: it redelivers messages that were delivered and never settled.

    A shard that holds jobs starts only once any lease on its last job is over, since the worker cannot renew that lease
    any more. A consumer that was tampered with does not tell whether a job is in flight. A partition starts at once:
    the workers leave a job alone that another one may run.
    """
    stream, config = step.stream, step.config
    place = Shard.of(step.name) or Partition.of(step.name)
    info = await find_consumer(connection, stream, step.name)
    until = None
    if info is not None and place is not None:
        until = info.paused_until
        is_shard = isinstance(place, Shard)
        if until is None and is_shard and await _holds_jobs(connection, stream, config["filter_subject"]):
            before = info.config.ack_wait
            lease = max(before if is_plausible("ack_wait", before) else 0, config["ack_wait"])
            until = info.ts + timedelta(microseconds=lease / 1000)
    if until is not None:
        config = {**config, "pause_until": until.isoformat()}
    await delete_consumer(connection, stream, step.name)
    await create_consumer(connection, stream, config)
    if place is not None:
        # An operator who paused the priority meanwhile did not find this consumer.
        noted = (await read_live(connection, names, place.priority)).operators_pause
        if noted is not None and later(noted, until) == noted != until:
            await pause_consumer(connection, stream, step.name, noted)


async def _holds_jobs(connection: Connection, stream: str, subject: str) -> bool:
    info = await stream_info(connection, stream, subjects=subject)
    return bool(info.state.subjects)


def differing(step: Step) -> str:
    """Describe in words what differs from the declaration."""
    return "; ".join(f"{name} is {json.dumps(old)}, not {json.dumps(new)}" for name, (old, new) in step.changes.items())
