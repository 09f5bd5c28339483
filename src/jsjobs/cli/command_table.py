"""The commands of `jsjobs` by name, each imported when it is called: starting one does not pay for all the others."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

_WRONG_USE: type[Exception] = typer.BadParameter.__mro__[1]  # typer has no public name for it
"""What typer raises for arguments that cannot be used."""
_PYDANTIC = {"Value error, ": "", "Input should be": "it must be", ", unable to parse string as an integer": ""}
"""What typer's own types say, which speak of an input, and what we say."""


class Entry(NamedTuple):
    """What the list of commands shows of one, and the module whose `app` has it."""

    module: str
    panel: str
    summary: str


_RUNNING, _JOBS, _OPERATIONS = "Running", "Jobs", "Operations"

# In the order of the help. A test holds each summary equal to the beginning of its command's own help.
COMMANDS = {
    "dev": Entry(
        "dev",
        _RUNNING,
        "Start NATS and Postgres here, and run an application on them; it is loaded again when a file of it changes.",
    ),
    "worker": Entry("serve", _RUNNING, "Run the jobs of an application."),
    "router": Entry(
        "serve",
        _RUNNING,
        "Bring dead letters into the database, without running jobs; any number of routers may run.",
    ),
    "rpc": Entry(
        "serve",
        _RUNNING,
        "Serve the micro service alone; any number of these may run, and every worker serves it too.",
    ),
    "demo": Entry(
        "demo",
        _RUNNING,
        "Show the whole story on real files and real servers, in under a minute; nothing to install, nothing left"
        " behind.",
    ),
    "submit": Entry(
        "submit",
        _JOBS,
        "Queue a job, or one for each line of standard input; those are one batch, see `jsjobs batch`.",
    ),
    "status": Entry("jobs", _JOBS, "Show all that is known of a job."),
    "result": Entry("jobs", _JOBS, "Wait for a job's end and print its result, as JSON."),
    "progress": Entry(
        "jobs",
        _JOBS,
        "Show how far a job is, until it has ended: a bar on a terminal, a line for each update in a pipe.",
    ),
    "batch": Entry(
        "batch",
        _JOBS,
        "Show how far the jobs of a list are: how many have which status; --json tells their ids too.",
    ),
    "cancel": Entry("cancel", _JOBS, "Cancel jobs: one that waits is never run, one that runs is interrupted."),
    "reschedule": Entry(
        "reschedule",
        _JOBS,
        "Move a delayed job that is not due yet to another time, or to now.",
    ),
    "schedule": Entry("schedule", _JOBS, "Jobs that are submitted again and again, by the server."),
    "top": Entry(
        "top",
        _OPERATIONS,
        "Show what happens now: queues, rates, running jobs, letters; until `q` or Ctrl-C.",
    ),
    "queues": Entry(
        "queues",
        _OPERATIONS,
        "Show what waits and runs, by priority and shard: how much, since when, and what is paused.",
    ),
    "pause": Entry(
        "queues",
        _OPERATIONS,
        "Let no further job of a priority start, retries included; what runs goes on, and ends as always.",
    ),
    "resume": Entry("queues", _OPERATIONS, "Let jobs of a priority start again, whoever paused it."),
    "bench": Entry(
        "bench",
        _OPERATIONS,
        "Measure your servers: how fast jobs are queued, drained by a worker in this process, and run one at a time.",
    ),
    "doctor": Entry(
        "doctor",
        _OPERATIONS,
        "Look at the servers, streams, shards and the database, and say what is wrong and what to do about it.",
    ),
    "dlq": Entry("dlq", _OPERATIONS, "The jobs that died: the dead letters."),
    "streams": Entry("streams", _OPERATIONS, "The streams and consumers on the server."),
    "db": Entry("database", _OPERATIONS, "The dead-letter table's database."),
}


class CommandTable(TyperGroup):
    """The group of all commands: what it lists are stand-ins; the one that is called is imported."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.summary, rich_help_panel=entry.panel), name)

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Read the options that stand before a command."""
        with _shown_safely():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given, or complain of how it was given."""
        with _shown_safely():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that the arguments begin with, for running it or for completing its words."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found if name is None or found is None else imported(name), rest

    def each_command(self) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
        """Every command itself, all of them imported, with its name."""
        return ((name, imported(name)) for name in COMMANDS)


@contextmanager
def _shown_safely() -> Iterator[None]:
    """Let what typer complains of be repeated as text: nothing in it reaches the terminal as a command."""
    try:
        yield
    except _WRONG_USE as error:
        for name, value in vars(error).items():
            if isinstance(value, str):
                for theirs, ours in _PYDANTIC.items():
                    value = value.replace(theirs, ours)  # noqa: PLW2901 - shown in the next line
                shown = (char if char.isprintable() or char == "\n" else ascii(char)[1:-1] for char in value)
                setattr(error, name, "".join(shown))
        raise


def imported(name: str) -> TyperCommand | TyperGroup:
    """Import a command.

    Args:
        name: One of `COMMANDS`.
    """
    gc.disable()  # imports make few cycles, and looking for them takes a twentieth of the time
    try:
        own: typer.Typer = importlib.import_module(f"jsjobs.cli.{COMMANDS[name].module}").app
    finally:
        gc.enable()
    group = typer.main.get_group(own)
    found: Any = group if own.info.help else group.commands[name]  # those with a help of their own have commands below
    found.name = name
    return found  # type: ignore[no-any-return]
