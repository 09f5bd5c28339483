"""Print data on standard output and messages on standard error, with colours only on a terminal.

A message that nobody reads any more is lost: a reader that has gone does not end the work.
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
"""A width in columns that no row fills: rich needs one, and a pipe has none."""
# Characters that a terminal obeys instead of showing, or that change the writing direction; and halves of surrogate
# pairs, which no encoding can write.
_HOSTILE = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def has_spoken() -> bool:
    """Return whether anything was shown since `begin_silence`."""
    return _spoken


def begin_silence() -> None:
    """Count as silent until something is shown."""
    global _spoken  # noqa: PLW0603 - a process has one terminal
    _spoken = False


def end_silence() -> None:
    """Count as no longer silent: something is shown, or is about to be."""
    global _spoken  # noqa: PLW0603 - as above
    _spoken = True


def screen() -> Console:
    """Return a console for the terminal on standard output."""
    return Console(highlight=False, soft_wrap=False)


def display(what: RenderableType = "", *, style: str = "", soft_wrap: bool = False) -> None:
    """Print text or a table as wide as the terminal; in a pipe, print every row whole, on one line.

    Args:
        what: A text, or a table or another renderable of rich.
        style: The style of a text.
        soft_wrap: Whether the terminal breaks the lines, instead of rich.
    """
    end_silence()
    if sys.stdout.isatty():
        screen().print(what, style=style, soft_wrap=soft_wrap)
        return
    console = Console(width=_NO_EDGE, highlight=False)
    with console.capture() as printed:
        console.print(what, style=style, soft_wrap=soft_wrap)
    # The console does not print this itself: if the reader has gone, it would end the process from within a task.
    sys.stdout.writelines(line.rstrip() + "\n" for line in printed.get().removesuffix("\n").split("\n"))
    sys.stdout.flush()


def on_terminal(width: int) -> int | None:
    """Return the given column width on a terminal, where other columns need room too; in a pipe, None: no limit."""
    return width if sys.stdout.isatty() else None


def talk(text: str, *, style: str = "") -> None:
    """Print a message for the person at the terminal, beside the data."""
    _say(plain(text, style))


def prompt(text: str) -> None:
    """Print a question, and stay on its line."""
    _say(plain(text, "bold"), end="")


def complain(text: str) -> None:
    """Print an error message."""
    _say(Text.assemble(("error: ", "bold red"), plain(text)))


def _say(text: Text, end: str = "\n") -> None:
    end_silence()
    with suppress(*NOBODY_READS):
        _Talk(stderr=True, highlight=False, soft_wrap=True).print(text, end=end)


class _Talk(Console):
    def on_broken_pipe(self) -> None:
        """Do nothing, where rich would end the process."""


def plain(text: object, style: str = "") -> Text:
    """Return a text as it is: without markup, and with everything escaped that a terminal would obey."""
    return Text(_HOSTILE.sub(_escaped, str(text)), style=style)


def print_json(value: Any) -> None:
    """Print one JSON value on a line of its own, for programs."""
    end_silence()
    # It is flushed, since a reader may wait for each line of a stream.
    print(dumps(value), flush=True)  # noqa: T201 - this is what prints


def print_value(value: Any) -> None:
    """Print one JSON value for people: indented and coloured on a terminal, otherwise as for programs."""
    if sys.stdout.isatty():
        screen().print_json(dumps(value), ensure_ascii=not _writes_unicode())
    else:
        print_json(value)


def dumps(value: Any) -> str:
    """Return a value as JSON on one line, readable in every script and safe to show on a terminal."""
    return _HOSTILE.sub(_escaped, json.dumps(value, ensure_ascii=not _writes_unicode(), default=str))


def _writes_unicode() -> bool:
    return (sys.stdout.encoding or "utf-8").lower().startswith("utf")  # a text in memory has none


def local_time(moment: datetime | None) -> str:
    """Format a moment in the time zone of the reader."""
    if moment is None:
        return ""
    with suppress(OverflowError, ValueError):
        moment = moment.astimezone()
    return moment.strftime("%Y-%m-%d %H:%M:%S")


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"
