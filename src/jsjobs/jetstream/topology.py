"""Making the server's streams and consumers match what is declared, without ever losing a job."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any

from jsjobs.jetstream import declared
from jsjobs.jetstream.api import CONSUMER_NOT_FOUND, ApiError, call, consumers, find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.consumer_steps import consumer_step, differing, foreign_step, last_sequence, take_consumer_step
from jsjobs.jetstream.declared import Declared, stream_differences
from jsjobs.jetstream.generation_consumers import common_pause
from jsjobs.jetstream.generations import (
    Live,
    Stored,
    found_generations,
    live_shards,
    read_live,
    read_stored,
    shards_and_others,
    write_live,
)
from jsjobs.jetstream.ids import parse_plain_id
from jsjobs.jetstream.queue_update import update_queue
from jsjobs.jetstream.refusals import NotPermitted
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
_FOR_GOOD = ("mirror", "sealed", "deny_purge", "deny_delete")
"""What cannot be taken from a stream again."""
_TRIES = 12
"""How often what is left to do is looked for, where others are in between; ten seconds in all."""
Tell = Callable[[Draining], None]


class Topology:
    """Compares and applies the declared streams of one namespace."""

    def __init__(self, connection: Connection, names: Names, config: Config) -> None:
        self._connection = connection
        self._names = names
        self._config = config

    async def plan(
        self, floor: Mapping[Priority, int] | None = None, *, one_copy: bool = False, foreign: bool = True
    ) -> list[Step]:
        """What would be done, in order; nothing is changed.

        Args:
            floor: Highest sequence ever given to a job of a priority, as the dead-letter table knows it.
            one_copy: Whether a replicated queue may have a single copy while its shard count is changed.
            foreign: Whether to look for consumers that nobody declared, too.

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
        # Those that are removed first: they may have used up what the account may have.
        return [*(await self._foreign_steps() if foreign else []), *steps]

    async def _foreign_steps(self) -> list[Step]:
        """Removing what nobody declared from streams whose messages go to one consumer each."""
        steps = []
        for priority in Priority:
            shards, others = await shards_and_others(self._connection, self._names, priority)
            # After those: a generation that began meanwhile is on the list.
            generations = (await read_live(self._connection, self._names, priority)).generations
            if generations:
                others += [one.consumer for one in shards if one.generation not in generations]
            steps += foreign_step(self._names.stream(priority), others)
        dead, router = self._names.dead_stream, self._names.router
        listed = [info["name"] async for info in consumers(self._connection, dead)]
        return steps + foreign_step(dead, [name for name in listed if name != router])

    async def _side_consumer_step(self, stream: str, consumer: Declared) -> Step:
        info = await find(self._connection, f"CONSUMER.INFO.{stream}.{consumer['name']}")
        return consumer_step(stream, consumer, info, await last_sequence(self._connection, stream))

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
        why: tuple[Step, JobError]
        for number in range(_TRIES):
            await asyncio.sleep(min(1.0, 0.05 * 2**number) if number else 0)
            steps = await self.plan(floor, one_copy=one_copy)
            refused = [f"{step.kind} {step.name}: {step.reason}" for step in steps if step.action is Action.REFUSE]
            if refused:
                changed = "nothing was changed" if not taken else "not all was changed"
                raise JobError.from_validation(f"{changed}, because " + "; ".join(refused))
            for step in steps:
                try:
                    await self._take(step)
                except Conflict as error:
                    why = step, error  # another `apply` was first with an entry, perhaps with other shards
                    break  # what is left to do?
                except ApiError as error:
                    if error.err_code not in _MEANWHILE:
                        raise
                    why = step, error  # likewise with a stream or consumer
                    break
                if step.action is not Action.KEEP:
                    taken[step.kind, step.name] = step
            else:
                return steps
        step, refusal = why
        what = f"{step.kind} {step.name} is not as declared ({differing(step) or 'it is not there'})"
        raise JobError.from_runner_unavailable(
            f"{what}, and could not be made so in {_TRIES} tries, somebody else changes it perhaps: {refusal.message}"
        )

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
        # Side by side: a priority with long jobs, or one that cannot be looked at, keeps no other waiting.
        reshards = {
            priority: Reshard(self._connection, self._names, self._config, priority, tell, one_copy=one_copy)
            for priority in wanted
        }
        runs = [asyncio.ensure_future(one.run(wanted[priority], wait=wait)) for priority, one in reshards.items()]
        try:
            ended, _ = await asyncio.wait(runs, return_when=asyncio.FIRST_EXCEPTION if wait else asyncio.ALL_COMPLETED)
        finally:
            for run in runs:
                run.cancel()
            await asyncio.gather(*runs, return_exceptions=True)
        for run in ended:
            run.result()
        return [reshard.left for reshard in reshards.values() if reshard.left]

    async def _take(self, step: Step) -> None:
        if step.kind == "generations" and step.action is not Action.KEEP and step.priority is not None:
            generations = tuple(Generation.parse(name) for name in step.body["generations"])
            live = Live(generations, operators_pause=step.body["pause"], revision=step.body["revision"])
            await write_live(self._connection, self._names, step.priority, live)
        elif step.kind == "stream" and step.action is Action.UPDATE and step.priority is not None:
            await update_queue(self._connection, self._names, self._config, step.priority, step.body)
        elif step.kind in {"consumer", "consumers"} and step.action is not Action.KEEP:
            await take_consumer_step(self._connection, self._names, step)
            if step.kind == "consumer" and step.body["stream_name"] == self._names.schedule_stream:
                await self._source_anew(step.name)
        elif step.endpoint:
            await call(self._connection, step.endpoint, step.body)
        if step.adds_copies:
            await after_more_copies(self._connection, self._names, step.name)

    async def restore_source(self, step: Step) -> bool:
        """Make again the consumer that brings what is due, and begin its queue with it anew; whether this user may.

        Who may not change the queue must not make the consumer either: due jobs would be lost, see `_source_anew`.

        Raises:
            JobError: If the server refuses otherwise, or cannot be reached.
        """
        queue = self._names.stream(self._sourced_by(step.name))
        info = await find(self._connection, f"STREAM.INFO.{queue}")
        if info is None:
            return False
        try:
            await call(self._connection, f"STREAM.UPDATE.{queue}", info["config"])  # as it is: to learn of the right
        except NotPermitted:
            return False
        await self._take(step)
        return True

    def _sourced_by(self, consumer: str) -> Priority:
        [priority] = [one for one in Priority if self._names.source(one) == consumer]
        return priority

    async def _source_anew(self, consumer: str) -> None:
        """Have a queue begin with its source anew: by itself it does not notice that the consumer is another one.

        It counts deliveries: of another consumer's it takes none until their count is that of the one before, and those
        until then are lost to it (nats-server 2.15.1, measured).
        """
        info = await find(self._connection, f"STREAM.INFO.{self._names.stream(self._sourced_by(consumer))}")
        if info is not None and info["config"].get("sources"):
            for sources in ({"sources": None}, {}):
                body = {**info["config"], **sources}
                await call(self._connection, f"STREAM.UPDATE.{info['config']['name']}", body)

    async def _queue_steps(self, priority: Priority, floor: Mapping[Priority, int], *, one_copy: bool) -> list[Step]:
        names, config = self._names, self._config
        wanted = config.shards(priority)
        live = await read_live(self._connection, names, priority)
        stored = await read_stored(self._connection, names, priority)
        shards = await live_shards(self._connection, names, (priority,))
        # Without an entry - the bucket was lost, or is younger than the queue - what the stream does is what lives.
        found = found_generations(stored) if stored else ()
        generations = live.generations or found or (Generation(1, wanted),)
        body = {
            "generations": [str(generation) for generation in generations],
            "pause": live.operators_pause if live.generations else common_pause(generations[0], shards),
            "revision": live.revision,
        }
        # First of all: it decides between two that begin at once.
        action = Action.UPDATE if live.problem else Action.KEEP if live.generations else Action.CREATE
        entry = names.topology_key(priority)
        steps = [Step(action, "generations", entry, reason=live.problem, body=body, priority=priority)]
        stream = declared.queue_stream(config, names, priority, generations[-1])
        if stored is None:
            steps.append(_creation(stream, {"first_seq": await self._first_sequence(priority, floor)}))
        else:
            if live.copies is not None:
                stream.pop("num_replicas")  # a change is under way, and gives the copies back itself
            steps.append(await self._queue_step(stream, priority, stored))
        last = await last_sequence(self._connection, stream["name"])
        for shard in (Shard(priority, one, number) for one in generations for number in range(one.shards)):
            # While a change is under way it knows itself which ones are to be made, and which were just removed.
            if len(generations) == 1 or shard in shards:
                consumer = declared.shard_consumer(config, names, shard)
                if shard not in shards and live.operators_pause is not None:
                    consumer["pause_until"] = live.operators_pause.isoformat()  # as that of its siblings
                steps.append(consumer_step(stream["name"], consumer, shards.get(shard), last, priority))
        change = stored and shards_step(priority, generations, live, stored, shards, wanted, one_copy=one_copy)
        return [*steps, change] if change else steps

    async def _queue_step(self, stream: Declared, priority: Priority, stored: Stored) -> Step:
        """A queue that exists; where its new jobs go is a matter of generations, and none of the stream's settings."""
        if stored.target is not None:
            routed = declared.queue_stream(self._config, self._names, priority, stored.target)
            stream = {**stream, "subject_transform": routed["subject_transform"]}
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
        changes, reason = stream_differences(stream, info["config"]), ""
        if priority is not None and info["config"]["num_replicas"] > 1:
            changes.pop("subject_transform", None)  # see `update_queue`
        if changes.get("allow_msg_ttl") == (True, False):
            del changes["allow_msg_ttl"]
            stream, reason = {**stream, "allow_msg_ttl": True}, still_expires(name)
        if not changes:
            return Step(Action.KEEP, "stream", name, reason=reason, priority=priority)
        refused = await self._would_lose(stream, info, changes)
        if refused:
            return Step(Action.REFUSE, "stream", name, changes, refused)
        foreign = {key: None for key in changes if key not in stream}
        endpoint, body = f"STREAM.UPDATE.{name}", {**info["config"], **stream, **foreign}
        return Step(Action.UPDATE, "stream", name, changes, reason, endpoint, body, priority)

    async def _would_lose(self, stream: Declared, info: Declared, changes: Mapping[str, Any]) -> str:
        for key in ("retention", "storage", "subjects", *_FOR_GOOD):
            if key in changes and not (key == "subjects" and set(stream[key]) <= set(changes[key][0] or ())):
                return (
                    f"its {key} is {changes[key][0]!r} and must be {changes[key][1]!r}, which the server cannot change"
                )
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


def clock_sequence() -> int:
    """The clock in microseconds: a first sequence no earlier stream reached, and below 2^53."""
    return time.time_ns() // 1000
