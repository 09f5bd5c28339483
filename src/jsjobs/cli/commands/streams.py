"""`jsjobs streams`: compare what the server should have with what it has, and apply the difference."""

from collections.abc import Coroutine
from typing import Annotated, Any

import typer

from jsjobs import JobService
from jsjobs.cli.commands.draining import shown_draining
from jsjobs.cli.commands.streams_view import print_steps, table_of
from jsjobs.cli.confirmation import Yes, ask_first
from jsjobs.cli.errors import Failed, WrongUse
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import display, print_json, talk
from jsjobs.cli.runtime import run, settings
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import no_streams
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.lane_targets import move_to_lanes
from jsjobs.jetstream.topology.generations import live_shards
from jsjobs.jetstream.topology.kept_settings import keep_unasked
from jsjobs.jetstream.topology.partitions import live_partitions, partition_count
from jsjobs.jetstream.topology.plan import Action, Step
from jsjobs.jetstream.topology.reconciler import Tell, TopologyReconciler
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority
from jsjobs.model.lanes import PARALLEL, QUEUES, Queue
from jsjobs.postgres.errors import DatabaseError, SchemaMissing
from jsjobs.settings import MAX_SHARDS, Config

app = typer.Typer(
    no_args_is_help=True, help="Plan, apply and show the streams and consumers on the server.", rich_markup_mode="rich"
)

Replicas = Annotated[
    int | None,
    typer.Option(help="Copies of every stream [dim](JSJOBS_REPLICAS, else what the server has, or 1)[/]"),
]
Scale = Annotated[
    int | None,
    typer.Option(
        help="Multiply the shards of every priority, 4, 3, 2, 1 or JSJOBS_POOLS, by this number "
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
        help="Let a replicated queue have a single copy for the seconds it takes to change its shards.",
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
    """Show what apply would do, without changing anything."""
    config = _settings(replicas, scale, shards)

    steps = run(_planned(config, one_copy=one_copy, say=not as_json))
    print_steps(steps, as_json=as_json)
    if not as_json and any(step.kind == "shards" for step in steps):
        talk(f"the number of shards is set by {_who_asks(config, scale, shards)}", style="dim")


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
    """Make the server match the declaration; never deletes a queue, and running it again changes nothing.

    Settings that you give nowhere keep the values that the server has.

    You can change the number of shards while jobs come and go: new jobs wait until those of the old shards have ended,
    so every entity keeps its order. The partitions of the parallel lanes (JSJOBS_PARTITIONS) change at once, and one
    that is no longer needed is removed once its jobs have ended. You can stop the command at any moment; run it again
    to continue. A queue with several copies is changed only with --one-copy. Before it takes something away, such as
    shards or copies, it asks, unless you give --yes.
    """
    config = _settings(replicas, scale, shards)
    if not yes:
        _ask_about_less(run(_planned(config, one_copy=one_copy, say=False)))
    try:
        with shown_draining() as tell:
            steps = run(apply_streams(config, tell=tell, one_copy=one_copy))
    except KeyboardInterrupt:
        talk(
            "stopped: new jobs of a priority whose shards were being changed wait until you run the same command again "
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
    """Show the streams, shards and partitions that the server has, and what is in them."""
    config = settings()
    names = Names(config.namespace)

    async def go() -> dict[str, list[dict[str, Any]]]:
        async with connected(config) as connection:
            return {
                "streams": await _streams(connection, names),
                "shards": await _shards(connection, names),
                "partitions": await _partitions(connection, names),
            }

    found = run(go())
    if not found["streams"]:
        raise Failed(no_streams(config.namespace))
    if as_json:
        print_json(found)
    else:
        display(table_of(found["streams"]))
        for part in ("shards", "partitions"):
            display()
            display(table_of(found[part]))


async def _planned(config: Config, *, one_copy: bool, say: bool) -> list[Step]:
    async with connected(config) as connection:
        wanted = await _wanted(connection, config, say=say)
        return await _topology(connection, wanted).plan(await _floor(config), one_copy=one_copy)


def _ask_about_less(steps: list[Step]) -> None:
    """Ask before a change takes something away: this shell may lack the settings of whoever declared it."""
    less = [
        f"{step.name}: {name} {old} → {new}"
        for step in steps
        if step.action is Action.UPDATE
        for name, old, new in step.lowered()
    ]
    # A refused step stops all of them, and is reported later.
    if less and not any(step.action is Action.REFUSE for step in steps):
        ask_first(f"remove what the server has ({', '.join(less)})", yes=False)


def apply_streams(
    config: Config, *, tell: Tell = lambda _: None, wait: bool = True, one_copy: bool = False
) -> Coroutine[Any, Any, list[Step]]:
    """Make the server match the settings, and return the steps.

    Args:
        config: The settings.
        tell: Called with what is left of a change of the shard count.
        wait: Whether to wait until such a change is finished.
        one_copy: Whether a replicated queue may have a single copy meanwhile.

    Raises:
        Failed: If a step would lose a job; nothing was changed then.
        JobError: If the server cannot be reached.
    """

    async def go() -> list[Step]:
        async with connected(config) as connection:
            try:
                topology, floor = _topology(connection, await _wanted(connection, config)), await _floor(config)
                steps = await topology.apply(floor, tell=tell, wait=wait, one_copy=one_copy)
                if moved := await move_to_lanes(connection, Names(config.namespace)):
                    talk(f"moved {moved:,} schedules of jobs without an entity to the parallel lanes")
                return steps
            except JobError as error:
                raise Failed(error.message) if error.reason is Reason.VALIDATION else error from None

    return go()


async def finish_changes(config: Config) -> None:
    """Wait until no change of the shard count is under way any more, and make sure that the new shards run then."""
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
    """Return the options and variables that say how many shards there are to be."""
    asking = {
        "--shards": bool(shards),
        "JSJOBS_POOLS": "pools" in settings().model_fields_set,
        "--scale": scale is not None,
        "JSJOBS_SCALE": scale is None and "scale" in config.model_fields_set,
    }
    return ", ".join(name for name, asks in asking.items() if asks) or "nothing here: an unfinished change is finished"


async def _wanted(connection: Connection, config: Config, *, say: bool = True) -> Config:
    """Return the settings that the server is to have; where nobody asks for a value, the server's own is kept."""
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


def _topology(connection: Connection, config: Config) -> TopologyReconciler:
    return TopologyReconciler(connection, Names(config.namespace), config)


async def _floor(config: Config) -> dict[Queue, int]:
    """Return the highest ids of dead letters, since no id may ever be given twice."""
    if config.database_url is None:
        return {}
    service = JobService(config)
    try:
        found = await service.dlq.highest_sequences()
        return {queue: found[queue.name] for queue in QUEUES if queue.name in found}
    except SchemaMissing:
        return {}  # so there has never been a dead letter
    except DatabaseError as error:
        # The clock alone makes ids new as well; streams must not need the database.
        talk(f"the ids in the dead-letter table could not be read: {error}", style="dim")
        return {}
    finally:
        await service.close()


async def _streams(connection: Connection, names: Names) -> list[dict[str, Any]]:
    queues = [*map(names.queue, QUEUES)]
    rows = []
    for name in (*queues, names.state_stream, names.progress_stream, names.dead_stream, names.schedule_stream):
        info = await find_stream(connection, name)
        if info is not None:
            state = info.state
            row = {"name": name, "messages": state.messages, "bytes": state.bytes}
            rows.append(row | {"consumers": state.consumer_count, "replicas": info.config.num_replicas})
    return rows


async def _shards(connection: Connection, names: Names) -> list[dict[str, Any]]:
    found = await live_shards(connection, names)
    return [
        {
            "name": shard.consumer,
            "pending": info.num_pending,
            "running": info.num_ack_pending,
            "redelivered": info.num_redelivered,
            "paused": info.paused,
            "workers": info.push_bound,
        }
        for shard, info in found.items()
    ]


async def _partitions(connection: Connection, names: Names) -> list[dict[str, Any]]:
    found = await live_partitions(connection, names)
    lanes = {queue: await find_stream(connection, names.queue(queue)) for queue in PARALLEL}
    counts = {
        queue: None if lane is None else partition_count(names, queue.priority, lane) for queue, lane in lanes.items()
    }
    return [
        {
            "name": partition.consumer,
            "pending": info.num_pending,
            "in_flight": info.num_ack_pending,
            "redelivered": info.num_redelivered,
            "paused": info.paused,
            "requests": info.num_waiting,
            "new_jobs": partition.number < (counts[partition.queue] or 0),
        }
        for partition, info in found.items()
    ]
