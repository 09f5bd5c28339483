"""Count the jobs that were cancelled while they waited: their ends are written by whoever cancelled them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.cancel_notices import CANCELLED
from jsjobs.jetstream.jobs.state_store import StateStore
from jsjobs.jetstream.protocol.job_ids import checked_id
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import JobError
from jsjobs.model.job import Status

if TYPE_CHECKING:
    from jsjobs.telemetry.recorder import Telemetry

_QUEUE = "counting"
"""The queue group: each notice goes to one of the workers that have telemetry."""
_AT_ONCE = 100
"""Entries that are read at once, at most; notices beyond that are not counted."""


class CancelCounts:
    """Count cancelled jobs from notices, each confirmed by the job's entry."""

    def __init__(self, connection: Connection, names: Names, state: StateStore, telemetry: Telemetry) -> None:
        self._connection = connection
        self._every = names.cancel("*")
        self._state = state
        self._telemetry = telemetry
        self._subscription: int | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Start listening."""
        self._subscription = await self._connection.receive(self._every, self._on_message, queue=_QUEUE)

    async def stop(self) -> None:
        """Stop listening, and count the notices received so far."""
        if self._subscription is not None:
            await self._connection.stop_receiving(self._subscription)
            self._subscription = None
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=1)

    def _on_message(self, subject: bytes, _reply: bytes, _header: bytes, data: bytes) -> None:
        if data == CANCELLED and len(self._tasks) < _AT_ONCE:
            job_id = subject[len(self._every) - 1 :].decode("utf-8", "backslashreplace")
            task = asyncio.ensure_future(self._count(job_id))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _count(self, job_id: str) -> None:
        with suppress(JobError):  # anybody may publish here, and a missing count harms no job
            found = await self._state.read(checked_id(job_id))
            entry = None if found is None else found.entry
            if entry is not None and entry.status is Status.CANCELLED:
                self._telemetry.count("jobs.cancellations", entry.type, "cancel", entry.priority)
