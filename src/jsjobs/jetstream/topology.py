"""Making the server's streams and consumers match what is declared, without ever losing a job."""

from __future__ import annotations

import base64
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from jsjobs.jetstream import declared
from jsjobs.jetstream.api import ApiError, call, consumers, find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.declared import Declared, differences
from jsjobs.jetstream.state import WRONG_REVISION
from jsjobs.jetstream.subjects import Names, Shard, generation_name, parse_plain_id
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.settings import Config

_EXISTS = {10058, 10013, 10105, 10148}  # a stream or consumer of that name, with another configuration
_GENERATION = 3  # <namespace>.work.<priority>.<generation>.…


class Action(StrEnum):
    """What a step does."""

    CREATE = "create"
    UPDATE = "update"
    KEEP = "keep"
    REFUSE = "refuse"


@dataclass(frozen=True, slots=True)
class Step:
    """One stream, consumer or entry, and what must be done so that it matches."""

    action: Action
    kind: str
    name: str
    changes: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    """Setting to (what the server has, what is declared)."""
    reason: str = ""
    """Why it is refused."""
    endpoint: str = ""
    body: dict[str, Any] = field(default_factory=dict)


class Topology:
    """Compares and applies the declared streams of one namespace."""

    def __init__(self, connection: Connection, names: Names, config: Config) -> None:
        self._connection = connection
        self._names = names
        self._config = config

    async def plan(self, floor: Mapping[Priority, int] | None = None) -> list[Step]:
        """What would be done, in order; nothing is changed.

        Args:
            floor: Highest sequence ever given to a job of a priority, as the dead-letter table knows it.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached.
        """
        side_streams = declared.side_streams(self._config, self._names)
        steps = [await self._stream_step(stream, {}) for stream in side_streams]
        for priority in Priority:
            steps += await self._queue_steps(priority, floor or {})
        steps.append(await self._consumer_step(self._names.dead_stream, declared.router_consumer(self._names)))
        return steps

    async def apply(self, floor: Mapping[Priority, int] | None = None) -> list[Step]:
        """Do what `plan` says; the steps it took. Doing it again does nothing.

        Raises:
            JobError: `Validation`, if a step would lose a job: nothing is changed then. `RunnerUnavailable`, if the
                server cannot be reached.
        """
        taken: dict[tuple[str, str], Step] = {}
        while True:
            steps = await self.plan(floor)
            refused = [f"{step.kind} {step.name}: {step.reason}" for step in steps if step.action is Action.REFUSE]
            if refused:
                changed = "nothing was changed" if not taken else "not all was changed"
                raise JobError.from_validation(f"{changed}, because " + "; ".join(refused))
            try:
                for step in steps:
                    await self._take(step)
                    if step.action is not Action.KEEP:
                        taken[step.kind, step.name] = step
            except ApiError as error:
                if error.err_code not in _EXISTS:
                    raise
                # Another `apply` was first with this one, and a first sequence of its own: what is left to do?
            else:
                return [taken.get((step.kind, step.name), step) for step in steps]

    async def _take(self, step: Step) -> None:
        if step.endpoint:
            await call(self._connection, step.endpoint, step.body)
        elif step.action is Action.CREATE:
            await self._write_generations(step)

    async def _queue_steps(self, priority: Priority, floor: Mapping[Priority, int]) -> list[Step]:
        names, config = self._names, self._config
        live = await live_generations(self._connection, names, priority)
        wanted = config.shards(priority)
        generation = live[-1] if live else generation_name(1, wanted)
        stream = declared.queue_stream(config, names, priority, generation)
        actual = await find(self._connection, f"STREAM.INFO.{stream['name']}")
        if actual is not None and not live:
            # The bucket was lost or is younger than the queue: what the stream does is what lives.
            generation = _generation_of(actual["config"]) or generation
            stream = declared.queue_stream(config, names, priority, generation)
        shards = int(generation.partition("x")[2])
        if shards != wanted:
            reason = (
                f"it has {shards} shards and {wanted} are asked for: the shard count of a live queue cannot be "
                "changed; choose it before the first apply, or use another namespace and let this one run empty"
            )
            return [Step(Action.REFUSE, "stream", stream["name"], {"shards": (shards, wanted)}, reason)]
        overlay = {} if actual else {"first_seq": await self._first_sequence(priority, floor)}
        steps = [await self._stream_step(stream, overlay, actual)]
        for number in range(shards):
            consumer = declared.shard_consumer(config, names, Shard(priority, generation, number))
            steps.append(await self._consumer_step(stream["name"], consumer))
        key = names.topology_key(priority)
        generations = {"generations": [generation]}
        steps.append(Step(Action.KEEP if live else Action.CREATE, "generations", key, body=generations))
        return steps

    async def _stream_step(self, stream: Declared, overlay: Declared, actual: Declared | None = None) -> Step:
        name = stream["name"]
        info = actual or await find(self._connection, f"STREAM.INFO.{name}")
        if info is None:
            if name == self._names.state_stream:
                overlay = {"first_seq": clock_sequence()}
            return Step(Action.CREATE, "stream", name, endpoint=f"STREAM.CREATE.{name}", body={**stream, **overlay})
        changes = differences(stream, info["config"])
        if not changes:
            return Step(Action.KEEP, "stream", name)
        reason = await self._would_lose(stream, info, changes)
        if reason:
            return Step(Action.REFUSE, "stream", name, changes, reason)
        body = {**info["config"], **stream}
        return Step(Action.UPDATE, "stream", name, changes, endpoint=f"STREAM.UPDATE.{name}", body=body)

    async def _would_lose(self, stream: Declared, info: Declared, changes: Mapping[str, Any]) -> str:
        for key in ("retention", "storage", "subjects"):
            if key in changes:
                return (
                    f"its {key} is {changes[key][0]!r} and must be {changes[key][1]!r}, which the server cannot change"
                )
        if "subject_transform" in changes and info["state"]["messages"]:
            return f"{info['state']['messages']} jobs wait on other subjects, where no shard would find them"
        if "max_bytes" in changes and 0 < stream["max_bytes"] < info["state"]["bytes"]:
            return f"it holds {info['state']['bytes']} bytes, more than the {stream['max_bytes']} asked for"
        if "max_msgs_per_subject" in changes and stream["retention"] == "workqueue":
            request = {"subjects_filter": ">"}
            detail = await call(self._connection, f"STREAM.INFO.{stream['name']}", request)
            fullest = max((detail["state"].get("subjects") or {"": 0}).values())
            if fullest > stream["max_msgs_per_subject"]:
                return f"{fullest} jobs wait in one mailbox, more than the {stream['max_msgs_per_subject']} asked for"
        return ""

    async def _consumer_step(self, stream: str, consumer: Declared) -> Step:
        name = consumer["name"]
        endpoint = f"CONSUMER.DURABLE.CREATE.{stream}.{name}"
        info = await find(self._connection, f"CONSUMER.INFO.{stream}.{name}")
        if info is None:
            body = {"stream_name": stream, "config": consumer, "action": "create"}
            return Step(Action.CREATE, "consumer", name, endpoint=endpoint, body=body)
        changes = differences(consumer, info["config"])
        if not changes:
            return Step(Action.KEEP, "consumer", name)
        body = {"stream_name": stream, "config": {**info["config"], **consumer}, "action": "update"}
        return Step(Action.UPDATE, "consumer", name, changes, endpoint=endpoint, body=body)

    async def _first_sequence(self, priority: Priority, floor: Mapping[Priority, int]) -> int:
        """A first sequence that no job of this priority ever had, even where the clock went back."""
        highest, offset = floor.get(priority, 0), 0
        while True:
            request = {"subjects_filter": f"$KV.{self._names.bucket}.*", "offset": offset}
            info = await find(self._connection, f"STREAM.INFO.{self._names.state_stream}", request)
            subjects = (info or {}).get("state", {}).get("subjects") or {}
            for subject in subjects:
                place = parse_plain_id(subject.rsplit(".", 1)[-1])
                if place is not None and place[0] is priority:
                    highest = max(highest, place[1])
            offset += len(subjects)
            if info is None or not subjects or offset >= info.get("total", 0):
                return max(clock_sequence(), highest + 1)

    async def _write_generations(self, step: Step) -> None:
        subject = f"$KV.{self._names.bucket}.{step.name}".encode()
        header = b"NATS/1.0\r\nNats-Expected-Last-Subject-Sequence: 0\r\n\r\n"
        reply = await self._connection.ask(subject, json.dumps(step.body).encode(), header=header)
        error = json.loads(reply.data).get("error")
        # Another `apply` may be first; it wrote the same.
        if error is not None and error.get("err_code") != WRONG_REVISION:
            raise ApiError(error, f"writing {step.name}")


async def live_generations(connection: Connection, names: Names, priority: Priority) -> list[str]:
    """The generations of a priority, oldest first, as its entry in the bucket says; empty where nothing was applied."""
    subject = f"$KV.{names.bucket}.{names.topology_key(priority)}"
    found = await find(connection, f"STREAM.MSG.GET.{names.state_stream}", {"last_by_subj": subject})
    if found is None or "data" not in found["message"]:
        return []
    return list(json.loads(base64.b64decode(found["message"]["data"]))["generations"])


async def live_shards(connection: Connection, names: Names) -> dict[Shard, dict[str, Any]]:
    """Every shard that has a consumer, with the consumer's information."""
    shards: dict[Shard, dict[str, Any]] = {}
    for priority in Priority:
        async for info in consumers(connection, names.stream(priority)):
            words = info["name"].rsplit("-", 2)
            if len(words) == 3 and words[0] == priority and words[2].isdigit():  # noqa: PLR2004 - priority, generation, shard
                shards[Shard(priority, words[1], int(words[2]))] = info
    return shards


def _generation_of(stream: Declared) -> str | None:
    """The generation that a queue's transform names; None where it is no transform of ours."""
    words = str((stream.get("subject_transform") or {}).get("dest", "")).split(".")
    named = len(words) > _GENERATION and re.fullmatch(r"[1-9][0-9]*x[1-9][0-9]*", words[_GENERATION])
    return words[_GENERATION] if named else None


def clock_sequence() -> int:
    """The clock in microseconds: a first sequence no earlier stream reached, and below 2^53."""
    return time.time_ns() // 1000
