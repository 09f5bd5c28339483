"""The live generations of a priority's shards: an ordered list, one entry in the bucket, changed by compare-and-set."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from pydantic_core import from_json

from jsjobs.jetstream.acknowledgements import answer_of
from jsjobs.jetstream.api import api_error, consumers, find, parse_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.sourcing import unheard
from jsjobs.jetstream.state import WRONG_REVISION, Conflict
from jsjobs.jetstream.stored import find_at_leader
from jsjobs.jetstream.subjects import Generation, Names, Shard
from jsjobs.model.job import Priority
from jsjobs.safe_log import SafeLogger

MAX_GENERATIONS = 16
"""Of one priority at once: a change has two, and jobs on subjects that no list names add a few."""
_MOST_COPIES = 5
_LONGEST = 4096
"""Bytes of an entry; the longest that can be has a few hundred."""


@dataclass(frozen=True, slots=True)
class Live:
    """What the entry says. The first generation runs, those behind it wait until all before them are drained."""

    generations: tuple[Generation, ...] = ()
    """Oldest first; empty where nothing was applied yet."""
    paused_until: datetime | None = None
    """A pause that was found on consumers now removed, set by another tool: the next generation takes it over."""
    copies: int | None = None
    """While a replicated queue is changed, which goes through a single copy: how many it is to have again."""
    operators_pause: datetime | None = None
    """Until when an operator has paused the priority, perhaps over by now: every shard that begins takes it over."""
    revision: int = 0
    """Whoever writes next must name it."""
    problem: str = ""
    """Why the entry says nothing, in words, where somebody wrote nonsense there."""

    @property
    def last(self) -> Generation:
        """The one that new jobs go to."""
        return self.generations[-1]


async def read_live(connection: Connection, names: Names, priority: Priority) -> Live:
    """The entry of a priority, as the bucket's leader has it; nonsense in it is told as its `problem`.

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
    # One that waits for itself would wait for ever.
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
    """Reads the entries for somebody who follows them: one that cannot be read changes nothing, and is told once."""

    def __init__(self, connection: Connection, names: Names, logger: SafeLogger) -> None:
        self._connection = connection
        self._names = names
        self._logger = logger
        self._last: dict[Priority, Live] = {}
        self._told: set[Priority] = set()

    async def read(self, priority: Priority) -> Live:
        """The entry of a priority, or what it said last.

        Raises:
            JobError: As `read_live`.
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
        JobError: `RunnerUnavailable`, if the server cannot be reached: it may or may not be written then.
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
    error = answer_of(reply).get("error")
    if error is not None and error.get("err_code") in WRONG_REVISION:
        raise Conflict(key)
    if error is not None:
        raise api_error(error, f"writing {key}")


def _moment(text: str | None) -> datetime | None:
    return None if text is None else parse_time(text).astimezone(UTC)


class Stored(NamedTuple):
    """What a queue holds, and where it puts what comes next."""

    jobs: Counter[Generation | None]
    """Messages on the subjects of each generation; None counts those on any other subject."""
    target: Generation | None
    """The generation that the stream's transform names; None where it is no transform of ours."""
    copies: int = 1
    """Replicas that the stream is to have."""
    has_peers: bool = False
    """Whether other nodes have a part in it, still or by now."""
    unheard: float = 0.0
    """Seconds since it last heard from the schedules; -1 if not at all."""

    def strays(self, generations: tuple[Generation, ...]) -> list[Generation]:
        """Generations that hold jobs though they are none of these, oldest first."""
        return sorted(generation for generation in self.jobs if generation and generation not in generations)


async def read_stored(connection: Connection, names: Names, priority: Priority) -> Stored | None:
    """Count a queue's messages by generation; None where the stream does not exist."""
    jobs: Counter[Generation | None] = Counter()
    offset = 0
    while True:
        request = {"subjects_filter": ">", "offset": offset}
        info = await find(connection, f"STREAM.INFO.{names.stream(priority)}", request)
        if info is None:
            return None
        subjects = info["state"].get("subjects") or {}
        for subject, count in subjects.items():
            jobs[names.generation_of(subject, priority)] += count
        offset += len(subjects)
        if not subjects or offset >= info.get("total", 0):
            transform = info["config"].get("subject_transform") or {}
            target = names.generation_of(str(transform.get("dest", "")), priority)
            peers = (info.get("cluster") or {}).get("replicas")
            return Stored(jobs, target, info["config"]["num_replicas"], bool(peers), unheard(info))


def found_generations(stored: Stored) -> tuple[Generation, ...]:
    """The generations of a queue whose entry was lost: those that hold jobs, and last the one that gets new ones."""
    holding = sorted(generation for generation in stored.jobs if generation not in {None, stored.target})
    return (*holding, *([stored.target] if stored.target else []))


async def live_shards(
    connection: Connection, names: Names, priorities: tuple[Priority, ...] = tuple(Priority)
) -> dict[Shard, dict[str, Any]]:
    """Every shard that has a consumer, with the consumer's information."""
    found = await asyncio.gather(*(_shards(connection, names, priority) for priority in priorities))
    return {shard: info for shards in found for shard, info in shards.items()}


async def _shards(connection: Connection, names: Names, priority: Priority) -> dict[Shard, dict[str, Any]]:
    return (await shards_and_others(connection, names, priority))[0]


async def shards_and_others(
    connection: Connection, names: Names, priority: Priority
) -> tuple[dict[Shard, dict[str, Any]], list[str]]:
    """As `live_shards`, of one priority, and the names of consumers of its queue that can be no shard's."""
    shards, others = {}, []
    async for info in consumers(connection, names.stream(priority)):
        shard = Shard.of(info["name"])
        if shard is not None and shard.priority is priority:
            shards[shard] = info
        else:
            others.append(info["name"])
    return shards, others
