"""The partitions of the parallel lanes: which exist, and the steps that give a lane as many as it should have.

A lane's transform says to how many partitions its new jobs go. A partition beyond them stays, and workers take its
jobs, until it holds none.
"""

from __future__ import annotations

import asyncio
import re
from datetime import datetime

from jsjobs.jetstream.api.consumers import list_consumers
from jsjobs.jetstream.api.types import ConsumerInfo, StreamInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.jetstream.topology import declaration
from jsjobs.jetstream.topology.consumer_repair import consumer_step, foreign_step
from jsjobs.jetstream.topology.plan import Action, Step
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


def partition_steps(
    names: Names,
    config: Config,
    priority: Priority,
    found: Partitions,
    *,
    count: int,
    routed: int | None,
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
        last: The last sequence of its stream.
        paused_until: The end of an operator's pause of the priority, which a new partition takes over.
    """
    stream = names.queue(Queue(priority, Lane.PARALLEL))
    before, after = list[Step](), list[Step]()
    for number in range(count):
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
        if left or routed is None or partition.number < routed:
            jobs = f"{left:,} {'job' if left == 1 else 'jobs'} in it must end first" if left else "it is removed later"
            after.append(Step(Action.KEEP, "consumer", partition.consumer, reason=jobs, priority=priority))
        else:
            idle.append(partition.consumer)
    return before, [*after, *foreign_step(stream, idle)]
