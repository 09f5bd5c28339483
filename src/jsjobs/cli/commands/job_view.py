"""Draw jobs on a terminal."""

from rich.table import Table
from rich.text import Text

from jsjobs.cli.durations import format_duration
from jsjobs.cli.errors import Failed
from jsjobs.cli.output import display, local_time, plain, print_value
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, ProgressUpdate, Status

_STYLES = {
    Status.QUEUED: "cyan",
    Status.PROCESSING: "yellow",
    Status.COMPLETE: "green",
    Status.FAILED: "bold red",
    Status.CANCELLED: "magenta",
}
_BAR = 20


def print_status(status: JobStatusResponse) -> None:
    """Print a job: its description, its outcome, and its history."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    for name, value in _facts(status):
        facts.add_row(name, value)
    display(facts)
    if status.history:
        display()
        display(_history(status))
    if status.status is Status.COMPLETE:
        display("\nresult", style="dim")
        print_value(status.result)


def _facts(status: JobStatusResponse) -> list[tuple[str, Text]]:
    took = None
    if status.completed_at is not None and status.created_at is not None:
        took = format_duration(max((status.completed_at - status.created_at).total_seconds(), 0))
    texts = {
        "type": status.type,
        "priority": status.priority,
        "entity": status.entity,
        "tenant": status.tenant,
        "batch": status.batch_id,
        "attempts": f"{status.attempts} of {status.max_attempts}",
        "created": local_time(status.created_at),
        "scheduled for": local_time(status.scheduled_for),
        "next attempt": local_time(status.next_attempt_at),
        "ended": f"{local_time(status.completed_at)} (after {took})" if took else "",
        "worker": status.worker,
        "reason": status.error_reason,
        "last error": status.last_error,
    }
    facts = [("job", plain(status.job_id, "bold")), ("status", status_text(status.status))]
    return facts + [(name, plain(text)) for name, text in texts.items() if text]


def _history(status: JobStatusResponse) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("time", no_wrap=True)
    table.add_column("status", no_wrap=True)
    table.add_column("attempt", justify="right")
    table.add_column("error", overflow="fold")
    for item in status.history:
        attempt = str(item.attempt) if item.attempt else ""
        row = (plain(local_time(item.timestamp)), status_text(item.status), plain(attempt), plain(item.error or ""))
        table.add_row(*row)
    if status.history_dropped:
        failures = f", {status.errors_dropped} of them failures" if status.errors_dropped else ""
        table.caption = f"{status.history_dropped} more in between were left out{failures}"
    return table


def status_text(status: Status) -> Text:
    """Return a status in its colour."""
    return Text(status, style=_STYLES[status])


def change_line(status: JobStatusResponse, outcome: str) -> Text:
    """Return one line about the job as it is now."""
    attempt = f"attempt {status.attempts}" if status.attempts else ""
    when = local_time(status.history[-1].timestamp if status.history else status.created_at)
    words = [plain(when, "dim"), plain(status.job_id), status_text(status.status), plain(attempt, "dim")]
    return Text("  ").join([*(word for word in words if word), plain(outcome.replace("\n", " "))])


def progress_line(update: ProgressUpdate) -> Text:
    """Return one line about how far a job is."""
    filled = round(min(max(update.pct, 0), 100) / 100 * _BAR)
    bar = Text.assemble(("━" * filled, "green"), ("─" * (_BAR - filled), "dim"))
    percent = f"{update.pct:3.0f}%" if update.pct == round(update.pct) else f"{update.pct:5.1f}%"
    words = [plain(local_time(update.timestamp), "dim"), bar, plain(percent), plain(update.message or "")]
    return Text("  ").join(words)


def failed_as(error: JobError) -> Failed:
    """Return the error of a command whose job failed; even a job's own Validation is no wrong use of the command."""
    return Failed(str(error))
