"""Sweep the queues, since advisories are best effort: find what no advisory told of, finish what was left half done."""

from __future__ import annotations

import time

from jsjobs.dead_letters.recorder import DeadLetterRecorder
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.monitoring.backlog import given_up
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.consumer_repair import differing, gentle, take_consumer_step
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.jetstream.topology.plan import Action, Step
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from jsjobs.maintenance.lane_sweep import LaneSweep
from jsjobs.maintenance.letter_sweep import LetterSweep
from jsjobs.maintenance.schedule_cleaner import ScheduleCleaner
from jsjobs.maintenance.stranded import NOT_TAKEN, StrandedMessages
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.lanes import Lane
from jsjobs.postgres.errors import DatabaseError
from jsjobs.safe_log import get_logger
from jsjobs.settings import Config

logger = get_logger("jsjobs.router")


class Sweep:
    """Dead-letter messages found given up twice, `ack_wait` apart; restore consumers; continue changes of shards.

    It also dead-letters messages that no shard takes, and purges fired ones once the queues have them.
    """

    def __init__(self, connection: Connection, names: Names, config: Config, recorder: DeadLetterRecorder) -> None:
        self._connection = connection
        self._names = names
        self._topology = TopologyReconciler(connection, names, config)
        self._recorder = recorder
        self._fired = ScheduleCleaner(connection, names, recorder)
        self._stranded = StrandedMessages(connection, names)
        self._lanes = [LaneSweep(connection, names, recorder, priority) for priority in Priority]
        self._letters = LetterSweep(connection, names, recorder)
        self._seen: dict[tuple[str, int], float] = {}
        """When each message was first found, for those that this sweep has found so far."""
        self._before: dict[tuple[str, int], float] = {}
        """The same, for those that the previous sweep found."""
        self._left_of_consumers: list[str] = []
        self._left_of_changes: list[str] = []
        self.left: list[str] = []
        """What the last sweep left to an operator, and what to do about it, in words; another thread may read it."""

    async def once(self) -> None:
        """Sweep every shard once.

        Raises:
            DatabaseError: If Postgres cannot take what was found; work that does not need it is done all the same.
            JobError: If the server cannot be asked.
        """
        await self.restore()
        await self._fired.clear()  # before anything that waits for Postgres
        failed: DatabaseError | JobError | None = None
        try:
            await self._dead_letter_all_given_up()
        except (DatabaseError, JobError) as error:
            failed = error
        # New shards wait for their change to be finished, and the process that began it may be gone.
        self._note_left(changes=await self._topology.finish(wait=False))
        if failed is not None:
            raise failed

    async def _dead_letter_all_given_up(self) -> None:
        """End messages that the server gave up, those that no shard takes, and those that are left in a lane."""
        self._before, self._seen = self._seen, {}
        await self._stranded.begin()
        shards = await live_shards(self._connection, self._names)
        for shard, info in shards.items():
            stream = self._names.queue(shard.queue)
            for sequence in await given_up(self._connection, stream, info):
                if self._stays(stream, sequence, info.config.ack_wait):
                    await self._recorder.dead_letter_if_possible(stream, sequence, info.config.filter_subject)
        for priority in Priority:
            infos = [info for shard, info in shards.items() if shard.priority is priority]
            await self._dead_letter_given_up(priority, infos)
        for lane in self._lanes:
            await lane.once()
        await self._letters.once()

    async def _dead_letter_given_up(self, priority: Priority, infos: list[ConsumerInfo]) -> None:
        stream = self._names.stream(priority)
        for sequence in await self._stranded.of(priority, infos):
            if self._stays(stream, sequence, max(info.config.ack_wait for info in infos)):
                await self._recorder.dead_letter_if_possible(stream, sequence, ">", NOT_TAKEN[Lane.ORDERED])

    def _stays(self, stream: str, sequence: int, ack_wait: int) -> bool:
        """Note a message that this sweep found; return whether sweeps have found it for `ack_wait` nanoseconds."""
        now = time.monotonic()
        first_seen = self._seen[stream, sequence] = self._before.get((stream, sequence), now)
        return now - first_seen >= ack_wait / 1e9

    async def restore(self) -> list[str]:
        """Recreate missing consumers; their jobs are delivered then, and need not become dead letters.

        Consumers whose settings keep messages from being delivered as they should are repaired. None is created while
        the shard count is being changed, or if the streams do not exist. Partitions that new jobs no longer go to are
        removed once they are empty.

        Returns:
            The names of the consumers that were created or repaired.

        Raises:
            JobError: If the server cannot be asked.
        """
        steps, left = await self._topology.plan(foreign=False), list[str]()
        # Generations that were never applied are for `streams apply` to decide.
        undecided = {step.priority for step in steps if step.kind == "generations" and step.action is not Action.KEEP}
        absent = {step.name for step in steps if step.kind == "stream" and step.action is Action.CREATE}
        taken = list[Step]()
        for step in steps:
            if step.kind not in {"consumer", "consumers"} or step.action is Action.KEEP:
                continue
            if step.priority in undecided or step.stream in absent:
                continue
            if step.action is Action.DELETE:
                why_left = await self._remove(step)
            elif step.action is Action.CREATE:
                why_left = await self._make(step)
            elif (mended := gentle(step)) is None:
                continue
            else:
                why_left = await self._mend(mended)
            if why_left:
                left.append(why_left)
            else:
                taken.append(step)
        self._note_left(consumers=left)
        await self._topology.announce(taken)
        return [step.name for step in taken if step.action is not Action.DELETE]

    async def _make(self, step: Step) -> str:
        """Create a missing consumer; return why that is left to an operator, in words; empty if it is not."""
        if step.stream != self._names.schedule_stream:
            await take_consumer_step(self._connection, self._names, step)
        elif not await self._topology.restore_source(step):
            return f"{step.stream}: its consumer {step.name} is missing: run `jsjobs streams apply`"
        return ""

    async def _mend(self, step: Step) -> str:
        """Repair a consumer; return why that is left to an operator, in words; empty if it is not."""
        try:
            await take_consumer_step(self._connection, self._names, step)
        except JobError as error:
            if error.is_transient:
                raise
            what = f"{step.stream}: its consumer {step.name} differs from its declaration ({differing(step)})"
            return f"{what}, and this user may not change it: run `jsjobs streams apply` ({error.message})"
        return ""

    async def _remove(self, step: Step) -> str:
        """Remove partitions that are no longer needed; return why that is left to an operator, in words."""
        try:
            await take_consumer_step(self._connection, self._names, step)
        except JobError as error:
            if error.is_transient:
                raise
            return f"{step.name}: {step.reason}; this user may not remove that: run `jsjobs streams apply`"
        logger.info("%s: removed, since %s", step.name, step.reason)
        return ""

    def _note_left(self, *, consumers: list[str] | None = None, changes: list[str] | None = None) -> None:
        self._left_of_consumers = self._left_of_consumers if consumers is None else consumers
        self._left_of_changes = self._left_of_changes if changes is None else changes
        left = [*self._left_of_consumers, *self._left_of_changes]
        for news in set(left) - set(self.left):
            logger.warning("%s", news)
        self.left = left
