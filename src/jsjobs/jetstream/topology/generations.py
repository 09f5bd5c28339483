"""The live generations of a priority's shards: an ordered list in one bucket entry, changed by compare-and-set."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from jsjobs.jetstream.api.consumers import list_consumers
from jsjobs.jetstream.api.errors import Refusal, api_error
from jsjobs.jetstream.api.messages import find_at_leader
from jsjobs.jetstream.api.publish import answer_of
from jsjobs.jetstream.api.streams import stream_pages
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.state_store import WRONG_REVISION, Conflict
from jsjobs.jetstream.protocol.names import Generation, Names, Shard
from jsjobs.jetstream.topology.source_recovery import unheard
from jsjobs.model.job import Priority
from jsjobs.model.times import parse_rfc3339
from jsjobs.safe_log import SafeLogger

MAX_GENERATIONS = 16
"""The most generations that one priority may have at once. A change has two; jobs on unlisted subjects add a few."""
_MOST_COPIES = 5
_LONGEST = 4096
"""Bytes of an entry, at most; the longest valid one has a few hundred."""


@dataclass(frozen=True, slots=True)
class Live:
    """The content of the entry. The first generation runs; each later one waits until all before it are drained."""

    generations: tuple[Generation, ...] = ()
    """The generations, oldest first; empty if nothing was applied yet."""
    paused_until: datetime | None = None
    """The end of a pause that another tool set on consumers that are now removed; the next generation takes it over."""
    copies: int | None = None
    """How many copies a replicated queue gets back after a change, during which it has a single one."""
    operators_pause: datetime | None = None
    """The end of an operator's pause of the priority, perhaps over by now; every shard that starts takes it over."""
    revision: int = 0
    """The revision that the next writer must name."""
    problem: str = ""
    """Why the entry cannot be read, in words, if somebody wrote nonsense into it."""

    @property
    def last(self) -> Generation:
        """Return the generation that new jobs go to."""
        return self.generations[-1]


async def read_live(connection: Connection, names: Names, priority: Priority) -> Live:
    """Return the entry of a priority from the bucket's leader; nonsense in it becomes its `problem`.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    subject = f"$KV.{names.bucket}.{names.topology_key(priority)}"
    message = await find_at_leader(connection, names.state_stream, {"last_by_subj": subject})
    if message is None:
        return Live()
    if not message.data:
        return Live(revision=message.sequence)  # deleted by somebody
    try:
        return _parse(message.data, message.sequence)
    except (ValueError, OverflowError, TypeError, KeyError, AttributeError):
        key = names.topology_key(priority)
        problem = (
            f"the entry {key} in the bucket {names.bucket} cannot be read: run `jsjobs streams apply`, which finds the "
            "generations again by what the queue holds"
        )
        return Live(revision=message.sequence, problem=problem)


def _parse(data: bytes, revision: int) -> Live:
    if len(data) > _LONGEST:
        raise ValueError
    value = from_json(data, allow_inf_nan=False)
    listed, copies = value["generations"], value.get("copies")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_GENERATIONS:
        raise ValueError
    generations = tuple(map(Generation.parse, listed))
    # A generation listed twice would wait for itself, for ever.
    if len(set(generations)) < len(generations):
        raise ValueError
    if copies is not None and not (type(copies) is int and 1 <= copies <= _MOST_COPIES):
        raise ValueError
    return Live(
        generations,
        paused_until=_moment(value.get("paused_until")),
        copies=copies,
        operators_pause=_moment(value.get("operators_pause")),
        revision=revision,
    )


class LastLive:
    """Read the entries for a caller that follows them; one that cannot be read changes nothing and is reported once."""

    def __init__(self, connection: Connection, names: Names, logger: SafeLogger) -> None:
        self._connection = connection
        self._names = names
        self._logger = logger
        self._last: dict[Priority, Live] = {}
        self._told: set[Priority] = set()

    async def read(self, priority: Priority) -> Live:
        """Return the entry of a priority, or its last readable content.

        Raises:
            JobError: See `read_live`.
        """
        live = await read_live(self._connection, self._names, priority)
        if not live.problem:
            self._last[priority] = live
            self._told.discard(priority)
            return live
        if priority not in self._told:
            self._told.add(priority)
            self._logger.warning("shards stay as they were: %s", live.problem)
        return self._last.get(priority, live)


async def write_live(connection: Connection, names: Names, priority: Priority, live: Live) -> None:
    """Write the entry if it still has the revision that `live` was decided on.

    Raises:
        Conflict: If somebody else wrote first.
        JobError: `RunnerUnavailable`, if the server cannot be reached: the entry may or may not be written then.
    """
    key = names.topology_key(priority)
    value: dict[str, Any] = {"generations": [str(generation) for generation in live.generations]}
    if live.paused_until is not None:
        value["paused_until"] = live.paused_until.isoformat()
    if live.copies is not None:
        value["copies"] = live.copies
    if live.operators_pause is not None:
        value["operators_pause"] = live.operators_pause.isoformat()
    header = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: %d\r\n\r\n" % live.revision
    reply = await connection.ask(f"$KV.{names.bucket}.{key}".encode(), json.dumps(value).encode(), header=header)
    answer = answer_of(reply)
    if isinstance(answer, Refusal):
        raise Conflict(key) if answer.err_code in WRONG_REVISION else api_error(answer, f"writing {key}")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else parse_rfc3339(text)


class Stored(NamedTuple):
    """The content of a queue, and where it puts new jobs."""

    jobs: Counter[Generation | None]
    """The number of messages on each generation's subjects; None counts those on any other subject."""
    target: Generation | None
    """The generation that the stream's transform names; None if the transform is not ours."""
    copies: int = 1
    """The number of replicas that the stream is configured to have."""
    has_peers: bool = False
    """Whether other nodes take part in it, still or already."""
    unheard: float = 0.0
    """Seconds since it last heard from the schedules; -1 if it has not."""

    def unlisted(self, generations: tuple[Generation, ...]) -> list[Generation]:
        """Return the generations that hold jobs though they are not among the given ones, oldest first."""
        return sorted(generation for generation in self.jobs if generation and generation not in generations)


async def read_stored(connection: Connection, names: Names, priority: Priority) -> Stored | None:
    """Count a queue's messages by generation; return None if the stream does not exist."""
    jobs: Counter[Generation | None] = Counter()
    info = None
    async for info in stream_pages(connection, names.stream(priority), ">"):
        for subject, count in info.state.subjects.items():
            jobs[names.generation_of(subject, priority)] += count
    if info is None:
        return None
    transform = info.config.subject_transform
    target = None if transform is None else names.generation_of(transform.dest, priority)
    return Stored(jobs, target, info.config.num_replicas, bool(info.replicas), unheard(info))


def found_generations(stored: Stored) -> tuple[Generation, ...]:
    """Return the generations of a queue whose entry was lost: those that hold jobs, then the one that gets new jobs."""
    holding = sorted(generation for generation in stored.jobs if generation not in {None, stored.target})
    return (*holding, *([stored.target] if stored.target else []))


Shards = dict[Shard, ConsumerInfo]
"""The shards that have a consumer, each with the consumer's information."""


async def live_shards(
    connection: Connection, names: Names, priorities: tuple[Priority, ...] = tuple(Priority)
) -> Shards:
    """Return every shard that has a consumer, with the consumer's information."""
    found = await asyncio.gather(*(_shards(connection, names, priority) for priority in priorities))
    return {shard: info for shards in found for shard, info in shards.items()}


async def _shards(connection: Connection, names: Names, priority: Priority) -> Shards:
    return (await shards_and_others(connection, names, priority))[0]


async def shards_and_others(connection: Connection, names: Names, priority: Priority) -> tuple[Shards, list[str]]:
    """Return one priority's shards as `live_shards` does, and the names of its queue's other consumers."""
    shards, others = {}, []
    async for info in list_consumers(connection, names.stream(priority)):
        shard = Shard.of(info.name)
        if shard is not None and shard.priority is priority:
            shards[shard] = info
        else:
            others.append(info.name)
    return shards, others
