"""Compare a stream with its declaration: what must be created or changed, and what would lose jobs."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from jsjobs.jetstream.api.streams import find_stream, stream_info, stream_pages
from jsjobs.jetstream.api.types import Declared, StreamInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.job_ids import parse_plain_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.declaration import stream_differences
from jsjobs.jetstream.topology.plan import Action, Step, still_expires
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Queue

_FOR_GOOD = ("mirror", "sealed", "deny_purge", "deny_delete")
"""Settings that a stream cannot lose again."""


async def stream_step(connection: Connection, names: Names, stream: Declared, priority: Priority | None = None) -> Step:
    """Return the step that makes a stream match its declaration.

    Args:
        connection: A connection to the server.
        names: The namespace.
        stream: The declared stream.
        priority: The priority whose ordered queue it is; None if it is another stream.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    name = stream["name"]
    info = await find_stream(connection, name)
    if info is None:
        # A fence must never go back, and a queue takes nothing below the last sequence of an earlier stream.
        lasting = {names.state_stream, names.schedule_stream}
        return creation(stream, {"first_seq": clock_sequence()} if name in lasting else {})
    changes, reason = stream_differences(stream, info.config.as_told), ""
    if priority is not None and info.config.num_replicas > 1:
        changes.pop("subject_transform", None)  # see `update_queue`
    if changes.get("allow_msg_ttl") == (True, False):
        del changes["allow_msg_ttl"]
        stream, reason = {**stream, "allow_msg_ttl": True}, still_expires(name)
    if not changes:
        return Step(Action.KEEP, "stream", name, reason=reason, priority=priority)
    refused = await _would_lose(connection, stream, info, changes)
    if refused:
        return Step(Action.REFUSE, "stream", name, changes, refused)
    foreign = {key: None for key in changes if key not in stream}
    config = {**info.config.as_told, **stream, **foreign}
    return Step(Action.UPDATE, "stream", name, changes, reason, config=config, priority=priority)


async def _would_lose(connection: Connection, stream: Declared, info: StreamInfo, changes: Mapping[str, Any]) -> str:
    for key in ("retention", "storage", "subjects", *_FOR_GOOD):
        if key in changes and not (key == "subjects" and set(stream[key]) <= set(changes[key][0] or ())):
            return f"its {key} is {changes[key][0]!r} and must be {changes[key][1]!r}, which the server cannot change"
    if "max_bytes" in changes and 0 < stream["max_bytes"] < info.state.bytes:
        return f"it holds {info.state.bytes} bytes, more than the {stream['max_bytes']} asked for"
    if "max_msgs_per_subject" in changes and stream["retention"] == "workqueue":
        detail = await stream_info(connection, stream["name"], subjects=">")
        fullest = max(detail.state.subjects.values(), default=0)
        if fullest > stream["max_msgs_per_subject"]:
            return f"{fullest} jobs wait in one mailbox, more than the {stream['max_msgs_per_subject']} asked for"
    return ""


async def first_sequence(connection: Connection, names: Names, queue: Queue, floor: Mapping[Queue, int]) -> int:
    """Return a first sequence that no job of this queue ever had, even if the clock went back.

    Args:
        connection: A connection to the server.
        names: The namespace.
        queue: The queue.
        floor: The highest sequence ever given to a job of each queue, as the dead-letter table knows it.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    highest, keys = floor.get(queue, 0), f"$KV.{names.bucket}.*"
    async for info in stream_pages(connection, names.state_stream, keys):
        for subject in info.state.subjects:
            place = parse_plain_id(subject.rsplit(".", 1)[-1])
            if place is not None and place[0] == queue:
                highest = max(highest, place[1])
    return max(clock_sequence(), highest + 1)


def creation(stream: Declared, overlay: Declared) -> Step:
    """Return the step that creates a stream, with further settings."""
    name = stream["name"]
    return Step(Action.CREATE, "stream", name, config={**stream, **overlay})


def clock_sequence() -> int:
    """Return the clock in microseconds: a first sequence that no earlier stream reached, and below 2^53."""
    return time.time_ns() // 1000
