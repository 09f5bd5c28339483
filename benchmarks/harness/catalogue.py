"""All sides by name; a peer that is not installed is left out."""

from __future__ import annotations

import importlib
from functools import cache

from harness.side import Side

OURS = "jsjobs"
ORDERED = "jsjobs-ordered"
ACK_ONLY = "ack-only"
BARE = "bare"
PEERS = ("taskiq-nats", "taskiq-nats-results", "faststream", "saq", "arq", "procrastinate", "pgqueuer")
_CLASSES = {
    OURS: "sides.ours:Ours",
    ORDERED: "sides.ours:Ordered",
    ACK_ONLY: "sides.raw:AckOnly",
    BARE: "sides.raw:Bare",
    "taskiq-nats": "peers.taskiq_nats:TaskiqNats",
    "taskiq-nats-results": "peers.taskiq_nats:TaskiqNatsResults",
    "faststream": "peers.faststream:FastStream",
    "saq": "peers.saq:Saq",
    "arq": "peers.arq:Arq",
    "arq-default": "peers.arq:ArqDefault",
    "procrastinate": "peers.procrastinate:Procrastinate",
    "pgqueuer": "peers.pgqueuer:PgQueuer",
}
NAMES = tuple(_CLASSES)


@cache
def side(name: str) -> Side:
    """A side.

    Raises:
        ImportError: If it is not installed.
    """
    module, _, attribute = _CLASSES[name].partition(":")
    made = getattr(importlib.import_module(module), attribute)()
    made.name = name
    return made


def is_peer(name: str) -> bool:
    """Whether it is somebody else's library."""
    return not is_ours(name) and name not in {ACK_ONLY, BARE}


def is_ours(name: str) -> bool:
    """Whether it is jsjobs, however it is set."""
    return name in {OURS, ORDERED}
