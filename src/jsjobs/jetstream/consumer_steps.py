"""Consumers that are not as declared: what differs, and making them so without losing a job."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from jsjobs.jetstream.api import ApiError, call, find, server_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.declared import Declared, consumer_differences, is_plausible
from jsjobs.jetstream.generations import read_live
from jsjobs.jetstream.shard_consumers import later, pause, paused_until, resume
from jsjobs.jetstream.steps import Action, Step
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.model.job import Priority

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
"""What the server can change on a consumer that exists. A filter it can too, but the consumer has passed over by then
what the other one did not let through, and comes back to none of it."""
_REFUSED = {10012, 10013}
"""What it says where it cannot after all: another deliver subject, as long as anybody listens to the one there is."""
_BRIEF = timedelta(seconds=5)
"""A pause that ends within this is one that wakes a consumer."""
_SHOWN = 5


def consumer_step(
    stream: str, consumer: Declared, info: dict[str, Any] | None, last: int, priority: Priority | None = None
) -> Step:
    """What must be done so that a consumer is as declared.

    Args:
        stream: Whose consumer.
        consumer: What is declared.
        info: What the server tells of it; None where it is not there.
        last: The last sequence of its stream, read after that.
        priority: Whose shard.
    """
    name = consumer["name"]
    endpoint = f"CONSUMER.DURABLE.CREATE.{stream}.{name}"
    body = {"stream_name": stream, "config": consumer}
    if info is None:
        body["action"] = "create"
        return Step(Action.CREATE, "consumer", name, endpoint=endpoint, body=body, priority=priority)
    changes = consumer_differences(consumer, info["config"])
    until = paused_until(info)
    if Shard.of(name) is None and until is not None and until - server_time(info) > _BRIEF:
        changes["pause_until"] = (until.isoformat(), None)  # nobody pauses these, as operators do shards
    if _position(info) > last:
        changes["delivered"] = (_position(info), last)  # it was reset, and passes over whatever comes until then
    if not changes:
        return Step(Action.KEEP, "consumer", name)
    # A pause that is not named stays as it is: this one may be lifted at this moment.
    body["action"] = "update"
    action = Action.UPDATE if changes.keys() <= _IN_PLACE else Action.REPLACE
    return Step(action, "consumer", name, changes, endpoint=endpoint, body=body, priority=priority)


async def last_sequence(connection: Connection, stream: str) -> int:
    """The last sequence of a stream; 0 where it is not there."""
    info = await find(connection, f"STREAM.INFO.{stream}")
    return 0 if info is None else int(info["state"]["last_seq"])


def _position(info: dict[str, Any]) -> int:
    """How far a consumer says that it is in its stream; beyond the last message only where it was reset to there."""
    return int(max(info["delivered"]["stream_seq"], info["ack_floor"]["stream_seq"]))


def foreign_step(stream: str, consumers: Sequence[str]) -> list[Step]:
    """Removing consumers that nobody declared; nothing where there are none."""
    if not consumers:
        return []
    shown = ", ".join(name[:80] for name in sorted(consumers)[:_SHOWN])
    more = f" and {len(consumers) - _SHOWN:,} more" if len(consumers) > _SHOWN else ""
    reason = f"consumers that are not declared: {shown}{more}"
    return [Step(Action.DELETE, "consumers", stream, reason=reason, body={"names": list(consumers)})]


def gentle(step: Step) -> Step | None:
    """As a step of whoever has other settings than an operator, perhaps: only what holds up deliveries is mended.

    None where nothing does.
    """
    bearable = {name: actual for name, (actual, wanted) in step.changes.items() if is_plausible(name, actual, wanted)}
    if len(bearable) == len(step.changes):
        return None
    kept = {name: actual for name, actual in bearable.items() if actual}
    body = {**step.body, "config": {**step.body["config"], **kept}}
    return Step(step.action, step.kind, step.name, step.changes, endpoint=step.endpoint, body=body)


async def take_consumer_step(connection: Connection, names: Names, step: Step) -> None:
    """Make, change, replace or remove what a step is about.

    Raises:
        NotPermitted: If this user of NATS may not.
        JobError: If the server refuses or cannot be reached.
    """
    if step.action is Action.DELETE:
        for name in step.body["names"]:
            await find(connection, f"CONSUMER.DELETE.{step.name}.{name}")
        return
    if step.action is Action.REPLACE:
        await _replace(connection, names, step)
        return
    try:
        await call(connection, step.endpoint, step.body)
    except ApiError as error:
        if step.action is not Action.UPDATE or error.err_code not in _REFUSED:
            raise
        await _replace(connection, names, step)
    else:
        if "pause_until" in step.changes:
            await resume(connection, step.body["stream_name"], step.name)


async def _replace(connection: Connection, names: Names, step: Step) -> None:
    """Delete a consumer and make it anew: what had been delivered and nobody ended, it delivers again.

    A shard that holds jobs begins once any lease of its last job is over: its worker cannot renew it any more. Whether
    one is in flight, a consumer that was tampered with does not tell.
    """
    stream, shard, config = step.body["stream_name"], Shard.of(step.name), step.body["config"]
    info = await find(connection, f"CONSUMER.INFO.{stream}.{step.name}")
    until = None
    if info is not None and shard is not None:
        until = paused_until(info)
        if until is None and await _holds_jobs(connection, stream, config["filter_subject"]):
            before = info["config"].get("ack_wait", 0)
            lease = max(before if is_plausible("ack_wait", before) else 0, config["ack_wait"])
            until = server_time(info) + timedelta(microseconds=lease / 1000)
    if until is not None:
        config = {**config, "pause_until": until.isoformat()}
    await find(connection, f"CONSUMER.DELETE.{stream}.{step.name}")
    await call(connection, step.endpoint, {"stream_name": stream, "config": config, "action": "create"})
    if shard is not None:
        # Whoever paused the priority meanwhile did not find it.
        noted = (await read_live(connection, names, shard.priority)).operators_pause
        if noted is not None and later(noted, until) == noted != until:
            await pause(connection, stream, step.name, noted)


async def _holds_jobs(connection: Connection, stream: str, subject: str) -> bool:
    info = await call(connection, f"STREAM.INFO.{stream}", {"subjects_filter": subject})
    return bool(info["state"].get("subjects"))


def differing(step: Step) -> str:
    """What is not as declared, in words."""
    return "; ".join(f"{name} is {json.dumps(old)}, not {json.dumps(new)}" for name, (old, new) in step.changes.items())
