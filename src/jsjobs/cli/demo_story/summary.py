"""The end of the demo: numbers, what was verified, and what to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from jsjobs.cli.demo_story.checks import Check
from jsjobs.cli.demo_story.measures import percentile, totals, waits
from jsjobs.cli.demo_story.screen import Screen
from jsjobs.cli.demo_story.story import Told
from jsjobs.cli.output import plain
from jsjobs.model.job import JobStatusResponse, Priority, Status


def summarise(screen: Screen, told: Told, checks: Sequence[Check]) -> None:
    """Print numbers and checks."""
    screen.act("Summary")
    screen.show(_table(told))
    screen.say(
        "in milliseconds, from the server's receipt, or from when it was due, to the job's start and to its end,"
        " retries included",
        style="dim",
    )
    screen.show()
    for check in checks:
        if check.wrong:
            screen.bad(f"NOT SO: {check.text}: {check.wrong}")
        else:
            screen.good(check.text)


def next_steps(screen: Screen, app: Path) -> None:
    """Print what a user would type next."""
    screen.act("Next")
    submit = """jsjobs submit file.pack '{"file": "README.md", "packed": "README.gz"}' --wait"""
    for command, why in (
        (f"jsjobs dev {app}:jobs", "the same app, on servers of your own folder"),
        (submit, "in another terminal, in the same folder"),
        ("jsjobs top", "what waits and what runs, live"),
        ("jsjobs dlq list", "the jobs that could not be saved"),
    ):
        screen.say(f"# {why}", style="dim")
        screen.line(plain(f"  {command}"))


def _table(told: Told) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("jobs", no_wrap=True)
    for name in ("complete", "failed", "start p50", "p99", "end p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    timed = [told.delayed, *told.firings]
    apart = {*told.quiet, *timed, told.archive, told.replay}
    burst = [entry for job_id, entry in told.entries.items() if job_id not in apart]
    for priority in Priority:
        _row(table, priority, [entry for entry in burst if entry.priority is priority])
    _row(table, "one by one", [told.entries[job_id] for job_id in told.quiet])
    _row(table, "in time", [told.entries[job_id] for job_id in timed])
    _row(table, "replay", [told.entries[told.replay]])
    _row(table, "archive", [told.entries[told.archive]])
    return table


def _row(table: Table, name: str, entries: list[JobStatusResponse]) -> None:
    if not entries:
        return
    counts = Counter(entry.status for entry in entries)
    values = (waits(entries), totals(entries))
    times = [f"{percentile(each, percent):,.1f}" for each in values for percent in (50, 99)]
    table.add_row(name, str(counts[Status.COMPLETE]), str(counts[Status.FAILED]), *times)
