"""The partitions of the parallel lanes: which exist, and the steps that give a lane as many as it should have.

A lane's transform says to how many partitions its new jobs go. A partition beyond them stays, and workers take its
jobs, until it holds none.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from contextlib import suppress
from datetime import datetime

from jsjobs.jetstream.api.consumers import list_consumers
from jsjobs.jetstream.api.streams import stream_info, stream_pages, update_stream
from jsjobs.jetstream.api.types import ConsumerInfo, Declared, StreamInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import Conflict
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.topology import declaration
from jsjobs.jetstream.topology.consumer_repair import consumer_step
from jsjobs.jetstream.topology.generations import read_live, write_live
from jsjobs.jetstream.topology.plan import Action, Step
from jsjobs.jetstream.topology.reshard import POLL, set_copies
from jsjobs.jetstream.topology.source_recovery import after_more_copies
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane, Queue
from jsjobs.settings import MAX_PARTITIONS, Config

Partitions = dict[Partition, ConsumerInfo]
"""The partitions that have a consumer, each with the consumer's information."""
_COUNT = re.compile(r"\{\{\s*partition\(\s*([0-9]{1,4})\s*,\s*1\s*\)\s*\}\}", re.IGNORECASE)


async def live_partitions(
    connection: Connection, names: Names, priorities: tuple[Priority, ...] = tuple(Priority)
) -> Partitions:
    """Return every partition that has a consumer, with the consumer's information.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    found = await asyncio.gather(*(partitions_and_others(connection, names, priority) for priority in priorities))
    return {partition: info for partitions, _ in found for partition, info in partitions.items()}


async def partitions_and_others(
    connection: Connection, names: Names, priority: Priority
) -> tuple[Partitions, list[str]]:
    """Return one priority's partitions as `live_partitions` does, and the names of its lane's other consumers."""
    partitions, others = Partitions(), list[str]()
    async for info in list_consumers(connection, names.queue(Queue(priority, Lane.PARALLEL))):
        partition = Partition.of(info.name)
        if partition is not None and partition.priority is priority:
            partitions[partition] = info
        else:
            others.append(info.name)
    return partitions, others


def partition_count(names: Names, priority: Priority, lane: StreamInfo) -> int | None:
    """Return to how many partitions a lane's new jobs go; None if its transform is not ours."""
    transform = lane.config.subject_transform
    prefix = f"{names.lane(priority)}."
    if transform is None or not transform.dest.startswith(prefix):
        return None
    match = _COUNT.match(transform.dest, len(prefix))
    count = int(match[1]) if match else 0
    return count if 0 < count <= MAX_PARTITIONS else None


async def partitions_with_jobs(connection: Connection, names: Names, priority: Priority) -> set[int]:
    """Return the numbers of a lane's partitions on whose subjects messages are stored."""
    numbers, subjects = set[int](), f"{names.lane(priority)}.>"
    async for info in stream_pages(connection, names.queue(Queue(priority, Lane.PARALLEL)), subjects):
        partitions = {names.partition_of(subject.encode(), priority) for subject in info.state.subjects}
        numbers |= {one.number for one in partitions if one is not None}
    return numbers


async def redirect(connection: Connection, names: Names, lane: Declared) -> None:
    """Change a lane's stream, and to how many partitions its new jobs go.

    Around that, the replicas of a stream store the same job in different partitions
    (docs/server-quirks.md#replicas-learn-of-a-transform-one-by-one), so a replicated lane has a single copy meanwhile.
    If this is interrupted, applying again gives it its copies back.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    stream = lane["name"]
    await set_copies(connection, stream, 1)
    await _without_peers(connection, stream)
    await update_stream(connection, {**lane, "num_replicas": 1})
    if lane["num_replicas"] > 1:
        await update_stream(connection, lane)
        await after_more_copies(connection, names, stream)


async def _without_peers(connection: Connection, stream: str) -> None:
    """Wait until the other nodes of a stream that is to have a single copy are removed."""
    while True:
        if not (await stream_info(connection, stream)).replicas:
            return
        await asyncio.sleep(POLL)


async def announce(connection: Connection, names: Names, priority: Priority) -> None:
    """Tell the workers that the partitions of a priority were changed, by writing its list of generations again.

    It stays as it is. Workers follow what is written there; one that misses it looks by itself within half a minute.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    live = await read_live(connection, names, priority)
    if live.generations:
        with suppress(Conflict):  # somebody else has just written it, and so told them
            await write_live(connection, names, priority, live)


def partition_steps(
    names: Names,
    config: Config,
    priority: Priority,
    found: Partitions,
    *,
    count: int,
    routed: int | None,
    holding: Collection[int],
    last: int,
    paused_until: datetime | None,
) -> tuple[list[Step], list[Step]]:
    """Return the steps of a lane's consumers: those that come before its stream is changed, and those after.

    Args:
        names: The namespace.
        config: The settings of the consumers.
        priority: The lane's priority.
        found: The partitions that exist.
        count: The number of partitions that the lane is to have.
        routed: The number of partitions to which its transform sends new jobs now; None if it is not known.
        holding: The partitions on whose subjects messages are stored, read after `routed`.
        last: The last sequence of its stream.
        paused_until: The end of an operator's pause of the priority, which a new partition takes over.
    """
    stream = names.queue(Queue(priority, Lane.PARALLEL))
    before, after = list[Step](), list[Step]()
    # One that is no longer needed, and whose consumer somebody deleted before its jobs had ended, is created again.
    lost = sorted(number for number in holding if number >= count and Partition(priority, number) not in found)
    for number in (*range(count), *lost):
        partition = Partition(priority, number)
        consumer = declaration.partition_consumer(config, names, partition)
        info = found.get(partition)
        if info is None and paused_until is not None:
            consumer["pause_until"] = paused_until.isoformat()  # like its siblings
        before.append(consumer_step(stream, consumer, info, last, priority))
    idle = list[str]()
    for partition, info in sorted(found.items(), key=lambda each: each[0].number):
        if partition.number < count:
            continue
        left = info.num_pending + info.num_ack_pending
        # Jobs may still be sent there until the transform names fewer.
        if left or partition.number in holding or routed is None or partition.number < routed:
            jobs = f"{left:,} {'job' if left == 1 else 'jobs'} in it must end first" if left else "it is removed later"
            kept = Step(Action.KEEP, "consumer", partition.consumer, reason=jobs, stream=stream, priority=priority)
            after.append(kept)
        else:
            idle.append(partition.consumer)
    return before, [*after, *_removal(stream, idle, priority)]


def _removal(stream: str, idle: list[str], priority: Priority) -> list[Step]:
    if not idle:
        return []
    reason = f"partitions that new jobs do not go to, and that hold none: {', '.join(idle)}"
    return [Step(Action.DELETE, "consumers", stream, reason=reason, foreign=tuple(idle), priority=priority)]
