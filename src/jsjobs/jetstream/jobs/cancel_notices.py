"""Notices that a waiting job was cancelled: no worker sees its end, but workers count ended jobs."""

from __future__ import annotations

from contextlib import suppress

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.protocol.names import Names

CANCELLED = b"cancelled"
"""The body that says so, on the subject on which workers are asked to stop a job."""


def tell_cancelled(connection: Connection, names: Names, job_id: str) -> None:
    """Tell workers that a job was cancelled, for those that count.

    It is called by whoever gave the job's entry its time to live.
    """
    with suppress(ConnectionLost):
        connection.post(names.cancel(job_id), CANCELLED)
