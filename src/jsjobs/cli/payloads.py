"""Reading the payloads of `jsjobs submit`: from the command line, a file, or JSON lines on standard input."""

import sys
from pathlib import Path
from typing import Any

from jsjobs.cli.problems import WrongUse
from jsjobs.jetstream.wire import parse_json
from jsjobs.model.errors import JobError

_MAX_PROBLEMS = 20
_BOM = b"\xef\xbb\xbf"


def read_one(argument: str) -> Any:
    """One payload: the argument itself, or the content of the file that `@` stands before.

    Raises:
        WrongUse: If the file cannot be read, or it is not JSON.
    """
    if argument.startswith("@"):
        file = Path(argument[1:])
        try:
            raw = file.read_bytes().removeprefix(_BOM)
        except OSError as error:
            raise WrongUse(f"the payload cannot be read from {file}: {error.strerror}") from None
        return _parsed(raw, f"the content of {file}")
    try:
        return _parsed(argument.encode("utf-8", "surrogateescape"), "the payload")
    except WrongUse as error:
        problem = str(error).replace("at line 1 column", "at column")
        raise WrongUse(f"{problem}\n{_how_to_quote(argument)}") from None


def read_lines() -> list[Any]:
    """The payloads on standard input, one JSON text on each line; blank lines count for nothing.

    Raises:
        WrongUse: Listing every line that is not JSON, by its number.
    """
    payloads, wrong = [], []
    for number, line in enumerate(sys.stdin.buffer.read().removeprefix(_BOM).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            payloads.append(_parsed(line.strip(), f"line {number}"))
        except WrongUse as error:
            wrong.append(str(error).replace("at line 1 column", "at column"))
    if wrong:
        more = f"\nand {len(wrong) - _MAX_PROBLEMS} more" if len(wrong) > _MAX_PROBLEMS else ""
        raise WrongUse("\n".join(["nothing was queued:", *wrong[:_MAX_PROBLEMS]]) + more)
    return payloads


def _parsed(raw: bytes, what: str) -> Any:
    try:
        return parse_json(raw, what)
    except JobError as error:
        raise WrongUse(error.message) from None


def _how_to_quote(argument: str) -> str:
    text = argument if argument.isalnum() else "hello"
    return (
        f"""a text needs double quotes, inside single ones for the shell: '"{text}"'; an object: '{{"n": 1}}'; """
        "nothing: null; a file: @payload.json"
    )
