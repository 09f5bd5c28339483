"""`jsjobs doctor`: what is wrong with the servers, and what to do about it."""

import os
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import typer

from jsjobs.cli.command_table import CommandTable
from jsjobs.cli.connect import run, settings
from jsjobs.cli.doctor_view import print_findings
from jsjobs.cli.exit_codes import FAILED
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import print_json
from jsjobs.doctor import Severity, examine

app = typer.Typer()
_EXAMPLES = examples("jsjobs doctor", "jsjobs doctor --json | jq '.findings[] | select(.severity == \"problem\")'")


@app.command(epilog=_EXAMPLES)
@with_servers
def doctor(*, context: typer.Context, as_json: Json = False) -> None:
    """Look at the servers, streams, shards and the database, and say what is wrong and what to do about it.

    It changes nothing. Exit code 0: no problem was found, though there may be warnings; 1: there is one.
    """
    config = settings()
    found = run(examine(config, environ=os.environ, known_variables=set(_variables(context.find_root().command))))
    if as_json:
        counts = {f"{severity}s": sum(one.severity is severity for one in found) for severity in _COUNTED}
        print_json({"namespace": config.namespace, **counts, "findings": [asdict(one) for one in found]})
    else:
        print_findings(found, config.namespace)
    if any(one.severity is Severity.PROBLEM for one in found):
        raise typer.Exit(FAILED)


_COUNTED = (Severity.PROBLEM, Severity.WARNING, Severity.NOTE)


def _variables(command: Any) -> Iterator[str]:
    """The environment variables that a command and all below it read."""
    for parameter in command.params:
        named = parameter.envvar
        yield from [named] if isinstance(named, str) else named or ()
    below = command.each_command() if isinstance(command, CommandTable) else getattr(command, "commands", {}).items()
    for _, one in below:
        yield from _variables(one)
