"""Delayed jobs that fall due while something goes wrong, and the rules that must hold afterwards."""

import asyncio
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import Priority

MOST_SHARDS = 6
"""Of the loaded priority, in any test."""
AGAIN = 2000
"""Messages that a killed server's queue may take once more, at most: all that fired and whose acknowledgement was not on
the disk yet. A worker drops them, since their ids have a carrier already."""


def now() -> datetime:
    return datetime.now(UTC)


class DelayedLoad:
    """Jobs of a few entities, each entity's in the order in which they are due, and what a worker saw of them."""

    def __init__(self, priority: Priority = Priority.HIGH, entities: int = 40) -> None:
        self.priority = priority
        self.entities = entities
        self.due: dict[str, datetime] = {}
        self.submitted: dict[str, list[str]] = defaultdict(list)
        self.began: list[tuple[str, int, datetime]] = []
        """Job id, attempt and moment of every call of the handler."""
        self.completed: Counter[str] = Counter()
        self._first = 0

    def register(self, service: JobService) -> None:
        @service.handler("due")
        async def due(_: object, ctx: JobService.Context) -> None:
            self.began.append((ctx.job_id, ctx.attempt, now()))
            await asyncio.sleep(0)
            self.completed[ctx.job_id] += 1

    async def submit(self, service: JobService, count: int, *, after: float, within: float) -> None:
        """Submit so many, the first one due after some seconds, the last one so many seconds later."""
        begin = now() + timedelta(seconds=after)
        payloads, dues = [], []
        for number in range(count):
            dues.append(begin + timedelta(seconds=within * number / count))
            entity = f"e{number % self.entities}"
            payloads.append(
                JobService.Payload(type="due", payload=None, at=dues[-1], entity=entity, priority=self.priority)
            )
        ids = await service.submit_payloads(payloads)
        assert all(job_id.startswith("at-") for job_id in ids), "the machine is too slow for this delay"
        for number, (job_id, due) in enumerate(zip(ids, dues, strict=True)):
            self.due[job_id] = due
            self.submitted[f"e{number % self.entities}"].append(job_id)

    async def watch(self, connection: Connection, names: Names) -> None:
        """Look where the queue begins: from then on `stored` tells how many messages it ever took."""
        state = (await call(connection, f"STREAM.INFO.{names.stream(self.priority)}"))["state"]
        self._first = state["last_seq"] + 1

    async def stored(self, connection: Connection, names: Names) -> int:
        state = (await call(connection, f"STREAM.INFO.{names.stream(self.priority)}"))["state"]
        last: int = state["last_seq"]
        return last - self._first + 1

    async def reached(self, completed: int, *, within: float = 30) -> None:
        await eventually(lambda: len(self.completed) >= completed, within=within)

    async def all_ran(self, *, within: float = 30) -> None:
        await self.reached(len(self.due), within=within)

    def lateness(self) -> list[float]:
        """Seconds from due to the handler's first start, in order."""
        first: dict[str, datetime] = {}
        for job_id, _, at in self.began:
            first.setdefault(job_id, at)
        return sorted((at - self.due[job_id]).total_seconds() for job_id, at in first.items())

    def check(self, *, crashes: int = 0, in_order: bool = True) -> None:
        """None lost, none early, none twice, each entity's in order.

        Args:
            crashes: How often the server went away meanwhile: what was in hand then, a job of each shard, is run again.
            in_order: Whether each entity's must have run in order.
        """
        assert set(self.completed) == set(self.due)
        assert self.lateness()[0] >= 0
        assert len({(job_id, attempt) for job_id, attempt, _ in self.began}) == len(self.began)
        assert self.completed.total() - len(self.completed) <= crashes * MOST_SHARDS
        first = list(dict.fromkeys(job_id for job_id, _, _ in self.began))
        place = {job_id: number for number, job_id in enumerate(first)}
        for entity, ids in self.submitted.items() if in_order else ():
            places = [place[job_id] for job_id in ids]
            assert places == sorted(places), f"{entity} ran out of order"


async def source_of(connection: Connection, names: Names, priority: Priority) -> dict[str, Any]:
    """The consumer through which a queue sources what is due."""
    info: dict[str, Any] = await call(connection, f"CONSUMER.INFO.{names.schedule_stream}.source-{priority}")
    return info


async def due_after(connection: Connection, names: Names, priority: Priority, floor: int) -> int:
    """How many messages that fired stand behind a place in the schedule stream: what a consumer from there would get."""
    stream = names.schedule_stream
    where = {"deliver_policy": "by_start_sequence", "opt_start_seq": floor + 1}
    config = {**where, "filter_subject": f"{names.namespace}.due.{priority}.>", "ack_policy": "none"}
    consumer = await call(connection, f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config})
    await call(connection, f"CONSUMER.DELETE.{stream}.{consumer['name']}")
    return int(consumer["num_pending"])
