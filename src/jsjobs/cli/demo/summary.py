"""Print the end of the demo: numbers, what was verified, and what to type next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from jsjobs.cli.demo.checks import Check
from jsjobs.cli.demo.measures import percentile, totals, waits
from jsjobs.cli.demo.screen import Screen
from jsjobs.cli.demo.story import DemoRecord
from jsjobs.cli.output import plain
from jsjobs.model.job import JobStatusResponse, Priority, Status


def summarise(screen: Screen, record: DemoRecord, checks: Sequence[Check]) -> None:
    """Print the numbers and the checks."""
    screen.act("Summary")
    screen.show(_table(record))
    screen.say(
        "milliseconds to the job's start and to its end, retries included, from the server's receipt or from the time"
        " when the job was due",
        style="dim",
    )
    screen.show()
    for check in checks:
        if check.wrong:
            screen.bad(f"NOT TRUE: {check.text}: {check.wrong}")
        else:
            screen.good(check.text)


def next_steps(screen: Screen, app: Path) -> None:
    """Print what a user would type next."""
    screen.act("Next")
    submit = """jsjobs submit file.pack '{"file": "README.md", "packed": "README.gz"}' --wait"""
    for command, why in (
        (f"jsjobs dev {app}:jobs", "the same application, on servers in your folder"),
        (submit, "in another terminal, in the same folder"),
        ("jsjobs top", "waiting and running jobs, live"),
        ("jsjobs dlq list", "the dead jobs"),
    ):
        screen.say(f"# {why}", style="dim")
        screen.line(plain(f"  {command}"))


def _table(record: DemoRecord) -> Table:
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column("jobs", no_wrap=True)
    for name in ("complete", "failed", "start p50", "p99", "end p50", "p99"):
        table.add_column(name, justify="right", no_wrap=True)
    timed = [record.delayed, *record.firings]
    apart = {*record.uploads, *record.quiet, *timed, record.archive, record.replay}
    burst = [entry for job_id, entry in record.entries.items() if job_id not in apart]
    for priority in Priority:
        _row(table, priority, [entry for entry in burst if entry.priority is priority])
    _row(table, "side by side", [record.entries[job_id] for job_id in record.uploads])
    _row(table, "one by one", [record.entries[job_id] for job_id in record.quiet])
    _row(table, "scheduled", [record.entries[job_id] for job_id in timed])
    _row(table, "replay", [record.entries[record.replay]])
    _row(table, "archive", [record.entries[record.archive]])
    return table


def _row(table: Table, name: str, entries: list[JobStatusResponse]) -> None:
    if not entries:
        return
    counts = Counter(entry.status for entry in entries)
    values = (waits(entries), totals(entries))
    times = [f"{percentile(each, percent):,.1f}" for each in values for percent in (50, 99)]
    table.add_row(name, str(counts[Status.COMPLETE]), str(counts[Status.FAILED]), *times)
