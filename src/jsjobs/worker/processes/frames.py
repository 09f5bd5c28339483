"""The protocol between a worker and its processes: frames of a JSON head and a body of bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

from jsjobs.handlers.importable import MAX_BODY

LENGTHS = struct.Struct(">IQ")
"""The prefix of each frame: the length of its head and of its body, in bytes."""

MAX_HEAD = 2**20
"""Bytes of a head, at most."""

FUNCTION = "function"
"""To the process: the handler of a type; comes before the type's first job."""
RUN = "run"
"""To the process: one attempt."""
BEGUN = "begun"
"""From the process: the handler is loaded, and its time begins."""
CALLED = "called"
"""From the process: the payload is read, and the handler is called."""
PROGRESS = "progress"
DONE = "done"
FAILED = "failed"
SNOOZED = "snoozed"

Frame = tuple[dict[str, Any], bytes]


def frame(kind: str, body: bytes = b"", **head: Any) -> bytes:
    """Build a frame as it is sent."""
    raw = json.dumps({"kind": kind, **head}).encode()
    return LENGTHS.pack(len(raw), len(body)) + raw + body


def lengths(raw: bytes) -> tuple[int, int]:
    """Return the lengths of the head and the body that follow.

    Raises:
        ValueError: If they are longer than possible: a handler wrote into the channel, which is not its own.
    """
    head, body = LENGTHS.unpack(raw)
    if head > MAX_HEAD or body > MAX_BODY:
        raise ValueError("a frame cannot be that long")
    return head, body


def parse_head(raw: bytes) -> dict[str, Any]:
    """Parse a frame's head.

    Raises:
        ValueError: If it is not one.
    """
    head = json.loads(raw)
    if not isinstance(head, dict) or "kind" not in head:
        raise ValueError("not the head of a frame")
    return head
