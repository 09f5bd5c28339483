"""Whether the server has room for what jsjobs writes, without writing anything."""

from __future__ import annotations

from contextlib import suppress

from jsjobs.jetstream.acknowledgements import answer_of
from jsjobs.jetstream.api import LimitReached, api_error
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError

_NEVER_STORED = b"NATS/1.0\r\nNats-TTL: none\r\n\r\n"
"""A time to live that cannot be read is refused; what the server looks at before it stores anything is refused before
that."""
_AS_LARGE_AS_AN_ENTRY = b"0" * 1024
_WITHIN = 2.0


def probed_subject(names: Names) -> str:
    """Where `find_no_room` publishes."""
    return names.state("probe").decode()


async def find_no_room(connection: Connection, names: Names) -> LimitReached | None:
    """Return what has no room left; None where there is room, or where that cannot be seen.

    It publishes what the server always refuses: where a limit, its own or the account's, is reached it says so first
    (nats-server 2.15.1). A full disk does not show that way.

    Args:
        connection: To the server.
        names: The namespace, whose state bucket is asked.
    """
    with suppress(JobError):
        subject = probed_subject(names).encode()
        answer = answer_of(await connection.ask(subject, _AS_LARGE_AS_AN_ENTRY, header=_NEVER_STORED, timeout=_WITHIN))
        error = api_error(answer.get("error") or {}, "a write was tried")
        return error if isinstance(error, LimitReached) else None
    return None
