"""Read a namespace again and again, through outages of its servers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic_core import to_jsonable_python

from jsjobs import JobService
from jsjobs.cli.errors import Failed
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.monitoring.overview import Overview, PartitionLook, QueueLook, ShardLook, with_rates
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import utc_now
from jsjobs.operations.queues import Queues
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.postgres.errors import DatabaseError, SchemaMissing
from jsjobs.settings import Config

_FIRST_COUNT = 2.0
"""Seconds that the first look waits for the dead-letter table."""
_COUNT_EVERY = 5.0
"""Seconds between two counts, at least: they have nothing to do with NATS, and a long table takes a while."""
_WHILE_AWAY = 1.0
"""Seconds between two looks while a server is away, at most, so that its return is noticed soon."""


class Table(StrEnum):
    """The state of the dead-letter table."""

    NONE = "none"
    """No database is set."""
    ASKED = "asked"
    REACHED = "reached"
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    """The database has no such table: `jsjobs db migrate` was not run."""


@dataclass(frozen=True, slots=True)
class OpenLetters:
    """The number of letters in Postgres that wait for a decision."""

    table: Table
    count: int | None = None
    """The number; None unless the table is reached."""


@dataclass(frozen=True, slots=True)
class Seen:
    """The result of one look."""

    overview: Overview | None
    """The overview of the last look that succeeded; None if none did."""
    letters: OpenLetters
    failing_since: datetime | None = None
    """The time since when looks fail; None if this one did not."""
    connected: bool = True
    """Whether NATS can be reached, however this look ended."""
    reason: str = ""
    """The reason why this look failed."""

    def as_json(self) -> dict[str, Any]:
        """Return the result as JSON values, for programs, without repeating what an earlier look saw."""
        if self.failing_since is not None:
            return {"failing_since": self.failing_since.isoformat(), "connected": self.connected, "reason": self.reason}
        data: dict[str, Any] = to_jsonable_python(self.overview)
        looks = self.overview.priorities if self.overview is not None else ()
        for look, told in zip(looks, data["priorities"], strict=True):
            told["queues"] = [{"lane": each.queue.lane.value, **_as_json(each, "queue")} for each in look.queues]
            told["shards"] = [
                {"name": each.name, "generation": str(each.generation), **_as_json(each, "shard")}
                for each in look.shards
            ]
            told["partitions"] = [{"name": each.name, **_as_json(each, "partition")} for each in look.partitions]
        return data | {"letters_open": self.letters.count, "database": self.letters.table.value}


def _as_json(look: QueueLook | ShardLook | PartitionLook, place: str) -> dict[str, Any]:
    """Return a part of the overview as JSON values, but for the field that says which it is."""
    data: dict[str, Any] = to_jsonable_python(look)
    del data[place]
    return data


async def looks(config: Config, interval: float, running_limit: Callable[[], int]) -> AsyncGenerator[Seen, None]:
    """Yield the result of a look every `interval` seconds, forever; close the generator to disconnect.

    Args:
        config: The settings: the namespace and its servers.
        interval: Seconds between two looks.
        running_limit: Returns how many running jobs to list in the next look.

    Raises:
        JobError: If the first connection fails.
        Failed: If there are no streams at the first look. A later look that fails counts as an outage.
    """
    loop = asyncio.get_running_loop()
    async with connected(config, name="jsjobs top") as connection, _counted(config) as letters:
        queues = Queues(connection, Names(config.namespace))
        before, failing_since = None, None
        while True:
            begun = loop.time()
            try:
                now = await _look(connection, queues, running_limit(), config.timeout)
            except JobError as error:
                if before is None and failing_since is None and error.reason is Reason.NOT_FOUND:
                    raise Failed(error.message) from None
                failing_since = failing_since or utc_now()
                yield Seen(before, letters(), failing_since, connection.is_connected, error.message)
            else:
                before, failing_since = with_rates(now, before), None
                yield Seen(before, letters())
            pause = interval if failing_since is None else min(interval, _WHILE_AWAY)
            await asyncio.sleep(max(0.0, begun + pause - loop.time()))


async def _look(connection: Connection, queues: Queues, running_limit: int, timeout: float) -> Overview:
    if not connection.is_connected:
        # This is reported at once; at the next look the connection may be back.
        raise JobError.from_runner_unavailable("the connection is lost, reconnecting")
    try:
        async with asyncio.timeout(timeout):
            return await queues.overview(running_limit)
    except TimeoutError:
        raise JobError.from_runner_unavailable(f"no answer within {timeout:g} s") from None


@asynccontextmanager
async def _counted(config: Config) -> AsyncIterator[Callable[[], OpenLetters]]:
    """Yield a function that returns the last count of open letters: no look waits for Postgres, even while it is away.

    The letters are counted in the background for as long as the block runs.
    """
    if config.database_url is None:
        yield lambda: OpenLetters(Table.NONE)
        return
    service = JobService(config)
    table, last = service.dlq, OpenLetters(Table.ASKED)

    async def count_on() -> None:
        nonlocal last
        while True:
            last = await _count(table)
            first.set()
            await asyncio.sleep(_COUNT_EVERY)

    first = asyncio.Event()
    counting = asyncio.create_task(count_on())
    try:
        with suppress(TimeoutError):
            await asyncio.wait_for(first.wait(), _FIRST_COUNT)
        yield lambda: last
    finally:
        counting.cancel()
        await asyncio.gather(counting, return_exceptions=True)
        await service.close()


async def _count(table: DeadLetters) -> OpenLetters:
    try:
        return OpenLetters(Table.REACHED, await table.count())
    except SchemaMissing:
        return OpenLetters(Table.MISSING)
    except DatabaseError:
        return OpenLetters(Table.UNREACHABLE)
