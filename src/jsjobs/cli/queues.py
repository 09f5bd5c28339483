"""`jsjobs queues`, `pause` and `resume`: what waits in each shard, and holding a priority back."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Annotated, Any, TypeVar

import typer

from jsjobs.cli.connect import run, service, settings
from jsjobs.cli.options import Json, duration_option, examples, with_servers
from jsjobs.cli.output import display, print_json, talk
from jsjobs.cli.problems import Failed
from jsjobs.cli.queues_view import Queues, describe_end
from jsjobs.jetstream.connect import connected
from jsjobs.jetstream.oldest import oldest_waiting
from jsjobs.jetstream.overview import Observer
from jsjobs.jetstream.pausing import Paused
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority

T = TypeVar("T")

Priorities = Annotated[list[Priority], typer.Argument(metavar="PRIORITY", help=f"Which: {', '.join(Priority)}.")]
_ASKED = 1
"""Running jobs that a look lists, of which nothing is shown but which of all of them wait for their next attempt."""
_SAY_AFTER = 1.0
"""Seconds after which somebody who waits is told what for."""


app = typer.Typer()


@app.command(epilog=examples("jsjobs queues", "jsjobs queues --json"))
@with_servers
def queues(*, as_json: Json = False) -> None:
    """Show what waits and runs, by priority and shard: how much, since when, and what is paused."""
    found = run(_look())
    if as_json:
        print_json(found.as_json())
    else:
        display(found.picture())


async def _look() -> Queues:
    config = settings()
    names = Names(config.namespace)
    async with connected(config, name="jsjobs queues") as connection:
        try:
            overview = await Observer(connection, names).look(_ASKED)
        except JobError as error:
            if error.reason is Reason.NOT_FOUND:
                raise Failed(error.message) from None
            raise
        shards = [shard for look in overview.priorities for shard in look.shards if shard.waiting]
        oldest = await oldest_waiting(connection, names, ((look.shard, look.last_delivered) for look in shards))
        return Queues(overview, oldest)


@app.command(epilog=examples("jsjobs pause low", "jsjobs pause normal low --for 30m"))
@with_servers
def pause(
    *,
    priorities: Priorities,
    seconds: Annotated[float | None, duration_option("For how long; without it until it is resumed.", "--for")] = None,
    as_json: Json = False,
) -> None:
    """Let no further job of a priority start, retries included; what runs goes on, and ends as always.

    Jobs can be submitted all the same. Said again it sets another end.
    """

    async def go() -> list[Paused]:
        async with service() as jobs:
            pausing = _each(priorities, lambda priority: jobs.pause(priority, seconds))
            return await _patiently(pausing, "waiting until it is known whether the last jobs delivered have begun")

    for paused in (found := run(go())):
        if not as_json:
            talk(f"{paused.priority}: paused until {describe_end(paused.until)}{_going_on(paused)}")
    if as_json:
        print_json([_as_data(paused) for paused in found])


@app.command(epilog=examples("jsjobs resume low", "jsjobs resume normal low --json"))
@with_servers
def resume(*, priorities: Priorities, as_json: Json = False) -> None:
    """Let jobs of a priority start again, whoever paused it."""

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
    return f"; {len(paused.running)} running: {', '.join(paused.running)}"


def _as_data(paused: Paused) -> dict[str, Any]:
    until = None if paused.until is None else paused.until.isoformat()
    return {"priority": paused.priority, "paused_until": until, "running": list(paused.running)}
