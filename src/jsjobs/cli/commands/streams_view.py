"""Draw the steps, streams and shards of `jsjobs streams`."""

from collections.abc import Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

from jsjobs.cli.output import display, dumps, plain, print_json, talk
from jsjobs.jetstream.topology.plan import Action, Step

_STYLES = {
    Action.CREATE: "green",
    Action.UPDATE: "yellow",
    Action.REPLACE: "yellow",
    Action.DELETE: "red",
    Action.REFUSE: "bold red",
    Action.KEEP: "dim",
}


def print_steps(steps: Sequence[Step], *, as_json: bool) -> None:
    """Print the steps that are planned, or that were taken."""
    if as_json:
        print_json([_as_data(step) for step in steps])
        return
    changed = [step for step in steps if step.action is not Action.KEEP]
    if changed:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for heading in ("step", "what", "name", "changes"):
            table.add_column(heading, overflow="fold", no_wrap=heading != "changes")
        for step in changed:
            table.add_row(Text(step.action, _STYLES[step.action]), plain(step.kind), plain(step.name), _changes(step))
        display(table)
    as_it_is = [step for step in steps if step.action is Action.KEEP and step.reason]
    for step in as_it_is:
        talk(f"{step.name}: {step.reason}", style="yellow")
    kept = len(steps) - len(changed) - len(as_it_is)
    if kept:
        talk(f"{kept} of {len(steps)} are up to date", style="dim")


def _changes(step: Step) -> Text:
    lines = [plain(step.reason)] if step.reason else []
    lines += [plain(f"{name}: {dumps(old)} → {dumps(new)}") for name, (old, new) in step.changes.items()]
    return Text("\n").join(lines)


def _as_data(step: Step) -> dict[str, Any]:
    changes = {name: {"from": old, "to": new} for name, (old, new) in step.changes.items()}
    return {"action": step.action, "kind": step.kind, "name": step.name, "changes": changes, "reason": step.reason}


def table_of(rows: Sequence[dict[str, Any]]) -> Table:
    """Return rows with the same keys as a table."""
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if name == "name" else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(plain(_shown(value)) for value in row.values()))
    return table


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
