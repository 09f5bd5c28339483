"""Asking before a command changes more than one thing."""

import sys
from typing import Annotated

import typer

from jsjobs.cli.exit_codes import FAILED
from jsjobs.cli.output import prompt, talk
from jsjobs.cli.problems import WrongUse

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask, for scripts.")]


def ask_first(what: str, *, yes: bool, named: bool = False) -> None:
    """Ask at a terminal whether to go on.

    Args:
        what: What would be done, and to how many, such as `discard 12 letters`.
        yes: Whether `--yes` was given: then nobody is asked.
        named: Whether each thing was named: then nobody needs to be asked where there is no terminal.

    Raises:
        WrongUse: Without a terminal, where the command found the things itself.
        typer.Exit: If the answer is not yes.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        if named:
            return
        raise WrongUse(f"this would {what}: without a terminal to ask at, it needs --yes; nothing was changed")
    prompt(f"{what}? [y/N] ")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        talk("nothing was changed")
        raise typer.Exit(FAILED)
