"""`jsjobs streams`: what the server should have, and what it has."""

from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from jsjobs import JobService
from jsjobs.cli.asking import Yes, ask_first
from jsjobs.cli.connect import run, settings
from jsjobs.cli.draining import shown_draining
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import display, print_json, talk
from jsjobs.cli.problems import Failed, WrongUse
from jsjobs.cli.streams_view import print_steps, table_of
from jsjobs.jetstream.api import find
from jsjobs.jetstream.connect import connected
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import no_streams
from jsjobs.jetstream.generations import live_shards
from jsjobs.jetstream.steps import Action, Step
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.topology import Tell, Topology
from jsjobs.jetstream.unasked import keep_unasked
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority
from jsjobs.postgres.errors import DatabaseError, SchemaMissing
from jsjobs.settings import MAX_SHARDS, Config

app = typer.Typer(no_args_is_help=True, help="The streams and consumers on the server.", rich_markup_mode="rich")

Replicas = Annotated[
    int | None,
    typer.Option(help="Copies of every stream [dim](JSJOBS_REPLICAS, else what the server has, or 1)[/]"),
]
Scale = Annotated[
    int | None,
    typer.Option(
        help="Multiplies the shards of every priority, 4, 3, 2, 1 or JSJOBS_POOLS "
        "[dim](JSJOBS_SCALE, else what the server has)[/]"
    ),
]
Shards = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PRIORITY=COUNT",
        help="Shards of one priority, before --scale; may be repeated "
        "[dim](JSJOBS_POOLS, else what the server has, or 4, 3, 2, 1)[/]",
    ),
]
OneCopy = Annotated[
    bool,
    typer.Option(
        "--one-copy",
        envvar="JSJOBS_ONE_COPY",
        help="Let a replicated queue have a single copy for the seconds that a change of its shards takes.",
    ),
]


@app.command(epilog=examples("jsjobs streams plan", "jsjobs streams plan --scale 2 --json"))
@with_servers
def plan(
    *,
    replicas: Replicas = None,
    scale: Scale = None,
    shards: Shards = None,
    one_copy: OneCopy = False,
    as_json: Json = False,
) -> None:
    """Show what apply would do; changes nothing."""
    config = _settings(replicas, scale, shards)

    steps = run(_planned(config, one_copy=one_copy, say=not as_json))
    print_steps(steps, as_json=as_json)
    if not as_json and any(step.kind == "shards" for step in steps):
        talk(f"the number of shards is asked for by {_who_asks(config, scale, shards)}", style="dim")


@app.command(
    epilog=examples(
        "jsjobs streams apply",
        "jsjobs streams apply --replicas 3 --scale 2",
        "jsjobs streams apply --shards critical=8",
    )
)
@with_servers
def apply(
    *,
    replicas: Replicas = None,
    scale: Scale = None,
    shards: Shards = None,
    one_copy: OneCopy = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Make the server match what is declared; never deletes a queue, and doing it again does nothing.

    A setting that is given nowhere asks for nothing: what the server has of it is kept.

    Another shard count than before is changed while jobs come and go: new jobs wait until those of the old shards have
    ended, so that every entity keeps its order. It may be stopped and run again at any moment, and goes on then. A
    queue with several copies is changed only with --one-copy. What takes something away, such as shards or copies, is
    asked about first, unless --yes is given.
    """
    config = _settings(replicas, scale, shards)
    if not yes:
        _ask_about_less(run(_planned(config, one_copy=one_copy, say=False)))
    try:
        with shown_draining() as tell:
            steps = run(apply_streams(config, tell=tell, one_copy=one_copy))
    except KeyboardInterrupt:
        talk(
            "stopped: new jobs of a priority whose shards were being changed wait, until the same command is run again "
            "or a router finishes the change"
        )
        raise
    print_steps(steps, as_json=as_json)
    if not as_json:
        done = sum(step.action is not Action.KEEP for step in steps)
        talk(f"applied {done} {'change' if done == 1 else 'changes'}" if done else "nothing to do")


@app.command(epilog=examples("jsjobs streams show", "jsjobs streams show --json | jq .shards"))
@with_servers
def show(*, as_json: Json = False) -> None:
    """Show the streams and shards that the server has, and what is in them."""
    config = settings()
    names = Names(config.namespace)

    async def go() -> dict[str, list[dict[str, Any]]]:
        async with connected(config) as connection:
            return {"streams": await _streams(connection, names), "shards": await _shards(connection, names)}

    found = run(go())
    if not found["streams"]:
        raise Failed(no_streams(config.namespace))
    if as_json:
        print_json(found)
    else:
        display(table_of(found["streams"]))
        display()
        display(table_of(found["shards"]))


async def _planned(config: Config, *, one_copy: bool, say: bool) -> list[Step]:
    async with connected(config) as connection:
        wanted = await _wanted(connection, config, say=say)
        return await _topology(connection, wanted).plan(await _floor(config), one_copy=one_copy)


def _ask_about_less(steps: list[Step]) -> None:
    """Ask before the server has less than it was given: this shell may lack the settings of whoever gave it."""
    less = [
        f"{step.name}: {name} {old} → {new}"
        for step in steps
        if step.action is Action.UPDATE
        for name, old, new in step.lowered()
    ]
    # What is refused stops all of it, and is said by what follows.
    if less and not any(step.action is Action.REFUSE for step in steps):
        ask_first(f"take away what the server has ({', '.join(less)})", yes=False)


def apply_streams(
    config: Config, *, tell: Tell = lambda _: None, wait: bool = True, one_copy: bool = False
) -> Coroutine[Any, Any, list[Step]]:
    """Make the server match; the steps that were looked at.

    Args:
        config: The settings.
        tell: Called with what is left of a change of the shard count.
        wait: Whether to wait for the end of such a change.
        one_copy: Whether a replicated queue may have a single copy meanwhile.

    Raises:
        Failed: If a step would lose a job: nothing was changed.
        JobError: If the server cannot be reached.
    """

    async def go() -> list[Step]:
        async with connected(config) as connection:
            try:
                topology, floor = _topology(connection, await _wanted(connection, config)), await _floor(config)
                return await topology.apply(floor, tell=tell, wait=wait, one_copy=one_copy)
            except JobError as error:
                raise Failed(error.message) if error.reason is Reason.VALIDATION else error from None

    return go()


async def finish_changes(config: Config) -> None:
    """Wait until no change of the shard count is under way any more, and see to it that new shards run then."""
    async with connected(config) as connection:
        await _topology(connection, config).finish()


def _settings(replicas: int | None, scale: int | None, shards: list[str] | None) -> Config:
    given: dict[str, Any] = {"replicas": replicas, "scale": scale}
    if shards:
        asked = settings()
        pools = asked.pools if "pools" in asked.model_fields_set else {}
        given["pools"] = {**pools, **dict(_pool(text) for text in shards)}
    return settings(**given)


def _who_asks(config: Config, scale: int | None, shards: list[str] | None) -> str:
    """Which options and variables say how many shards there are to be."""
    asking = {
        "--shards": bool(shards),
        "JSJOBS_POOLS": "pools" in settings().model_fields_set,
        "--scale": scale is not None,
        "JSJOBS_SCALE": scale is None and "scale" in config.model_fields_set,
    }
    return ", ".join(name for name, asks in asking.items() if asks) or "nobody: an unfinished change is finished"


async def _wanted(connection: Connection, config: Config, *, say: bool = True) -> Config:
    """What the server is to have; where nobody asks for a value, what it has."""
    wanted, kept = await keep_unasked(connection, Names(config.namespace), config)
    for one in kept if say else ():
        talk(f"{one} ({one.variable})", style="dim")
    return wanted


def _pool(text: str) -> tuple[Priority, int]:
    name, _, count = text.partition("=")
    if name not in set(Priority) or not (count.isascii() and count.isdigit()) or not 1 <= int(count) <= MAX_SHARDS:
        raise WrongUse(
            f"--shards takes a priority ({', '.join(Priority)}) and a count from 1 to {MAX_SHARDS}, "
            f"such as critical=8, not {text[:40]!r}"
        )
    return Priority(name), int(count)


def _topology(connection: Connection, config: Config) -> Topology:
    return Topology(connection, Names(config.namespace), config)


async def _floor(config: Config) -> dict[Priority, int]:
    """The highest ids that dead letters bear: an id must never be given twice."""
    if config.database_url is None:
        return {}
    service = JobService(config)
    try:
        return {Priority(name): highest for name, highest in (await service.letters().highest_sequences()).items()}
    except SchemaMissing:
        return {}  # so there never was a dead letter
    except DatabaseError as error:
        # The clock alone gives new ids too; streams must not need the database.
        talk(f"the dead-letter table was not asked for its ids: {error}", style="dim")
        return {}
    finally:
        await service.close()


async def _streams(connection: Connection, names: Names) -> list[dict[str, Any]]:
    queues = [names.stream(priority) for priority in Priority]
    rows = []
    for name in (*queues, names.state_stream, names.progress_stream, names.dead_stream, names.schedule_stream):
        info = await find(connection, f"STREAM.INFO.{name}")
        if info is not None:
            state = info["state"]
            row = {"name": name, "messages": state["messages"], "bytes": state["bytes"]}
            rows.append(row | {"consumers": state["consumer_count"], "replicas": info["config"]["num_replicas"]})
    return rows


async def _shards(connection: Connection, names: Names) -> list[dict[str, Any]]:
    found = await live_shards(connection, names)
    return [
        {
            "name": shard.consumer,
            "pending": info["num_pending"],
            "running": info["num_ack_pending"],
            "redelivered": info["num_redelivered"],
            "paused": bool(info.get("paused")),
            "workers": bool(info.get("push_bound")),
        }
        for shard, info in found.items()
    ]
