"""What a worker and its processes say to each other: frames of a JSON head and a body of bytes."""

from __future__ import annotations

import json
import struct
from typing import Any

LENGTHS = struct.Struct(">IQ")
"""Before each frame: the bytes of its head, and of its body."""

MAX_HEAD = 2**20
MAX_BODY = 2**26
"""Bytes. No nats-server takes a message of more than 64 MiB, so no payload and no result that can be kept is larger."""

FUNCTION = "function"
"""To the process: what handles a type; comes before the type's first job."""
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
    """A frame as it is sent."""
    raw = json.dumps({"kind": kind, **head}).encode()
    return LENGTHS.pack(len(raw), len(body)) + raw + body


def lengths(raw: bytes) -> tuple[int, int]:
    """How long the head and the body are that follow.

    Raises:
        ValueError: If they are longer than they can be: a handler wrote into what is not its own.
    """
    head, body = LENGTHS.unpack(raw)
    if head > MAX_HEAD or body > MAX_BODY:
        raise ValueError("no frame is that long")
    return head, body


def parse_head(raw: bytes) -> dict[str, Any]:
    """A frame's head.

    Raises:
        ValueError: If it is none.
    """
    head = json.loads(raw)
    if not isinstance(head, dict) or "kind" not in head:
        raise ValueError("no head of a frame")
    return head
