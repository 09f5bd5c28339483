"""`jsjobs schedule`: jobs that are submitted again and again."""

from typing import Annotated, Any
from zoneinfo import ZoneInfo

import typer
from rich.table import Table

from jsjobs.cli.commands.payload_argument import PayloadCommand
from jsjobs.cli.commands.payloads import read_one
from jsjobs.cli.durations import format_age, format_duration
from jsjobs.cli.errors import WrongUse
from jsjobs.cli.options import Json, duration_option, examples, with_servers
from jsjobs.cli.output import display, local_time, plain, print_json, print_value, talk
from jsjobs.cli.runtime import run, service
from jsjobs.model.errors import AnotherSchedule
from jsjobs.model.job import Duration, JobId, Priority, utc_now
from jsjobs.model.periodic import ScheduleStatus
from jsjobs.model.retry import ATTEMPTS_LIMIT
from jsjobs.model.timetable import Timetable
from jsjobs.operations.periodic_schedules import timetable_of

app = typer.Typer(
    no_args_is_help=True,
    help="Manage schedules, by which the server submits jobs again and again.",
    rich_markup_mode="rich",
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="The schedule's name.")]


@app.command(
    cls=PayloadCommand,
    epilog=examples(
        """jsjobs schedule add nightly report.build '{"days": 1}' --cron "0 3 * * *\"""",
        """jsjobs schedule add lunch ping null --cron "0 12 * * 1-5" --tz Europe/Berlin""",
        "jsjobs schedule add beat ping null --every 30s --priority low",
    ),
)
@with_servers
def add(
    *,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Letters, digits, [cyan]-[/] and [cyan]_[/].")],
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The job type it submits, such as report.build.")],
    payload: Annotated[str, typer.Argument(metavar="PAYLOAD|@FILE", help="JSON.")],
    cron: Annotated[
        str | None, typer.Option(help='Five fields, such as "0 9 * * 1-5", or @daily; six have seconds in front.')
    ] = None,
    tz: Annotated[str | None, typer.Option(help="Time zone of the cron, such as Europe/Berlin [dim](UTC)[/]")] = None,
    every: Annotated[
        float | None, duration_option("Instead of a cron: the time from one job to the next, such as 30s.")
    ] = None,
    priority: Annotated[Priority, typer.Option(help="The priority of its jobs.")] = Priority.NORMAL,
    entity: Annotated[
        str | None, typer.Option(help="The entity of its jobs, which run one at a time, in order.")
    ] = None,
    tenant: Annotated[str | None, typer.Option(help="The tenant of its jobs.")] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(min=1, max=ATTEMPTS_LIMIT, help="Attempts of each job [dim](default: its handler's, else 3)[/]"),
    ] = None,
    duration: Annotated[Duration | None, typer.Option(help="long: may run for more than half a minute.")] = None,
    timeout: Annotated[
        float | None, duration_option("Longest time for one attempt, such as 10s; above 25s the jobs are long.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace another schedule of that name.")] = False,
    as_json: Json = False,
) -> None:
    """Create a schedule, and show its next five times; adding the same one again changes nothing."""
    _check_times(cron, every, tz)
    content = read_one(payload)
    options: dict[str, Any] = {
        "priority": priority,
        "entity": entity,
        "tenant": tenant,
        "max_attempts": max_attempts,
        "duration": duration,
        "timeout": timeout,
    }

    async def go() -> ScheduleStatus:
        async with service() as jobs:
            return await jobs.schedules.add(
                name, job_type, content, cron=cron, every=every, zone=tz, replace=replace, **options
            )

    try:
        added = run(go())
    except AnotherSchedule:
        raise WrongUse(f"there is a different schedule {name!r}: give --replace to replace it") from None
    _tell(added, as_json=as_json)


def _check_times(cron: str | None, every: float | None, tz: str | None) -> None:
    """Refuse invalid times, naming the options; that needs no server."""
    if (cron is None) == (every is None):
        raise WrongUse("give either --cron, such as '0 9 * * 1-5', or --every, such as 30s")
    if cron is not None and cron.strip().lower().removeprefix("@").startswith("every"):
        raise WrongUse(
            f"{cron[:40]!r} is an interval, which --every takes, such as --every 30s or --every 1d; "
            "for a time of day: --cron '0 9 * * *'"
        )
    timetable_of(cron, every, tz)


@app.command("list", epilog=examples("jsjobs schedule list", "jsjobs schedule list --json | jq '.[].next[0]'"))
@with_servers
def list_schedules(*, as_json: Json = False) -> None:
    """List the schedules, and when each fires next."""

    async def go() -> list[ScheduleStatus]:
        async with service() as jobs:
            return await jobs.schedules.list()

    found = run(go())
    if as_json:
        print_json([one.model_dump(mode="json") for one in found])
    elif found:
        display(_table(found))
    else:
        talk("no schedules", style="dim")


@app.command(epilog=examples("jsjobs schedule show nightly", "jsjobs schedule show nightly --json"))
@with_servers
def show(*, name: Name, as_json: Json = False) -> None:
    """Show a schedule: what it submits, and the next five times."""

    async def go() -> ScheduleStatus:
        async with service() as jobs:
            return await jobs.schedules.show(name)

    _tell(run(go()), as_json=as_json)


@app.command(epilog=examples("jsjobs schedule remove nightly"))
@with_servers
def remove(*, name: Name, as_json: Json = False) -> None:
    """Remove a schedule; jobs that it has submitted stay.

    A worker that starts creates the schedules of its code again: pause such a schedule, or change the code.
    """

    async def go() -> str | None:
        async with service() as jobs:
            return await jobs.schedules.remove(name)

    owner = run(go())
    if as_json:
        print_json({"name": name, "removed": True})
        return
    comes_back = f"; a worker of {owner!r} whose code declares it will create it again" if owner else ""
    talk(f"{name}: removed{comes_back}")


@app.command(epilog=examples("jsjobs schedule pause nightly"))
@with_servers
def pause(*, name: Name, as_json: Json = False) -> None:
    """Pause a schedule until you resume it; a worker that starts leaves it paused."""

    async def go() -> ScheduleStatus:
        async with service() as jobs:
            return await jobs.schedules.pause(name)

    _say(run(go()), as_json=as_json)


@app.command(epilog=examples("jsjobs schedule resume nightly"))
@with_servers
def resume(*, name: Name, as_json: Json = False) -> None:
    """Resume a paused schedule; jobs that were due meanwhile are not submitted."""

    async def go() -> ScheduleStatus:
        async with service() as jobs:
            return await jobs.schedules.resume(name)

    _say(run(go()), as_json=as_json)


@app.command("run", epilog=examples("jsjobs schedule run nightly", "jsjobs result $(jsjobs schedule run nightly)"))
@with_servers
def run_now(*, name: Name, as_json: Json = False) -> None:
    """Submit a schedule's job now, paused or not, and print its id; the schedule stays as it is."""

    async def go() -> JobId:
        async with service() as jobs:
            return await jobs.schedules.run(name)

    job_id = run(go())
    print_json({"job_id": job_id}) if as_json else print(job_id)  # noqa: T201 - the id alone, for $(...)


def _say(schedule: ScheduleStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(schedule.model_dump(mode="json"))
    else:
        talk(f"{schedule.name}: {'paused' if schedule.paused else f'next at {local_time(schedule.next[0])}'}")


def _tell(schedule: ScheduleStatus, *, as_json: bool) -> None:
    if as_json:
        print_json(schedule.model_dump(mode="json"))
        return
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    texts = {
        "schedule": schedule.name,
        "fires": _when(schedule),
        "type": schedule.type,
        "priority": schedule.priority,
        "entity": schedule.entity,
        "tenant": schedule.tenant,
        "attempts": "" if schedule.max_attempts is None else str(schedule.max_attempts),
        "duration": schedule.duration or "",
        "timeout": "" if schedule.timeout is None else format_duration(schedule.timeout),
        "declared by": schedule.owner,
        "changed": local_time(schedule.changed_at),
    }
    for fact, text in texts.items():
        if text:
            facts.add_row(fact, plain(text, "bold" if fact == "schedule" else ""))
    display(facts)
    display("\npayload", style="dim")
    print_value(schedule.payload)
    if schedule.paused:
        display("\npaused: it does not fire until it is resumed", style="yellow")
        return
    display()
    display(_coming(schedule))


def _coming(schedule: ScheduleStatus) -> Table:
    """Return the next times, in this machine's time zone and in the schedule's own."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("next, on this machine's clock", no_wrap=True)
    zone = None if schedule.zone is None else ZoneInfo(schedule.zone)
    if zone is not None:
        table.add_column(f"in {schedule.zone}", no_wrap=True)
    for moment in schedule.next:
        clocks = (moment.astimezone(), *(() if zone is None else (moment.astimezone(zone),)))
        table.add_row(*(plain(f"{clock:%a %Y-%m-%d %H:%M:%S %Z}") for clock in clocks))
    return table


def _table(schedules: list[ScheduleStatus]) -> Table:
    """Return a table of the schedules; in a narrow terminal all but the times is folded, and nothing is cut."""
    is_declared = any(one.owner for one in schedules)
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("name", overflow="fold")
    table.add_column("next", no_wrap=True)
    table.add_column("in", no_wrap=True, justify="right")
    for heading in ("fires", "type", *(["declared by"] if is_declared else [])):
        table.add_column(heading, overflow="fold")
    now = utc_now()
    for one in schedules:
        if one.paused:
            coming = (plain("paused", "yellow"), plain(""))
        else:
            left = max(0.0, (one.next[0] - now).total_seconds())
            coming = (plain(local_time(one.next[0])), plain(format_age(left)))
        cells = (_when(one), one.type, *([one.owner or ""] if is_declared else []))
        table.add_row(plain(one.name), *coming, *(plain(cell) for cell in cells))
    return table


def _when(schedule: ScheduleStatus) -> str:
    interval = Timetable.parse(schedule.timetable, schedule.zone).interval
    if interval is not None:
        return f"every {format_duration(interval)}"
    return schedule.timetable if schedule.zone is None else f"{schedule.timetable} {schedule.zone}"
