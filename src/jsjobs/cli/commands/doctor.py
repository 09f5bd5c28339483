"""`jsjobs doctor`: print what is wrong with the servers, the worst first, each finding with its remedy below it."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import typer
from rich.table import Table
from rich.text import Text

from jsjobs.cli.command_table import CommandTable
from jsjobs.cli.exit_codes import FAILED
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import display, plain, print_json, talk
from jsjobs.cli.runtime import run, settings
from jsjobs.doctor import Finding, Severity, examine

_STYLES = {
    Severity.PROBLEM: "bold red",
    Severity.WARNING: "yellow",
    Severity.NOTE: "cyan",
    Severity.OK: "green",
}
app = typer.Typer()
_EXAMPLES = examples("jsjobs doctor", "jsjobs doctor --json | jq '.findings[] | select(.severity == \"problem\")'")
_COUNTED = (Severity.PROBLEM, Severity.WARNING, Severity.NOTE)


def print_findings(findings: Sequence[Finding], namespace: str) -> None:
    """Print the findings, and a summary of how severe they are."""
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for severity, style in _STYLES.items():
        for finding in findings:
            if finding.severity is severity:
                table.add_row(Text(severity, style), _text(finding))
    display(table)
    counts = [_counted(findings, severity) for severity in (Severity.PROBLEM, Severity.WARNING)]
    talk(f"namespace {namespace}: {' and '.join(counts)}", style="dim")


def _text(finding: Finding) -> Text:
    parts = [plain(f"{finding.where}: ", "bold")] if finding.where else []
    parts.append(plain(finding.what))
    if finding.remedy:
        parts.append(plain(f"\n→ {finding.remedy}", "dim"))
    return Text.assemble(*parts)


def _counted(findings: Sequence[Finding], severity: Severity) -> str:
    count = sum(finding.severity is severity for finding in findings)
    return f"{count or 'no'} {severity}{'' if count == 1 else 's'}"


@app.command(epilog=_EXAMPLES)
@with_servers
def doctor(*, context: typer.Context, as_json: Json = False) -> None:
    """Check the servers, streams, shards and the database, and say what is wrong and how to fix it.

    It changes nothing. Exit code 0: no problem was found, though there may be warnings; 1: a problem was found.
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


def _variables(command: Any) -> Iterator[str]:
    """Yield the environment variables that a command and its subcommands read."""
    for parameter in command.params:
        named = parameter.envvar
        yield from [named] if isinstance(named, str) else named or ()
    below = command.each_command() if isinstance(command, CommandTable) else getattr(command, "commands", {}).items()
    for _, one in below:
        yield from _variables(one)
