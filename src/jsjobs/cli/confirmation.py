"""Ask before a command changes more than one thing."""

import sys
from typing import Annotated

import typer

from jsjobs.cli.errors import WrongUse
from jsjobs.cli.exit_codes import FAILED
from jsjobs.cli.output import prompt, talk

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]


def ask_first(what: str, *, yes: bool, named: bool = False) -> None:
    """Ask at a terminal whether to go on.

    Args:
        what: What would be done, and to how many things, such as `discard 12 letters`.
        yes: Whether `--yes` was given; then nobody is asked.
        named: Whether each thing was named; then nobody needs to be asked where there is no terminal.

    Raises:
        WrongUse: If there is no terminal, and the command found the things itself.
        typer.Exit: If the answer is not yes.
    """
    if yes:
        return
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        if named:
            return
        raise WrongUse(f"this would {what}: give --yes, since there is no terminal to ask on; nothing was changed")
    prompt(f"{what}? [y/N] ")
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        talk("nothing was changed")
        raise typer.Exit(FAILED)
