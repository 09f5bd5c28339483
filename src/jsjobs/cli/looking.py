"""Looking at a namespace again and again, through outages of its servers."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic_core import to_jsonable_python

from jsjobs import JobService
from jsjobs.cli.problems import Failed
from jsjobs.jetstream.connect import connected
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.overview import Observer, Overview, ShardLook
from jsjobs.jetstream.rates import with_rates
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import utc_now
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.postgres.errors import DatabaseError, SchemaMissing
from jsjobs.settings import Config

_FIRST_COUNT = 2.0
"""Seconds that the first look waits for the dead-letter table."""
_COUNT_EVERY = 5.0
"""Seconds between two counts, at least: they are no business of NATS, and a long table takes its time."""
_WHILE_AWAY = 1.0
"""Seconds between two looks for a server that is away, at most: it is seen soon when it is back."""


class Table(StrEnum):
    """How the dead-letter table answers."""

    NONE = "none"
    """No database is set."""
    ASKED = "asked"
    REACHED = "reached"
    UNREACHABLE = "unreachable"
    MISSING = "missing"
    """The database has no such table: `jsjobs db migrate` was not run."""


@dataclass(frozen=True, slots=True)
class OpenLetters:
    """How many letters in Postgres wait for somebody's decision."""

    table: Table
    count: int | None = None
    """None, unless the table is reached."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What one look saw."""

    overview: Overview | None
    """The last look that succeeded; None, if none did."""
    letters: OpenLetters
    failing_since: datetime | None = None
    """Since when looks fail; None, if this one did not."""
    connected: bool = True
    """Whether NATS can be reached, however this look ended."""
    reason: str = ""
    """Why this look failed."""

    def as_json(self) -> dict[str, Any]:
        """For programs. What an earlier look saw is not said again."""
        if self.failing_since is not None:
            return {"failing_since": self.failing_since.isoformat(), "connected": self.connected, "reason": self.reason}
        data: dict[str, Any] = to_jsonable_python(self.overview)
        looks = self.overview.priorities if self.overview is not None else ()
        for look, told in zip(looks, data["priorities"], strict=True):
            told["running"] = look.running - look.retrying
            told["shards"] = [_shard_as_json(shard) for shard in look.shards]
        return data | {"letters_open": self.letters.count, "database": self.letters.table.value}


def _shard_as_json(look: ShardLook) -> dict[str, Any]:
    """A shard goes by its name, with its generation as people write it."""
    data: dict[str, Any] = to_jsonable_python(look)
    del data["shard"]
    data["running"] = look.running - look.retrying
    return {"name": look.name, "generation": str(look.generation), **data}


async def looks(config: Config, interval: float, running_limit: Callable[[], int]) -> AsyncGenerator[Seen, None]:
    """What is seen, every `interval` seconds, for ever. Close it to disconnect.

    Args:
        config: Whose jobs, on which servers.
        interval: Seconds.
        running_limit: How many running jobs to list in the next look.

    Raises:
        JobError: If the first connection fails.
        Failed: If there are no streams at the first look. A later look that fails is seen as an outage.
    """
    loop = asyncio.get_running_loop()
    async with connected(config, name="jsjobs top") as connection, _counted(config) as letters:
        observer = Observer(connection, Names(config.namespace))
        before, failing_since = None, None
        while True:
            begun = loop.time()
            try:
                now = await _look(connection, observer, running_limit(), config.timeout)
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


async def _look(connection: Connection, observer: Observer, running_limit: int, timeout: float) -> Overview:
    if not connection.is_connected:
        # Said at once; the next look may find it standing again.
        raise JobError.from_runner_unavailable("the connection is lost, connecting again")
    try:
        async with asyncio.timeout(timeout):
            return await observer.look(running_limit)
    except TimeoutError:
        raise JobError.from_runner_unavailable(f"no answer within {timeout:g} s") from None


@asynccontextmanager
async def _counted(config: Config) -> AsyncIterator[Callable[[], OpenLetters]]:
    """The number of open letters as it was counted last: no look waits for Postgres, however long it is away."""
    if config.database_url is None:
        yield lambda: OpenLetters(Table.NONE)
        return
    service = JobService(config)
    table, last = service.letters(), OpenLetters(Table.ASKED)

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
