"""Making the server's streams and consumers match what is declared, without ever losing a job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from jsjobs.jetstream import declared
from jsjobs.jetstream.api import CONSUMER_NOT_FOUND, ApiError, call, find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.declared import Declared, differences
from jsjobs.jetstream.generations import (
    Live,
    Stored,
    found_generations,
    live_shards,
    read_live,
    read_stored,
    write_live,
)
from jsjobs.jetstream.ids import parse_plain_id
from jsjobs.jetstream.queue_update import update_queue
from jsjobs.jetstream.reshard import Draining, Reshard
from jsjobs.jetstream.sourcing import after_more_copies
from jsjobs.jetstream.state import Conflict
from jsjobs.jetstream.steps import Action, Step, shards_step, still_expires
from jsjobs.jetstream.subjects import Generation, Names, Shard
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.settings import Config

_MEANWHILE = {10058, 10013, 10105, 10148, 10149, CONSUMER_NOT_FOUND}
"""A stream or consumer that is there, with another configuration, or is gone: another one was first."""
Tell = Callable[[Draining], None]


class Topology:
    """Compares and applies the declared streams of one namespace."""

    def __init__(self, connection: Connection, names: Names, config: Config) -> None:
        self._connection = connection
        self._names = names
        self._config = config

    async def plan(self, floor: Mapping[Priority, int] | None = None, *, one_copy: bool = False) -> list[Step]:
        """What would be done, in order; nothing is changed.

        Args:
            floor: Highest sequence ever given to a job of a priority, as the dead-letter table knows it.
            one_copy: Whether a replicated queue may have a single copy while its shard count is changed.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached.
        """
        side_streams = declared.side_streams(self._config, self._names)
        steps = [await self._stream_step(stream) for stream in side_streams]
        for priority in Priority:
            # Before the queue that sources through it.
            source = declared.source_consumer(self._names, priority)
            steps.append(await self._side_consumer_step(self._names.schedule_stream, source))
            steps += await self._queue_steps(priority, floor or {}, one_copy=one_copy)
        steps.append(await self._side_consumer_step(self._names.dead_stream, declared.router_consumer(self._names)))
        return steps

    async def _side_consumer_step(self, stream: str, consumer: Declared) -> Step:
        info = await find(self._connection, f"CONSUMER.INFO.{stream}.{consumer['name']}")
        return _consumer_step(stream, consumer, info)

    async def apply(
        self,
        floor: Mapping[Priority, int] | None = None,
        *,
        tell: Tell = lambda _: None,
        wait: bool = True,
        one_copy: bool = False,
    ) -> list[Step]:
        """Do what `plan` says; the steps it took. Doing it again does nothing.

        Args:
            floor: As in `plan`.
            tell: Called with what is left of a change of the shard count, several times a second.
            wait: Whether to wait for such a change to end, which takes as long as the old shards have jobs.
            one_copy: As in `plan`.

        Raises:
            JobError: `Validation`, if a step would lose a job: nothing is changed then. `RunnerUnavailable`, if the
                server cannot be reached.
        """
        taken: dict[tuple[str, str], Step] = {}
        steps = await self._settle(taken, floor, one_copy=one_copy)
        changing = [step.priority for step in steps if step.kind == "shards"]
        wanted = {priority: self._config.shards(priority) for priority in changing if priority}
        if wanted:
            await self._change(wanted, tell, wait=wait, one_copy=one_copy)
            # Consumers that another one made meanwhile, a router say, may have other settings.
            await self._settle(taken, floor, one_copy=True)
        return [taken.get((step.kind, step.name), step) for step in steps]

    async def _settle(
        self, taken: dict[tuple[str, str], Step], floor: Mapping[Priority, int] | None, *, one_copy: bool
    ) -> list[Step]:
        """Take every step but changes of shards, and again until no other `apply` was in between; all of them."""
        while True:
            steps = await self.plan(floor, one_copy=one_copy)
            refused = [f"{step.kind} {step.name}: {step.reason}" for step in steps if step.action is Action.REFUSE]
            if refused:
                changed = "nothing was changed" if not taken else "not all was changed"
                raise JobError.from_validation(f"{changed}, because " + "; ".join(refused))
            try:
                for step in steps:
                    await self._take(step)
                    if step.action is not Action.KEEP:
                        taken[step.kind, step.name] = step
            except Conflict:
                continue  # another `apply` was first with an entry, perhaps with other shards: what is left to do?
            except ApiError as error:
                if error.err_code not in _MEANWHILE:
                    raise
                # Likewise with a stream or consumer.
            else:
                return steps

    async def finish(self, *, tell: Tell = lambda _: None, wait: bool = True) -> list[str]:
        """Finish the changes of shard counts that are under way, and begin none.

        Args:
            tell: As in `apply`.
            wait: Whether to wait for jobs of old shards to end.

        Returns:
            What is left to somebody who may change streams, since this user may not and does not wait, in words.

        Raises:
            JobError: If the server refuses; `RunnerUnavailable` if it cannot be reached.
        """
        return await self._change(dict.fromkeys(Priority), tell, wait=wait)

    async def _change(
        self, wanted: Mapping[Priority, int | None], tell: Tell, *, wait: bool, one_copy: bool = False
    ) -> list[str]:
        # Side by side: a priority with long jobs keeps no other waiting.
        reshards = []
        try:
            async with asyncio.TaskGroup() as group:
                for priority, shards in wanted.items():
                    reshard = Reshard(self._connection, self._names, self._config, priority, tell, one_copy=one_copy)
                    group.create_task(reshard.run(shards, wait=wait))
                    reshards.append(reshard)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from None
        return [reshard.left for reshard in reshards if reshard.left]

    async def _take(self, step: Step) -> None:
        if step.kind == "generations" and step.action is Action.CREATE and step.priority is not None:
            generations = tuple(Generation.parse(name) for name in step.body["generations"])
            live = Live(generations, revision=step.body["revision"])
            await write_live(self._connection, self._names, step.priority, live)
        elif step.kind == "stream" and step.action is Action.UPDATE and step.priority is not None:
            await update_queue(self._connection, self._names, self._config, step.priority, step.body)
        elif step.endpoint:
            await call(self._connection, step.endpoint, step.body)
        if step.adds_copies:
            await after_more_copies(self._connection, self._names, step.name)

    async def _queue_steps(self, priority: Priority, floor: Mapping[Priority, int], *, one_copy: bool) -> list[Step]:
        names, config = self._names, self._config
        wanted = config.shards(priority)
        live = await read_live(self._connection, names, priority)
        stored = await read_stored(self._connection, names, priority)
        shards = await live_shards(self._connection, names, (priority,))
        # Without an entry - the bucket was lost, or is younger than the queue - what the stream does is what lives.
        found = found_generations(stored) if stored else ()
        generations = live.generations or found or (Generation(1, wanted),)
        body = {"generations": [str(generation) for generation in generations], "revision": live.revision}
        action = Action.KEEP if live.generations else Action.CREATE
        # First of all: it decides between two that begin at once.
        steps = [Step(action, "generations", names.topology_key(priority), body=body, priority=priority)]
        stream = declared.queue_stream(config, names, priority, generations[-1])
        if stored is None:
            steps.append(_creation(stream, {"first_seq": await self._first_sequence(priority, floor)}))
        else:
            if live.copies is not None:
                stream.pop("num_replicas")  # a change is under way, and gives the copies back itself
            steps.append(await self._queue_step(stream, priority, stored))
        for shard in (Shard(priority, one, number) for one in generations for number in range(one.shards)):
            # While a change is under way it knows itself which ones are to be made, and which were just removed.
            if len(generations) == 1 or shard in shards:
                consumer = declared.shard_consumer(config, names, shard)
                if shard not in shards and live.operators_pause is not None:
                    consumer["pause_until"] = live.operators_pause.isoformat()  # as that of its siblings
                steps.append(_consumer_step(stream["name"], consumer, shards.get(shard), priority))
        change = stored and shards_step(priority, generations, live, stored, shards, wanted, one_copy=one_copy)
        return [*steps, change] if change else steps

    async def _queue_step(self, stream: Declared, priority: Priority, stored: Stored) -> Step:
        """A queue that exists; where its new jobs go is a matter of generations, and none of the stream's settings."""
        if stored.target is not None:
            stream = {key: value for key, value in stream.items() if key != "subject_transform"}
        elif stored.jobs[None]:
            reason = f"{stored.jobs[None]} jobs wait on other subjects, where no shard would find them"
            return Step(Action.REFUSE, "stream", stream["name"], reason=reason)
        return await self._stream_step(stream, priority)

    async def _stream_step(self, stream: Declared, priority: Priority | None = None) -> Step:
        name = stream["name"]
        info = await find(self._connection, f"STREAM.INFO.{name}")
        if info is None:
            # A fence never runs backwards, and a queue takes nothing behind what it had of an earlier stream.
            lasting = {self._names.state_stream, self._names.schedule_stream}
            return _creation(stream, {"first_seq": clock_sequence()} if name in lasting else {})
        changes, reason = differences(stream, info["config"]), ""
        if changes.get("allow_msg_ttl") == (True, False):
            del changes["allow_msg_ttl"]
            stream, reason = {**stream, "allow_msg_ttl": True}, still_expires(name)
        if not changes:
            return Step(Action.KEEP, "stream", name, reason=reason, priority=priority)
        refused = await self._would_lose(stream, info, changes)
        if refused:
            return Step(Action.REFUSE, "stream", name, changes, refused)
        endpoint, body = f"STREAM.UPDATE.{name}", {**info["config"], **stream}
        return Step(Action.UPDATE, "stream", name, changes, reason, endpoint, body, priority)

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


def _creation(stream: Declared, overlay: Declared) -> Step:
    name = stream["name"]
    return Step(Action.CREATE, "stream", name, endpoint=f"STREAM.CREATE.{name}", body={**stream, **overlay})


def _consumer_step(
    stream: str, consumer: Declared, info: dict[str, Any] | None, priority: Priority | None = None
) -> Step:
    name = consumer["name"]
    endpoint = f"CONSUMER.DURABLE.CREATE.{stream}.{name}"
    if info is None:
        body = {"stream_name": stream, "config": consumer, "action": "create"}
        return Step(Action.CREATE, "consumer", name, endpoint=endpoint, body=body, priority=priority)
    changes = differences(consumer, info["config"])
    if not changes:
        return Step(Action.KEEP, "consumer", name)
    # The server leaves a pause that is not named as it is: this one may be lifted at this moment.
    kept = {key: value for key, value in info["config"].items() if key != "pause_until"}
    body = {"stream_name": stream, "config": {**kept, **consumer}, "action": "update"}
    return Step(Action.UPDATE, "consumer", name, changes, endpoint=endpoint, body=body)


def clock_sequence() -> int:
    """The clock in microseconds: a first sequence no earlier stream reached, and below 2^53."""
    return time.time_ns() // 1000
