"""The commands of `jsjobs` by name. Each is imported when it is called, so that no command pays for all others."""

from __future__ import annotations

import gc
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import typer
from typer.core import TyperCommand, TyperGroup

_WRONG_USE: type[Exception] = typer.BadParameter.__mro__[1]  # typer has no public name for it
"""The exception that typer raises for invalid arguments."""
_PYDANTIC = {"Value error, ": "", "Input should be": "it must be", ", unable to parse string as an integer": ""}
"""Phrases in the messages of typer's own types, which speak of an input, and what replaces them."""


class Entry(NamedTuple):
    """An entry in the list of commands: what the list shows, and the module whose `app` has the command."""

    module: str
    panel: str
    summary: str


_RUNNING, _JOBS, _OPERATIONS = "Running", "Jobs", "Operations"

# In the order of the help. A test holds each summary equal to the beginning of its command's own help.
COMMANDS = {
    "dev": Entry(
        "dev.command",
        _RUNNING,
        "Start NATS and Postgres in this folder, run an application on them, and reload it when its files change.",
    ),
    "worker": Entry("run.commands", _RUNNING, "Run an application's jobs."),
    "router": Entry(
        "run.commands",
        _RUNNING,
        "Store dead letters in Postgres, without running jobs; you can run several routers.",
    ),
    "rpc": Entry(
        "run.commands",
        _RUNNING,
        "Serve the micro service without running jobs; you can run several, and every worker serves it too.",
    ),
    "demo": Entry(
        "demo.command",
        _RUNNING,
        "Show jsjobs at work on real files and servers, in under a minute; needs no setup, leaves nothing behind.",
    ),
    "submit": Entry(
        "commands.submit",
        _JOBS,
        "Submit a job, or a batch with one job for each line of standard input.",
    ),
    "status": Entry("commands.jobs", _JOBS, "Show everything that is known about a job."),
    "result": Entry("commands.jobs", _JOBS, "Wait for a job to end, and print its result as JSON."),
    "progress": Entry(
        "commands.jobs",
        _JOBS,
        "Follow a job's progress until it ends: a bar on a terminal, a line for each update in a pipe.",
    ),
    "batch": Entry(
        "commands.batch",
        _JOBS,
        "Show how many jobs of a batch have which status; --json lists their ids too.",
    ),
    "cancel": Entry("commands.cancel", _JOBS, "Cancel jobs: a waiting one never runs, a running one is interrupted."),
    "reschedule": Entry(
        "commands.reschedule",
        _JOBS,
        "Move a delayed job that is not due yet to another time, or run it now.",
    ),
    "schedule": Entry(
        "commands.schedule", _JOBS, "Manage schedules, by which the server submits jobs again and again."
    ),
    "top": Entry(
        "top.command",
        _OPERATIONS,
        "Show queues, rates, running jobs and dead letters live, until you press `q` or Ctrl-C.",
    ),
    "queues": Entry(
        "commands.queues",
        _OPERATIONS,
        "Show how many jobs wait and run, by priority, shard and partition; what holds a shard, and what is paused.",
    ),
    "pause": Entry(
        "commands.queues",
        _OPERATIONS,
        "Pause a priority: no further job starts, retries included; running jobs end as usual.",
    ),
    "resume": Entry("commands.queues", _OPERATIONS, "Resume a priority, whoever paused it."),
    "bench": Entry(
        "commands.bench",
        _OPERATIONS,
        "Measure your servers: how fast jobs are queued, drained by a worker in this process, and run one at a time.",
    ),
    "doctor": Entry(
        "commands.doctor",
        _OPERATIONS,
        "Check the servers, streams, shards and the database, and say what is wrong and how to fix it.",
    ),
    "dlq": Entry("dlq.commands", _OPERATIONS, "Manage dead letters: the jobs that failed for good."),
    "streams": Entry("commands.streams", _OPERATIONS, "Plan, apply and show the streams and consumers on the server."),
    "db": Entry("commands.database", _OPERATIONS, "Set up the database of the dead letters."),
}


class CommandTable(TyperGroup):
    """The group of all commands. It lists stand-ins, and imports only the command that is called."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.help = _filled(self.help)
        for name, entry in COMMANDS.items():
            self.add_command(TyperCommand(name, help=entry.summary, rich_help_panel=entry.panel), name)

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Read the options that stand before a command."""
        with _shown_safely():
            return super().make_context(*given, **more)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was given, or report how it was given wrongly."""
        with _shown_safely():
            return super().invoke(ctx)

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        """Find the command that the arguments begin with, for running it or for completing its words."""
        name, found, rest = super().resolve_command(ctx, args)
        return name, found if name is None or found is None else imported(name), rest

    def each_command(self) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
        """Import every command, and yield each with its name."""
        return ((name, imported(name)) for name in COMMANDS)


@contextmanager
def _shown_safely() -> Iterator[None]:
    """Escape what typer's errors repeat, so that nothing in it reaches the terminal as a control sequence."""
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


def _filled(text: str | None) -> str:
    """Join the lines of each paragraph of a help text: typer would break them where the source code does."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in (text or "").split("\n\n"))


def imported(name: str) -> TyperCommand | TyperGroup:
    """Import a command.

    Args:
        name: A name in `COMMANDS`.
    """
    gc.disable()  # imports make few cycles, and looking for those takes a twentieth of the time
    try:
        own: typer.Typer = importlib.import_module(f"jsjobs.cli.{COMMANDS[name].module}").app
    finally:
        gc.enable()
    group = typer.main.get_group(own)
    found: Any = group if own.info.help else group.commands[name]  # those with a help of their own have commands below
    found.name = name
    for command in (found, *getattr(found, "commands", {}).values()):
        command.help = _filled(command.help)
    return found  # type: ignore[no-any-return]
