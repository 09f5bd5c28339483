"""Headers and bodies between the wire and the model. Everything from outside is untrusted until it is parsed here."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pydantic_core import PydanticSerializationError, from_json, to_json

from jsjobs.jetstream.protocol.firing import NAME as SCHEDULE_NAME
from jsjobs.jetstream.protocol.firing import Firing, is_firing_id, read_firing
from jsjobs.jetstream.protocol.job_ids import is_given_id
from jsjobs.model.checks import shortened
from jsjobs.model.context import checked_name
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Duration
from jsjobs.model.retry import ATTEMPTS_LIMIT
from jsjobs.model.through_json import is_no_number, named, place_of, untold, unwritable
from jsjobs.model.times import parse_rfc3339
from jsjobs.model.trace import NO_TRACE, TRACEPARENT, Trace, read_trace

LINE = b"NATS/1.0"
_FIRST = LINE + b"\r\n"
_END = b"\r\n\r\n"
_OURS = b"jsjobs-"
_TRACE = TRACEPARENT.encode()
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

MSG_ID = "Nats-Msg-Id"
ENTITY = "Jsjobs-Entity"
TENANT = "Jsjobs-Tenant"
REQUEST_ID = "Jsjobs-Request-Id"
BATCH = "Jsjobs-Batch"
MAX_ATTEMPTS = "Jsjobs-Max-Attempts"
DURATION = "Jsjobs-Duration"
TIMEOUT = "Jsjobs-Timeout"
EXPIRES = "Jsjobs-Expires"
EXPIRED = "Jsjobs-Expired"
GIVEN_ID = "Jsjobs-Id"

_ASTERISKS = b"****"
"""The text that pydantic writes for a secret; any text may contain it too."""
LEVELS_ABOVE = 8
_SURELY_SHALLOW = 180
"""Number of brackets that cannot be nested too deeply; the reader's limit is 200 levels."""
_MANY = 4300
_MAY_BE_LARGE = re.compile(rb"[eE]\+?[0-9]{3}|(?<![0-9])[0-9]{309}")
"""Matches in every number that is too large for a float."""
_NUMBER = re.compile(rb"-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_STRING = re.compile(rb'"(?:[^"\\]|\\.)*"?', re.DOTALL)
_NO_NUMBERS = "NaN and infinity are not JSON, and a number too large for a float, such as 1E400, is read as infinity"
_MANY_DIGITS = re.compile(rb"(?<![0-9])[0-9]{4301}")  # above the reader's limit


@dataclass(frozen=True, slots=True)
class JobHeaders:
    """The headers of a job, all of them optional."""

    entity: str | None = None
    tenant: str | None = None
    request_id: str | None = None
    batch_id: str | None = None
    max_attempts: int | None = None
    """None: left to the worker, which knows the handler's policy."""
    duration: Duration | None = None
    """None: left to the worker, which knows how long a short job may run."""
    timeout: float | None = None
    """In seconds."""
    expires: datetime | None = None
    """A job that would start later than this is not run."""
    drop_expired: bool = False
    given_id: str | None = None
    firing: Firing | None = None
    """The firing, if the job comes from a periodic schedule."""
    trace: Trace = NO_TRACE
    """Empty if there was none, or none that can be read."""


NO_HEADERS = JobHeaders()


class UnreadableHeaders(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """Some of a job's headers cannot be read; `readable` holds the others, so that id and tenant are not lost."""

    def __init__(self, message: str, readable: JobHeaders = NO_HEADERS) -> None:
        super().__init__(Reason.VALIDATION, message)
        self.readable = readable


def header_block(pairs: dict[str, str], before: bytes = b"") -> bytes:
    """Return the pairs as a header block.

    Names and values must have been checked, but in any case none gets beyond its line.

    Args:
        pairs: Names and values.
        before: Lines to put before them, each with its line end.

    Raises:
        JobError: `Validation`, if one contains a line break: the text after it would be a header of its own.
    """
    lines = ""
    for name, value in pairs.items():
        line = f"{name}: {value}"
        if "\n" in line or "\r" in line:  # inlined instead of a function of its own: every job passes here
            raise JobError.from_validation(f"there is a line break in the header {line[:80]!r}: leave it out")
        lines += line + "\r\n"
    return b"%b%b%b\r\n" % (_FIRST, before, lines.encode())


def parse_block(raw: bytes) -> list[tuple[str, str]]:
    """Return the name-value pairs of a raw header block, in order.

    Raises:
        UnreadableHeaders: If it is not a header block at all.
    """
    if not raw:
        return []
    if not raw.startswith(_FIRST) or not raw.endswith(_END):
        raise UnreadableHeaders(f"the message's header block cannot be read: {raw[:80]!r}")
    pairs = []
    for line in raw[len(_FIRST) : -len(_END)].split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if line and not (colon and _TOKEN.fullmatch(name)):
            raise UnreadableHeaders(f"the message's header line {line[:80]!r} cannot be read")
        if line:
            pairs.append((name.decode("ascii"), value.strip().decode("utf-8", "backslashreplace")))
    return pairs


def lenient_pairs(raw: bytes) -> list[tuple[str, str]]:
    """Return the pairs that can be read, to show what a broken block said."""
    pairs = []
    for line in raw.removeprefix(_FIRST).split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            pairs.append((name.decode("utf-8", "backslashreplace"), value.strip().decode("utf-8", "backslashreplace")))
    return pairs


def value_of(raw: bytes, name: bytes) -> bytes | None:
    """Return one value of a header block that the server or this library wrote.

    The last header of that name counts: the server writes its own below those that a stranger's message contains.
    """
    at = raw.rfind(b"\r\n%b:" % name)
    if at < 0:
        return None
    start = at + len(name) + 3
    return raw[start : raw.find(b"\r\n", start)].strip()


def parse_job_headers(raw: bytes) -> JobHeaders:
    """Return the headers in a job's header block.

    Names are matched without regard to case, and the first of a name counts.

    Raises:
        UnreadableHeaders: Lists every header that cannot be read.
    """
    if not raw:
        return NO_HEADERS
    lower = raw.lower()
    if _OURS not in lower and raw.startswith(_FIRST) and raw.endswith(_END):
        if _TRACE not in lower:
            return NO_HEADERS
        return JobHeaders(trace=read_trace(lenient_pairs(raw)))  # other headers are not ours to judge
    return read_job_headers(parse_block(raw))


def read_job_headers(pairs: Sequence[tuple[str, str]]) -> JobHeaders:
    """Return a job's headers from name-value pairs.

    Names are matched without regard to case, and the first of a name counts.

    Raises:
        UnreadableHeaders: Lists every header that cannot be read.
    """
    seen: dict[str, str] = {}
    for name, value in pairs:
        seen.setdefault(name.lower(), value)
    problems: list[str] = []

    def read(name: str, parse: Any, default: Any = None) -> Any:
        value = seen.get(name.lower())
        if value is None:
            return default
        try:
            return parse(value)
        except (ValueError, JobError) as error:
            problems.append(f"{name}: {error.message if isinstance(error, JobError) else error}")
            return default

    headers = JobHeaders(
        entity=read(ENTITY, lambda v: checked_name("the entity", v)),
        tenant=read(TENANT, lambda v: checked_name("the tenant", v)),
        request_id=read(REQUEST_ID, lambda v: checked_name("the request id", v)),
        batch_id=read(BATCH, lambda v: checked_name("the batch id", v)),
        max_attempts=read(MAX_ATTEMPTS, parse_attempts),
        duration=read(DURATION, parse_duration),
        timeout=read(TIMEOUT, parse_timeout),
        expires=read(EXPIRES, parse_rfc3339),
        drop_expired=read(EXPIRED, _parse_expired, False),
        given_id=read(GIVEN_ID, _parse_given_id),
        firing=read(SCHEDULE_NAME, lambda v: read_firing(v, pairs)),
        trace=read_trace(pairs) if TRACEPARENT in seen else NO_TRACE,
    )
    if problems:
        raise UnreadableHeaders("; ".join(problems), headers)
    return headers


def parse_attempts(text: str) -> int:
    """Parse a number of attempts, 1 to 1000.

    Raises:
        ValueError: If the text is not such a number.
    """
    if not re.fullmatch(r"[0-9]{1,4}", text) or not 1 <= int(text) <= ATTEMPTS_LIMIT:
        raise ValueError(f"must be a whole number from 1 to {ATTEMPTS_LIMIT}, not {text[:40]!r}")
    return int(text)


def parse_timeout(text: str) -> float:
    """Parse seconds above 0, given as a decimal number.

    Raises:
        ValueError: If the text is not such a number.
    """
    if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or float(text) <= 0:
        raise ValueError(f"must be seconds above 0 as a decimal number, not {text[:40]!r}")
    return float(text)


def parse_duration(text: str) -> Duration:
    """Parse `short` or `long`.

    Raises:
        ValueError: If the text is neither.
    """
    try:
        return Duration(text)
    except ValueError:
        raise ValueError(f"must be short or long, not {text[:40]!r}") from None


def _parse_expired(text: str) -> bool:
    if text not in {"drop", "dead_letter"}:
        raise ValueError(f"must be drop or dead_letter, not {text[:40]!r}")
    return text == "drop"


def _parse_given_id(text: str) -> str:
    if not is_given_id(text):
        raise ValueError(f"must have the form at-… or replay-…, not {text[:40]!r}")
    if is_firing_id(text):
        raise ValueError(f"{text[:40]!r} can only be the id of a firing of a periodic schedule")
    return text


def encode_json(value: Any, what: str, write: Callable[[Any], bytes] | None = None) -> bytes:
    """Return a payload or result as JSON; pydantic models, dataclasses, dates and the like are supported.

    Args:
        value: The value to write.
        what: The name of the value, for errors.
        write: Writes values of its declared type; None: they are written as the value's own types are.

    Raises:
        JobError: `Validation`, if JSON cannot hold it: NaN, infinity, lone surrogates, unknown objects, cycles, nesting
            deeper or numbers longer than readers take; or if asterisks would take the place of a secret.
    """
    try:
        raw = to_json(value, inf_nan_mode="constants") if write is None else write(value)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        place = named(unwritable(value))
        where = f" at {place}" if place else ""
        told = shortened(str(error), 500)
        text = f"{what} cannot be written as JSON{where}: {told}"
        raise JobError.from_validation(text, cause=error) from None
    try:
        check_numbers(raw, what)
    except JobError as error:
        place = named(place_of(value, is_no_number) or ())
        raise JobError.from_validation(
            f"{error.message}{f', see {place}' if place else ''}", cause=error.cause
        ) from None
    if raw.count(b"[") + raw.count(b"{") > _SURELY_SHALLOW or (len(raw) > _MANY and _MANY_DIGITS.search(raw)):
        # The JSON must be readable again, by this library too, anywhere in an entry or a letter.
        parse_json(b"[%b%b%b]" % (b"[" * LEVELS_ABOVE, raw, b"]" * LEVELS_ABOVE), f"{what}, as it is written,")
    if write is None and _ASTERISKS in raw:
        check_told(value, raw, what)
    return raw


def check_told(value: Any, raw: bytes, what: str) -> None:
    """Refuse JSON that does not say what the value says: asterisks for a secret, null for NaN, a field left out.

    Raises:
        JobError: `Validation`; the message names the field.
    """
    found = untold(value, from_json(raw))
    if found is not None:
        raise JobError.from_validation(f"{what} cannot be written as JSON: {found}")


def check_numbers(raw: bytes, what: str) -> None:
    """Refuse NaN and infinity, which are not JSON but which many writers and readers let through.

    Raises:
        JobError: `Validation`, if there is one outside of a string, or the text is not JSON at all.
    """
    if raw.find(b"NaN") >= 0 or raw.find(b"Infinity") >= 0:  # `in` takes twice as long, up to Python 3.11
        parse_json(raw, what)


def parse_json(raw: bytes, what: str) -> Any:
    """Parse strict JSON into Python values.

    Raises:
        JobError: `Validation`; the message says where it is not JSON.
    """
    try:
        return from_json(raw, allow_inf_nan=False)
    except (ValueError, RecursionError) as error:
        text = f"{what} is not JSON: {error}" if raw else f"{what} is empty, it must be JSON"
        if _holds_no_number(raw):
            text += f"; {_NO_NUMBERS}"
        raise JobError.from_validation(text, cause=error) from None


def check_sizes(raw: bytes, what: str) -> None:
    """Refuse numbers too large for a float, which are JSON but which readers take for infinity.

    Args:
        raw: Strict JSON.
        what: The name of the value, for the error.

    Raises:
        JobError: `Validation`; the message names the first such number.
    """
    if _MAY_BE_LARGE.search(raw) is None:
        return
    for number in _NUMBER.findall(_STRING.sub(b'""', raw)):
        if not number.lstrip(b"-").isdigit() and math.isinf(float(number)):  # a whole number may have any length
            shown = shortened(number.decode(), 40)
            raise JobError.from_validation(
                f"{what} holds {shown}, a number too large for a float: write it as a string"
            )


def _holds_no_number(raw: bytes) -> bool:
    """Return whether NaN or infinity occurs outside of strings."""
    if b"NaN" not in raw and b"Infinity" not in raw:
        return False
    plain = _STRING.sub(b'""', raw)
    return b"NaN" in plain or b"Infinity" in plain
