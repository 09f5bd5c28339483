"""Telling that a job was cancelled while it waited: no worker sees its end, and those who count are workers."""

from __future__ import annotations

from contextlib import suppress

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost
from jsjobs.jetstream.subjects import Names

CANCELLED = b"cancelled"
"""What says so on the subject on which workers are asked to stop a job."""


def tell_cancelled(connection: Connection, names: Names, job_id: str) -> None:
    """Tell workers, whoever of them counts; called by the one that gave the job's entry its time to live."""
    with suppress(ConnectionLost):
        connection.post(names.cancel(job_id), CANCELLED)
