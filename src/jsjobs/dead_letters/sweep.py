"""The sweep: finds what nobody was told of, and finishes what somebody left half done; advisories are best effort."""

from __future__ import annotations

import time
from typing import Any

from jsjobs.dead_letters.fired import Fired
from jsjobs.dead_letters.strays import NOT_TAKEN, Strays
from jsjobs.dead_letters.undertaker import Undertaker
from jsjobs.jetstream.api import call, parse_time
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.consumer_steps import differing, gentle, take_consumer_step
from jsjobs.jetstream.generations import live_shards, read_live
from jsjobs.jetstream.given_up import given_up
from jsjobs.jetstream.shard_consumers import resume
from jsjobs.jetstream.steps import Action, Step
from jsjobs.jetstream.subjects import Names, Shard
from jsjobs.jetstream.topology import Topology
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.postgres.errors import DatabaseError
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config

logger = get_logger("jsjobs.router")


class Sweep:
    """Buries what was seen given up twice, `ack_wait` apart; restores consumers; goes on with changes of shards.

    It also buries what no shard takes, and clears away what fired, once the queues have it.
    """

    def __init__(self, connection: Connection, names: Names, config: Config, undertaker: Undertaker) -> None:
        self._connection = connection
        self._names = names
        self._topology = Topology(connection, names, config)
        self._undertaker = undertaker
        self._fired = Fired(connection, names, undertaker)
        self._strays = Strays(connection, names)
        self._seen: dict[tuple[str, int], float] = {}
        """When each message was first found, of those that this look has found so far."""
        self._before: dict[tuple[str, int], float] = {}
        """Of those that the look before found."""
        self._left_of_consumers: list[str] = []
        self._left_of_changes: list[str] = []
        self.left: list[str] = []
        """What the last look left to an operator, in words, and what he is to do; another thread may read it."""

    async def once(self) -> None:
        """Look at every shard.

        Raises:
            DatabaseError: If Postgres cannot take what was found; what does not need it is done all the same.
            JobError: If the server cannot be asked.
        """
        await self.restore()
        await self._fired.clear()  # before anything that waits for Postgres
        failed: DatabaseError | JobError | None = None
        try:
            await self._bury()
        except (DatabaseError, JobError) as error:
            failed = error
        # New shards wait for their change to be finished: whoever began it may be gone.
        self._note_left(changes=await self._topology.finish(wait=False))
        if failed is not None:
            raise failed

    async def _bury(self) -> None:
        """End what the server gave up, and what no shard takes."""
        self._before, self._seen = self._seen, {}
        await self._strays.begin()
        shards = await live_shards(self._connection, self._names)
        for shard, info in shards.items():
            stream = self._names.stream(shard.priority)
            for sequence in await given_up(self._connection, stream, info):
                if self._stays(stream, sequence, info["config"]["ack_wait"]):
                    await self._undertaker.bury_if_possible(stream, sequence, info["config"]["filter_subject"])
        for priority in Priority:
            infos = [info for shard, info in shards.items() if shard.priority is priority]
            await self._bury_strays(priority, infos)

    async def _bury_strays(self, priority: Priority, infos: list[dict[str, Any]]) -> None:
        stream = self._names.stream(priority)
        for sequence in await self._strays.of(priority, infos):
            if self._stays(stream, sequence, max(info["config"]["ack_wait"] for info in infos)):
                await self._undertaker.bury_if_possible(stream, sequence, ">", NOT_TAKEN)

    def _stays(self, stream: str, sequence: int, ack_wait: int) -> bool:
        """Note what this look found; whether looks before have found it for so many nanoseconds."""
        now = time.monotonic()
        first_seen = self._seen[stream, sequence] = self._before.get((stream, sequence), now)
        return now - first_seen >= ack_wait / 1e9

    async def restore(self) -> list[str]:
        """Make again the consumers that are missing: that is never a reason to bury, their jobs are delivered.

        Those by whose settings nothing is delivered as it should are made so. None is made while the shard count is
        being changed, nor where the streams are not there.

        Returns:
            The names of those that were made, or made so.

        Raises:
            JobError: If the server cannot be asked.
        """
        steps, made, left = await self._topology.plan(foreign=False), list[str](), list[str]()
        # What was never applied is for `streams apply` to decide.
        undecided = {step.priority for step in steps if step.kind == "generations" and step.action is not Action.KEEP}
        absent = {step.name for step in steps if step.kind == "stream" and step.action is Action.CREATE}
        for step in steps:
            if step.kind != "consumer" or step.action is Action.KEEP:
                continue
            if step.priority in undecided or step.body["stream_name"] in absent:
                continue
            if step.action is Action.CREATE:
                why_left = await self._make(step)
            elif (mended := gentle(step)) is None:
                continue
            else:
                why_left = await self._mend(mended)
            (left if why_left else made).append(why_left or step.name)
        self._note_left(consumers=left)
        return made

    async def _make(self, step: Step) -> str:
        """Make a consumer that is missing; why that is left to an operator, in words, where it is."""
        if step.body["stream_name"] != self._names.schedule_stream:
            await call(self._connection, step.endpoint, step.body)
            await self._catch_up(step)
        elif not await self._topology.restore_source(step):
            return f"{step.body['stream_name']}: its consumer {step.name} is not there: run `jsjobs streams apply`"
        return ""

    async def _mend(self, step: Step) -> str:
        """Make a consumer as it is declared; why that is left to an operator, in words, where it is."""
        try:
            await take_consumer_step(self._connection, self._names, step)
        except JobError as error:
            if error.is_transient:
                raise
            what = f"{step.body['stream_name']}: its consumer {step.name} is not as declared ({differing(step)})"
            return f"{what}, which is left to an operator: run `jsjobs streams apply` ({error.message})"
        return ""

    def _note_left(self, *, consumers: list[str] | None = None, changes: list[str] | None = None) -> None:
        self._left_of_consumers = self._left_of_consumers if consumers is None else consumers
        self._left_of_changes = self._left_of_changes if changes is None else changes
        left = [*self._left_of_consumers, *self._left_of_changes]
        for news in set(left) - set(self.left):
            logger.warning("%s", news)
        self.left = left

    async def _catch_up(self, step: Step) -> None:
        """Do to a shard that was just made what an operator decided since the plan: he did not find it."""
        if step.priority is None or Shard.of(step.name) is None:
            return
        planned = step.body["config"].get("pause_until")
        noted = (await read_live(self._connection, self._names, step.priority)).operators_pause
        if noted != (None if planned is None else parse_time(planned)):
            await resume(self._connection, step.body["stream_name"], step.name, operators_pause=noted)
