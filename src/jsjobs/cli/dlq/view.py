"""Draw dead letters on a terminal."""

import json
import sys
from collections.abc import Sequence
from datetime import datetime

from rich.table import Table
from rich.text import Text

from jsjobs.cli.durations import format_age
from jsjobs.cli.output import display, local_time, on_terminal, plain
from jsjobs.cli.tables import cropped
from jsjobs.model.job import utc_now
from jsjobs.model.trace import trace_id
from jsjobs.postgres.letter import DeadLetter, LetterHeading

_SHORT_ID = 8
_MAX_SHOWN = 20_000


def print_letters(letters: Sequence[LetterHeading], *, with_decisions: bool = False) -> None:
    """Print one line for each letter, with the decision on it where decided letters are among them."""
    now, is_terminal = utc_now(), sys.stdout.isatty()
    # On a terminal the last column takes the room that the others leave, nothing wraps, and ids are never cut.
    table = Table(box=None, pad_edge=False, header_style="dim", expand=is_terminal)
    table.add_column("id", no_wrap=True, min_width=_SHORT_ID)
    table.add_column("died", no_wrap=True)
    for heading in ("type", "tenant"):
        table.add_column(heading, max_width=on_terminal(24))
    table.add_column("reason", no_wrap=True, style="red")
    table.add_column(cropped(Text("last error")), min_width=12, ratio=1)
    if with_decisions:
        table.add_column("decision", no_wrap=True)
    for letter in letters:
        age = f"{format_age(max((now - letter.dead_at).total_seconds(), 0))} ago"
        cells = [letter.type, letter.app_id, letter.error_reason, letter.last_error.replace("\n", " ")]
        if with_decisions:
            cells.append(_short_decision(letter))
        identity = plain(str(letter.id)[: on_terminal(_SHORT_ID)], _style(letter))
        table.add_row(identity, plain(age), *(cropped(plain(cell)) for cell in cells))
    display(table)


def _style(letter: LetterHeading) -> str:
    return "bold" if _decision(letter) == "open" else "dim"


def print_letter(letter: DeadLetter) -> None:
    """Print everything that is known of a letter."""
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column(overflow="fold")
    texts = {
        "letter": str(letter.id),
        "job": letter.original_job_id,
        "type": letter.type,
        "priority": letter.priority,
        "entity": letter.entity,
        "tenant": letter.app_id,
        "batch": letter.batch_id,
        "created": local_time(letter.created_at),
        "died": local_time(letter.dead_at),
        "reason": letter.error_reason,
        "attempts": str(letter.attempts),
        "trace": trace_id(letter.traceparent),
        "decision": _decision(letter),
        "edited": letter.edited_at and f"{local_time(letter.edited_at)}; the payload as it was published: --json",
    }
    for name, text in texts.items():
        if text:
            facts.add_row(name, plain(text, "red" if name == "reason" else ""))
    display(facts)
    if letter.error_history:
        display("\nerrors", style="dim")
        display(_errors(letter))
    if letter.errors_dropped:
        display(f"{letter.errors_dropped:,} more are left out: their texts had no room", style="dim")
    if letter.headers:
        display("\nheaders", style="dim")
        for name, value in letter.headers:
            display(plain(f"{name}: {value}"), soft_wrap=True)
    display("\npayload", style="dim")
    display(plain(_payload(letter)), soft_wrap=True)


def _decision(letter: DeadLetter | LetterHeading) -> str:
    decisions = []
    if letter.replayed_at is not None:
        decisions.append(f"replayed at {local_time(letter.replayed_at)} as job {letter.replayed_job_id}")
    if letter.discarded_at is not None:
        decisions.append(f"discarded at {local_time(letter.discarded_at)}")
    if decisions:
        return ", then ".join(decisions)
    if letter.replayed_job_id is not None:
        return f"its replay as job {letter.replayed_job_id} is not finished: replay it again"
    return "open"


def _short_decision(letter: LetterHeading) -> str:
    if letter.discarded_at is not None:
        return "discarded"
    return "replayed" if letter.replayed_at is not None else "open"


def _errors(letter: DeadLetter) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("attempt", justify="right")
    table.add_column("time", no_wrap=True)
    table.add_column("error", overflow="fold")
    for item in letter.error_history:
        table.add_row(str(item["attempt"]), plain(_local(item["timestamp"])), plain(item["error"]))
    return table


def _local(timestamp: str) -> str:
    try:
        return local_time(datetime.fromisoformat(timestamp))
    except ValueError:
        return timestamp  # a letter may hold anything


def _payload(letter: DeadLetter) -> str:
    if letter.payload_json is not None:
        text = json.dumps(letter.payload_json, ensure_ascii=False, indent=2)
    else:
        text = letter.payload.decode("utf-8", "backslashreplace")
    more = f"\n… {len(text) - _MAX_SHOWN:,} more characters; --json has all" if len(text) > _MAX_SHOWN else ""
    return text[:_MAX_SHOWN] + more
