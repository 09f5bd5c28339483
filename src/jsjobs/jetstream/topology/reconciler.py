"""Make the server's streams and consumers match their declaration without losing a job; create temporary namespaces."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from jsjobs.jetstream.api.consumers import find_consumer, list_consumers
from jsjobs.jetstream.api.errors import CONSUMER_NOT_FOUND, NO_STORAGE_LEFT, ApiError
from jsjobs.jetstream.api.streams import (
    create_stream,
    delete_stream,
    find_stream,
    update_stream,
)
from jsjobs.jetstream.api.types import Declared
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.jobs.state_store import Conflict
from jsjobs.jetstream.protocol.names import Generation, Names, Shard
from jsjobs.jetstream.topology import declaration
from jsjobs.jetstream.topology.consumer_repair import (
    consumer_step,
    differing,
    foreign_step,
    last_sequence,
    take_consumer_step,
)
from jsjobs.jetstream.topology.consumers import common_pause
from jsjobs.jetstream.topology.declaration import reservation, side_streams
from jsjobs.jetstream.topology.generations import (
    Live,
    Stored,
    found_generations,
    live_shards,
    read_live,
    read_stored,
    shards_and_others,
    write_live,
)
from jsjobs.jetstream.topology.partitions import (
    announce,
    partition_count,
    partition_steps,
    partitions_and_others,
    partitions_with_jobs,
    redirect,
)
from jsjobs.jetstream.topology.plan import Action, Step, partitions_step, shards_step
from jsjobs.jetstream.topology.reshard import Draining, Reshard, update_queue
from jsjobs.jetstream.topology.source_recovery import after_more_copies
from jsjobs.jetstream.topology.stream_steps import creation, first_sequence, stream_step
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import PARALLEL, QUEUES, Lane, Queue
from jsjobs.settings import Config

_MEANWHILE = {10058, 10013, 10105, 10148, 10149, CONSUMER_NOT_FOUND}
"""Error codes for a stream or consumer that exists with other settings, or is gone: another process was first."""
_TRIES = 12
"""The number of plans that are made while other processes interfere; ten seconds in all."""
Tell = Callable[[Draining], None]


class TopologyReconciler:
    """Compare and apply the declared streams of one namespace."""

    def __init__(self, connection: Connection, names: Names, config: Config) -> None:
        self._connection = connection
        self._names = names
        self._config = config

    async def plan(
        self, floor: Mapping[Queue, int] | None = None, *, one_copy: bool = False, foreign: bool = True
    ) -> list[Step]:
        """Return the steps that `apply` would take, in order; change nothing.

        Args:
            floor: The highest sequence ever given to a job of each priority, as the dead-letter table knows it.
            one_copy: Whether a replicated queue may have a single copy while its shards or partitions are changed.
            foreign: Whether to look for undeclared consumers, too.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached.
        """
        side_streams = declaration.side_streams(self._config, self._names)
        steps = [await stream_step(self._connection, self._names, stream) for stream in side_streams]
        for priority in Priority:
            for lane in Lane:
                # The source comes before the queue that uses it.
                source = declaration.source_consumer(self._names, Queue(priority, lane))
                steps.append(await self._side_consumer_step(self._names.schedule_stream, source))
            steps += await self._queue_steps(priority, floor or {}, one_copy=one_copy)
            steps += await self._lane_steps(priority, floor or {}, one_copy=one_copy, as_routed=not foreign)
        steps.append(await self._side_consumer_step(self._names.dead_stream, declaration.router_consumer(self._names)))
        # Removals come first: what they remove may have used up the account's limits.
        return [*(await self._foreign_steps() if foreign else []), *steps]

    async def _foreign_steps(self) -> list[Step]:
        """Return the steps that remove undeclared consumers from streams whose messages go to one consumer each."""
        steps = []
        for priority in Priority:
            shards, others = await shards_and_others(self._connection, self._names, priority)
            # The list is read after the shards, so that it names a generation that began meanwhile.
            generations = (await read_live(self._connection, self._names, priority)).generations
            if generations:
                others += [one.consumer for one in shards if one.generation not in generations]
            steps += foreign_step(self._names.stream(priority), others)
            _, strangers = await partitions_and_others(self._connection, self._names, priority)
            steps += foreign_step(self._names.queue(Queue(priority, Lane.PARALLEL)), strangers)
        dead, router = self._names.dead_stream, self._names.router
        listed = [info.name async for info in list_consumers(self._connection, dead)]
        return steps + foreign_step(dead, [name for name in listed if name != router])

    async def _side_consumer_step(self, stream: str, consumer: Declared) -> Step:
        info = await find_consumer(self._connection, stream, consumer["name"])
        return consumer_step(stream, consumer, info, await last_sequence(self._connection, stream))

    async def apply(
        self,
        floor: Mapping[Queue, int] | None = None,
        *,
        tell: Tell = lambda _: None,
        wait: bool = True,
        one_copy: bool = False,
    ) -> list[Step]:
        """Carry out the steps of `plan` and return them. Applying again changes nothing.

        Args:
            floor: See `plan`.
            tell: Called with what is left of a change of the shard count, several times a second.
            wait: Whether to wait for such a change to end, which takes as long as the old shards have jobs.
            one_copy: See `plan`.

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
            # Consumers that another process, such as a router, created meanwhile may have other settings.
            await self._settle(taken, floor, one_copy=True)
        return [taken.get((step.kind, step.name), step) for step in steps]

    async def _settle(
        self, taken: dict[tuple[str, str], Step], floor: Mapping[Queue, int] | None, *, one_copy: bool
    ) -> list[Step]:
        """Take every step but changes of shards, repeat until no other `apply` interferes, and return all steps."""
        why: tuple[Step, JobError]
        for number in range(_TRIES):
            await asyncio.sleep(min(1.0, 0.05 * 2**number) if number else 0)
            steps = await self.plan(floor, one_copy=one_copy)
            refused = [f"{step.kind} {step.name}: {step.reason}" for step in steps if step.action is Action.REFUSE]
            if refused:
                changed = "nothing was changed" if not taken else "only a part was changed"
                raise JobError.from_validation(f"{changed}, because " + "; ".join(refused))
            for step in steps:
                try:
                    await self._take(step)
                except Conflict as error:
                    why = step, error  # another `apply` wrote the entry first, perhaps with other shards
                    break  # plan again what is left
                except ApiError as error:
                    if error.err_code == NO_STORAGE_LEFT:
                        told = reservation(self._config, self._names)
                        raise JobError.from_runner_unavailable(f"{error.message}; {told}") from error
                    if error.err_code not in _MEANWHILE:
                        raise
                    why = step, error  # the same with a stream or consumer
                    break
                if step.action is not Action.KEEP:
                    taken[step.kind, step.name] = step
            else:
                await self.announce(taken.values())
                return steps
        step, refusal = why
        what = f"{step.kind} {step.name} differs from its declaration ({differing(step) or 'it is missing'})"
        raise JobError.from_runner_unavailable(
            f"{what}, and {_TRIES} attempts to change that failed, perhaps since another process changes it too: "
            f"{refusal.message}"
        )

    async def announce(self, taken: Iterable[Step]) -> None:
        """Tell the workers of each lane whose partitions these steps changed.

        Raises:
            JobError: If the server cannot be reached.
        """
        steps = list(taken)
        created = {step.name for step in steps if step.action is Action.CREATE}
        changed = {step.stream or step.name for step in steps} - created  # a new lane has no workers yet
        for queue in PARALLEL:
            if self._names.queue(queue) in changed:
                await announce(self._connection, self._names, queue.priority)

    async def finish(self, *, tell: Tell = lambda _: None, wait: bool = True) -> list[str]:
        """Finish the changes of shard counts that are under way; start none.

        Args:
            tell: See `apply`.
            wait: Whether to wait for jobs of old shards to end.

        Returns:
            What is left to somebody who may change streams, in words; only if this user may not, and does not wait.

        Raises:
            JobError: If the server refuses; `RunnerUnavailable` if it cannot be reached.
        """
        return await self._change(dict.fromkeys(Priority), tell, wait=wait)

    async def _change(
        self, wanted: Mapping[Priority, int | None], tell: Tell, *, wait: bool, one_copy: bool = False
    ) -> list[str]:
        # They run concurrently: a priority with long jobs, or one that cannot be read, keeps no other waiting.
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
        if step.live is not None and step.action is not Action.KEEP and step.priority is not None:
            await write_live(self._connection, self._names, step.priority, step.live)
        elif step.kind == "stream" and step.action is Action.UPDATE and step.priority is not None:
            await update_queue(self._connection, self._names, self._config, step.priority, step.config)
        elif step.kind in {"consumer", "consumers"} and step.action is not Action.KEEP:
            await take_consumer_step(self._connection, self._names, step)
            if step.kind == "consumer" and step.stream == self._names.schedule_stream:
                await self._source_anew(step.name)
        elif step.kind == "stream" and step.action is Action.CREATE:
            await create_stream(self._connection, step.config)
        elif step.kind == "stream" and "partitions" in step.changes:
            await redirect(self._connection, self._names, step.config)
            return
        elif step.kind == "stream" and step.action is Action.UPDATE:
            await update_stream(self._connection, step.config)
        if step.adds_copies:
            await after_more_copies(self._connection, self._names, step.name)

    async def restore_source(self, step: Step) -> bool:
        """Recreate the consumer that brings due jobs and restart its queue's source; return whether this user may.

        A user that may not change the queue must not create the consumer either: due jobs would be lost, see
        `_source_anew`.

        Raises:
            JobError: If the server refuses for another reason, or cannot be reached.
        """
        queue = self._names.queue(self._sourced_by(step.name))
        info = await find_stream(self._connection, queue)
        if info is None:
            return False
        try:
            await update_stream(self._connection, info.config.as_told)  # unchanged: it only tests the permission
        except NotPermitted:
            return False
        await self._take(step)
        return True

    def _sourced_by(self, consumer: str) -> Queue:
        [queue] = [one for one in QUEUES if self._names.source(one) == consumer]
        return queue

    async def _source_anew(self, consumer: str) -> None:
        """Make a queue start its source anew: it does not notice by itself that the consumer is a new one.

        See docs/server-quirks.md#a-queue-counts-what-its-source-delivers.
        """
        info = await find_stream(self._connection, self._names.queue(self._sourced_by(consumer)))
        if info is not None and info.config.as_told.get("sources"):
            for sources in ({"sources": None}, {}):
                await update_stream(self._connection, {**info.config.as_told, **sources})

    async def _queue_steps(self, priority: Priority, floor: Mapping[Queue, int], *, one_copy: bool) -> list[Step]:
        names, config = self._names, self._config
        wanted = config.shards(priority)
        live = await read_live(self._connection, names, priority)
        stored = await read_stored(self._connection, names, priority)
        shards = await live_shards(self._connection, names, (priority,))
        # Without an entry (the bucket was lost, or is younger than the queue) the stream tells which generations live.
        found = found_generations(stored) if stored else ()
        generations = live.generations or found or (Generation(1, wanted),)
        pause = live.operators_pause if live.generations else common_pause(generations[0], shards)
        decided = Live(generations, operators_pause=pause, revision=live.revision)
        # The entry comes first: it decides between two processes that start at the same time.
        action = Action.UPDATE if live.problem else Action.KEEP if live.generations else Action.CREATE
        entry = names.topology_key(priority)
        steps = [Step(action, "generations", entry, reason=live.problem, live=decided, priority=priority)]
        stream = declaration.queue_stream(config, names, priority, generations[-1])
        if stored is None:
            steps.append(
                creation(
                    stream, {"first_seq": await first_sequence(self._connection, self._names, Queue(priority), floor)}
                )
            )
        else:
            if live.copies is not None:
                stream.pop("num_replicas")  # a change is under way, which restores the copies itself
            steps.append(await self._queue_step(stream, priority, stored))
        last = await last_sequence(self._connection, stream["name"])
        for shard in (Shard(priority, one, number) for one in generations for number in range(one.shards)):
            # A change that is under way knows itself which consumers to create, and which it just removed.
            if len(generations) == 1 or shard in shards:
                consumer = declaration.shard_consumer(config, names, shard)
                if shard not in shards and live.operators_pause is not None:
                    consumer["pause_until"] = live.operators_pause.isoformat()  # like its siblings
                steps.append(consumer_step(stream["name"], consumer, shards.get(shard), last, priority))
        change = stored and shards_step(priority, generations, live, stored, shards, wanted, one_copy=one_copy)
        return [*steps, change] if change else steps

    async def _lane_steps(
        self, priority: Priority, floor: Mapping[Queue, int], *, one_copy: bool, as_routed: bool
    ) -> list[Step]:
        """Return the steps of a priority's parallel lane.

        Args:
            priority: The priority.
            floor: See `plan`.
            one_copy: See `plan`.
            as_routed: Whether it keeps the number of partitions that its stream has, whatever the settings say.
        """
        names, queue = self._names, Queue(priority, Lane.PARALLEL)
        stream = declaration.lane_stream(self._config, names, priority)
        info = await find_stream(self._connection, stream["name"])
        routed = None if info is None else partition_count(names, priority, info)
        count = routed if as_routed and routed is not None else self._config.partitions
        found, _ = await partitions_and_others(self._connection, names, priority)
        before, after = partition_steps(
            names,
            self._config,
            priority,
            found,
            count=count,
            routed=routed,
            holding=await partitions_with_jobs(self._connection, names, priority),
            last=0 if info is None else info.state.last_seq,
            paused_until=(await read_live(self._connection, names, priority)).operators_pause,
        )
        if info is None:
            created = creation(stream, {"first_seq": await first_sequence(self._connection, names, queue, floor)})
            return [created, *before, *after]
        if count == routed:
            stream["subject_transform"] = info.config.as_told["subject_transform"]
        step = await stream_step(self._connection, self._names, stream)
        if "subject_transform" in step.changes:
            step = partitions_step(step, (routed, count), info.config.num_replicas, one_copy=one_copy)
        # A new partition has its consumer before jobs are sent there.
        return [*before, step, *after]

    async def _queue_step(self, stream: Declared, priority: Priority, stored: Stored) -> Step:
        """Return the step of an existing queue; generations, not its settings, decide where its new jobs go."""
        if stored.target is not None:
            routed = declaration.queue_stream(self._config, self._names, priority, stored.target)
            stream = {**stream, "subject_transform": routed["subject_transform"]}
        elif stored.jobs[None]:
            reason = f"{stored.jobs[None]} jobs wait on other subjects, where no shard would find them"
            return Step(Action.REFUSE, "stream", stream["name"], reason=reason)
        return await stream_step(self._connection, self._names, stream, priority)


async def deploy(config: Config) -> None:
    """Create the streams of a namespace.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    async with connected(config) as connection:
        await TopologyReconciler(connection, Names(config.namespace), config).apply()


async def remove(config: Config) -> None:
    """Delete the streams of a namespace with all their messages.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    names = Names(config.namespace)
    streams = [*(stream["name"] for stream in side_streams(config, names)), *map(names.queue, QUEUES)]
    async with connected(config) as connection:
        for stream in streams:
            await delete_stream(connection, stream)
