"""Check whether the server has room for what jsjobs writes, without writing anything."""

from __future__ import annotations

from contextlib import suppress

from jsjobs.jetstream.api.errors import LimitReached, Refusal
from jsjobs.jetstream.api.publish import answer_of
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError

_NEVER_STORED = b"NATS/1.0\r\nNats-TTL: none\r\n\r\n"
"""A time to live that cannot be read, so that the message is always refused. The server refuses earlier for anything
that it checks before it stores a message."""
_AS_LARGE_AS_AN_ENTRY = b"0" * 1024
_WITHIN = 2.0


def probed_subject(names: Names) -> str:
    """Return the subject on which `find_no_room` publishes."""
    return names.state("probe").decode()


async def find_no_room(connection: Connection, names: Names) -> LimitReached | None:
    """Return which limit leaves no room; None if there is room, or if that cannot be seen.

    A message is published that the server always refuses. Where a limit is reached, its own or the account's, it says
    so first (docs/server-quirks.md#a-limit-of-storage). A full disk cannot be seen this way.

    Args:
        connection: A connection to the server.
        names: The namespace whose state bucket is probed.
    """
    with suppress(JobError):
        subject = probed_subject(names).encode()
        answer = answer_of(await connection.ask(subject, _AS_LARGE_AS_AN_ENTRY, header=_NEVER_STORED, timeout=_WITHIN))
        if isinstance(answer, Refusal) and answer.limit is not None:
            return LimitReached(answer, "a probing write")
    return None
