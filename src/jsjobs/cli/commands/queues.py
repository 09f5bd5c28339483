"""`jsjobs queues`, `pause` and `resume`: show what waits in each shard and partition, and hold a priority back."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

from jsjobs.cli.commands.queues_view import describe_end, picture
from jsjobs.cli.errors import Failed
from jsjobs.cli.options import Json, duration_option, examples, with_servers
from jsjobs.cli.output import display, print_json, talk
from jsjobs.cli.runtime import run, service, settings
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.pause import Paused
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority, utc_now
from jsjobs.model.queues import PartitionStatus, QueueStatus, ShardStatus
from jsjobs.operations.queues import Queues

T = TypeVar("T")

Priorities = Annotated[
    list[Priority], typer.Argument(metavar="PRIORITY", help=f"One or more of {', '.join(Priority)}.")
]
_SAY_AFTER = 1.0
"""Seconds after which the person who waits is told what for."""

_NAMED = 10
"""Running jobs of a paused priority that are named, at most."""


app = typer.Typer()


@app.command(epilog=examples("jsjobs queues", "jsjobs queues --json"))
@with_servers
def queues(*, as_json: Json = False) -> None:
    """Show how many jobs wait and run, by priority, shard and partition; what holds a shard, and what is paused."""
    found = run(_list())
    if as_json:
        print_json([_queue_as_data(queue) for queue in found])
    else:
        display(picture(found, utc_now()))


async def _list() -> list[QueueStatus]:
    config = settings()
    async with connected(config, name="jsjobs queues") as connection:
        try:
            return await Queues(connection, Names(config.namespace)).list()
        except JobError as error:
            if error.reason is Reason.NOT_FOUND:
                raise Failed(error.message) from None
            raise


def _queue_as_data(queue: QueueStatus) -> dict[str, Any]:
    shards = [{"name": each.name, "generation": each.generation, **_status_as_data(each)} for each in queue.shards]
    partitions = [{"name": each.name, **_status_as_data(each)} for each in queue.partitions]
    return {"priority": queue.priority, **_status_as_data(queue), "shards": shards, "partitions": partitions}


def _status_as_data(status: QueueStatus | ShardStatus | PartitionStatus) -> dict[str, Any]:
    until = status.paused_until
    data = status.model_dump(mode="json", exclude={"shards", "partitions"})
    return {**data, "paused_until": None if until is None else until.isoformat()}


@app.command(epilog=examples("jsjobs pause low", "jsjobs pause normal low --for 30m"))
@with_servers
def pause(
    *,
    priorities: Priorities,
    seconds: Annotated[
        float | None, duration_option("How long to pause; without it, until you resume.", "--for")
    ] = None,
    as_json: Json = False,
) -> None:
    """Pause a priority: no further job starts, retries included; running jobs end as usual.

    Jobs can still be submitted. Pausing a paused priority again replaces the end of its pause.
    """

    async def go() -> list[Paused]:
        async with service() as jobs:
            pausing = _each(priorities, lambda priority: jobs.pause(priority, seconds))
            return await _patiently(pausing, "waiting to learn whether the last delivered jobs have started")

    for paused in (found := run(go())):
        if not as_json:
            talk(f"{paused.priority}: paused until {describe_end(paused.until)}{_going_on(paused)}")
    if as_json:
        print_json([_as_data(paused) for paused in found])


@app.command(epilog=examples("jsjobs resume low", "jsjobs resume normal low --json"))
@with_servers
def resume(*, priorities: Priorities, as_json: Json = False) -> None:
    """Resume a priority, whoever paused it."""

    async def go() -> list[bool]:
        async with service() as jobs:
            return await _each(priorities, jobs.resume)

    outcomes = list(zip(dict.fromkeys(priorities), run(go()), strict=True))
    if as_json:
        print_json([{"priority": priority, "was_paused": was_paused} for priority, was_paused in outcomes])
        return
    for priority, was_paused in outcomes:
        talk(f"{priority}: {'resumed' if was_paused else 'was not paused'}")


async def _each(priorities: Sequence[Priority], do: Callable[[Priority], Awaitable[T]]) -> list[T]:
    return list(await asyncio.gather(*(do(priority) for priority in dict.fromkeys(priorities))))


async def _patiently(doing: Awaitable[T], waits_for: str) -> T:
    said = asyncio.get_running_loop().call_later(_SAY_AFTER, partial(talk, waits_for, style="dim"))
    try:
        return await doing
    finally:
        said.cancel()


def _going_on(paused: Paused) -> str:
    if not paused.running:
        return ""
    more = len(paused.running) - _NAMED
    rest = f" and {more:,} more" if more > 0 else ""
    return f"; {len(paused.running):,} running: {', '.join(paused.running[:_NAMED])}{rest}"


def _as_data(paused: Paused) -> dict[str, Any]:
    until = None if paused.until is None else paused.until.isoformat()
    return {"priority": paused.priority, "paused_until": until, "running": list(paused.running)}
