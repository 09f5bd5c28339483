"""Printing: data on standard output, talk on standard error, colours only on a terminal.

Talk is lost where nobody reads it any more: a reader that has gone ends no work.
"""

import json
import re
import sys
from contextlib import suppress
from datetime import datetime
from typing import Any

from rich.console import Console, RenderableType
from rich.text import Text

from jsjobs.cli.standard_streams import NOBODY_READS

_spoken = False
_NO_EDGE = 1_000_000
"""Columns that no row fills: rich wants a width, and a pipe has none."""
# Characters that a terminal obeys instead of showing, or that turn the direction of writing; and halves of characters,
# which no encoding can write.
_HOSTILE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def has_spoken() -> bool:
    """Whether anything was shown since `begin_silence`."""
    return _spoken


def begin_silence() -> None:
    """Count as silent until something is shown."""
    global _spoken  # noqa: PLW0603 - a process has one terminal
    _spoken = False


def end_silence() -> None:
    """Count as heard: something is shown, or is about to be."""
    global _spoken  # noqa: PLW0603 - as above
    _spoken = True


def screen() -> Console:
    """The terminal on standard output."""
    return Console(highlight=False, soft_wrap=False)


def display(what: RenderableType = "", *, style: str = "", soft_wrap: bool = False) -> None:
    """Print text or a table: as wide as the terminal; in a pipe every row whole, on one line.

    Args:
        what: A text, or a table or such of rich.
        style: Of a text.
        soft_wrap: Whether a terminal breaks the lines, and not rich.
    """
    end_silence()
    if sys.stdout.isatty():
        screen().print(what, style=style, soft_wrap=soft_wrap)
        return
    console = Console(width=_NO_EDGE, highlight=False)
    with console.capture() as printed:
        console.print(what, style=style, soft_wrap=soft_wrap)
    # Not printed by the console itself: where the reader has gone, it would end the process from within a task.
    sys.stdout.writelines(line.rstrip() + "\n" for line in printed.get().removesuffix("\n").split("\n"))
    sys.stdout.flush()


def on_terminal(width: int) -> int | None:
    """The most that a column takes on a terminal, where others need room too; in a pipe it has no bound."""
    return width if sys.stdout.isatty() else None


def talk(text: str, *, style: str = "") -> None:
    """Say something to the person at the terminal, beside the data."""
    _say(plain(text, style))


def prompt(text: str) -> None:
    """Say what is asked, and stay on the line."""
    _say(plain(text, "bold"), end="")


def complain(text: str) -> None:
    """Say what went wrong."""
    _say(Text.assemble(("error: ", "bold red"), plain(text)))


def _say(text: Text, end: str = "\n") -> None:
    end_silence()
    with suppress(*NOBODY_READS):
        _Talk(stderr=True, highlight=False, soft_wrap=True).print(text, end=end)


class _Talk(Console):
    def on_broken_pipe(self) -> None:
        """Where rich would end the process."""


def plain(text: object, style: str = "") -> Text:
    """A text as it is: no markup in it counts, and nothing in it reaches the terminal as a command."""
    return Text(_HOSTILE.sub(_escaped, str(text)), style=style)


def print_json(value: Any) -> None:
    """Print one JSON value on a line of its own, for programs."""
    end_silence()
    # Flushed, since a reader waits for each line of a stream.
    print(dumps(value), flush=True)  # noqa: T201 - this is what prints


def print_value(value: Any) -> None:
    """Print one JSON value for people: indented and coloured on a terminal, else as for programs."""
    if sys.stdout.isatty():
        screen().print_json(dumps(value), ensure_ascii=not _writes_unicode())
    else:
        print_json(value)


def dumps(value: Any) -> str:
    """JSON in one line, readable in every script and safe to show on a terminal."""
    return _HOSTILE.sub(_escaped, json.dumps(value, ensure_ascii=not _writes_unicode(), default=str))


def _writes_unicode() -> bool:
    return (sys.stdout.encoding or "utf-8").lower().startswith("utf")  # a text in memory has none


def local_time(moment: datetime | None) -> str:
    """A moment on the clock of the person who reads it."""
    if moment is None:
        return ""
    with suppress(OverflowError, ValueError):
        moment = moment.astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
