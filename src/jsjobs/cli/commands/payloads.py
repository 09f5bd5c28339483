"""Read the payloads of `jsjobs submit`: from the command line, a file, or JSON lines on standard input."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsjobs.cli.errors import WrongUse
from jsjobs.jetstream.jobs.queue import MAX_MESSAGE
from jsjobs.jetstream.protocol.headers import check_sizes, encode_json, parse_json
from jsjobs.model.errors import JobError

_BOM = b"\xef\xbb\xbf"


def read_one(argument: str) -> Any:
    """Read one payload: the argument itself, or the content of the file whose name follows `@`.

    Raises:
        WrongUse: If the file cannot be read, or the payload is not JSON.
    """
    return _read(argument)[1]


def read_raw(argument: str) -> bytes:
    """Read one payload as `read_one` does, byte for byte without the white space around it; `-` is standard input.

    Raises:
        WrongUse: See `read_one`.
    """
    if argument != "-":
        return _read(argument)[0].strip()
    raw = sys.stdin.buffer.read().removeprefix(_BOM)
    _parsed(raw, "the payload on standard input")
    return raw.strip()


def _read(argument: str) -> tuple[bytes, Any]:
    """Return a payload as it was given, and its value; it is read only once, since it may come from a pipe."""
    if argument.startswith("@"):
        file = Path(argument[1:])
        try:
            raw = file.read_bytes().removeprefix(_BOM)
        except OSError as error:
            raise WrongUse(f"the payload cannot be read from {file}: {error.strerror}") from None
        return raw, _parsed(raw, f"the content of {file}")
    raw = argument.strip().encode("utf-8", "surrogateescape")
    try:
        return raw, _parsed(raw, "the payload")
    except WrongUse as error:
        problem = str(error).replace("at line 1 column", "at column")
        raise WrongUse(f"{problem}\n{_how_to_quote(argument)}") from None


@dataclass(frozen=True, slots=True)
class Lines:
    """The payloads on standard input, and the line number of each."""

    payloads: list[Any]
    numbers: list[int]

    def refusal(self, errors: dict[int, str]) -> WrongUse:
        """Return the error for payloads that cannot be queued, given by their index."""
        return _refusal([f"line {self.numbers[index]}: {text}" for index, text in sorted(errors.items())])


def read_lines() -> Lines:
    """Read the payloads on standard input, one JSON text on each line; blank lines are ignored.

    Raises:
        WrongUse: Listing every line that cannot be a job, by its number.
    """
    payloads, numbers, wrong = list[Any](), list[int](), list[str]()
    for number, line in enumerate(sys.stdin.buffer.read().removeprefix(_BOM).split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            payloads.append(_parsed(line.strip(), f"line {number}"))
            numbers.append(number)
            _check(payloads[-1], f"line {number}")
        except WrongUse as error:
            wrong.append(str(error).replace("at line 1 column", "at column"))
    if wrong:
        raise _refusal(wrong)
    return Lines(payloads, numbers)


def _check(payload: Any, what: str) -> None:
    """Check that a payload can be sent, as far as that is known without a server and the other headers."""
    try:
        size = len(encode_json(payload, what))
    except JobError as error:
        raise WrongUse(error.message) from None
    if size > MAX_MESSAGE:
        raise WrongUse(
            f"{what}: it is too large for its queue: {size} bytes with its headers, the limit is {MAX_MESSAGE}"
        )


def _refusal(wrong: list[str]) -> WrongUse:
    return WrongUse("\n".join(["nothing was queued:", *wrong]))


def _parsed(raw: bytes, what: str) -> Any:
    try:
        value = parse_json(raw, what)
        check_sizes(raw, what)
    except JobError as error:
        raise WrongUse(error.message) from None
    return value


def _how_to_quote(argument: str) -> str:
    text = argument if argument.isalnum() else "hello"
    return (
        f"""a string needs double quotes, inside single quotes for the shell: '"{text}"'; an object: '{{"n": 1}}'; """
        "nothing: null; a file: @payload.json"
    )
