"""Trace context in the form of W3C Trace Context: read from strangers, and passed on. No I/O.

A header that cannot be read is ignored: no job fails because of one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

TRACEPARENT = "traceparent"
TRACESTATE = "tracestate"

_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_KNOWN_FLAGS = 0x03
"""The flags for "sampled" and for a random trace id; it is not known what other bits may mean one day."""
_MAX_PARENT = 512  # later versions may be longer than the 55 characters of this one
_MAX_STATE = 512
_MAX_MEMBERS = 32
_KEY = r"(?:[a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
_MEMBER = re.compile(_KEY + r"=[ !-+\--<>-~]{0,255}[!-+\--<>-~]")


class Trace(NamedTuple):
    """A place in a trace; `tracestate` never without `traceparent`."""

    traceparent: str | None = None
    tracestate: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Return the headers of a message that carry this place."""
        return {name: value for name, value in zip((TRACEPARENT, TRACESTATE), self, strict=True) if value is not None}


NO_TRACE = Trace()


def read_trace(headers: Sequence[tuple[str, str]]) -> Trace:
    """Read the trace context from the headers of a message; a part that cannot be read is left out."""
    traceparent = read_traceparent([value for name, value in headers if name.lower() == TRACEPARENT])
    if traceparent is None:
        return NO_TRACE
    return Trace(traceparent, read_tracestate([value for name, value in headers if name.lower() == TRACESTATE]))


def read_traceparent(values: Sequence[str]) -> str | None:
    """Return the one `traceparent` of a message, in the form of version 00; None if there is none that can be read."""
    if len(values) != 1 or len(values[0]) > _MAX_PARENT:
        return None
    match = _PARENT.fullmatch(values[0])
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not (trace.strip("0") and span.strip("0")):
        return None
    return f"00-{trace}-{span}-{int(flags, 16) & _KNOWN_FLAGS:02x}"


def read_tracestate(values: Sequence[str]) -> str | None:
    """Return the `tracestate` headers of a message as one; None if there is none, or a part cannot be read."""
    members = [member for member in (part.strip(" \t") for part in ",".join(values).split(",")) if member]
    text, keys = ",".join(members), {member.partition("=")[0] for member in members}
    if not members or len(text) > _MAX_STATE or len(members) > _MAX_MEMBERS or len(keys) < len(members):
        return None
    return text if all(_MEMBER.fullmatch(member) for member in members) else None


def trace_id(traceparent: str | None) -> str | None:
    """Return the trace id in a `traceparent` that was read, 32 hexadecimal digits."""
    return None if traceparent is None else traceparent[3:35]
