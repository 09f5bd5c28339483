"""Telling whoever looks at the shards that this worker is there, though it does not listen to all of them."""

from __future__ import annotations

from contextlib import suppress

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError

EVERY = 3.0
"""Seconds; it holds for three times as long."""
_HEADER = b"NATS/1.0\r\nNats-TTL: %ds\r\n\r\n" % (3 * EVERY)


def tell_busy(connection: Connection, names: Names) -> None:
    """Keep the entry that says so, for a while; whether the server takes it is not waited for."""
    with suppress(JobError):
        connection.post(names.busy_worker, b"1", header=_HEADER)
