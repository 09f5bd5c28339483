"""Dedupe keys of tenants that submit on subjects of their own: no other submit collides with them.

A publisher may send any message id, and the server tells the last one of a queue to anyone who asks. So no message id
follows from such a key: the key stands for a random token until its job is noted, and for that job from then on.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.delayed import digest
from jsjobs.jetstream.schedules.store import ScheduleChanged, Schedules
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, random_token
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.service")

_LATE = 2
"""Seconds by which the server may be late in removing what has expired."""


class _Note(NamedTuple):
    token: str
    job_id: str | None
    """None if the job is being submitted, or whoever did so has died."""
    sequence: int


class TenantKeys:
    """Note, in the schedule stream, which job each key was given to.

    Args:
        connection: A connection to the server.
        names: The namespace.
        timeout: Seconds to wait for the server.
        duplicate_window: Seconds for which a key is remembered.
    """

    def __init__(self, connection: Connection, names: Names, *, timeout: float, duplicate_window: float) -> None:
        self._names = names
        self._timeout = timeout
        self._window = max(1, math.ceil(duplicate_window))
        self._schedules = Schedules(connection, names, timeout=timeout)

    async def submit(self, key: str, submit: Callable[[str], Awaitable[JobId]]) -> JobId:
        """Submit a job by its key, or return the job that has the key.

        Args:
            key: The whole key, so that it is no other tenant's or type's.
            submit: Submits the job with the dedupe key it is given.

        Raises:
            JobError: `RunnerUnavailable`, if the server cannot be reached; as `submit`.
        """
        subject, text = self._names.schedule_key(digest(key)), "too many submits of this dedupe_key at once"
        try:
            note = await settled(
                lambda: self._find_or_begin(subject), within=self._timeout, else_say=f"{text}: nothing was queued"
            )
        except ConnectionLost as error:
            raise JobError.from_runner_unavailable(f"{error.message}: nothing was queued") from error
        if note.job_id is not None:
            return JobId(note.job_id, duplicate=True)
        job_id = await submit(note.token)
        await self._end(subject, note, job_id)
        return job_id

    async def _find_or_begin(self, subject: bytes) -> _Note:
        found = await self._schedules.find(subject)
        if found is not None:
            token, _, job_id = found.data.decode("utf-8", "backslashreplace").partition(" ")
            return _Note(token, job_id or None, found.sequence)
        token = random_token() + random_token()
        # It expires before the queue forgets the token, which is no secret once the job is there.
        expires = {"Nats-TTL": f"{max(1, self._window - _LATE)}s"}
        return _Note(token, None, await self._schedules.store(subject, expires, token.encode(), expected=0))

    async def _end(self, subject: bytes, note: _Note, job_id: JobId) -> None:
        headers = {"Nats-TTL": f"{self._window}s", "Nats-Rollup": "sub"}
        try:
            await self._schedules.store(subject, headers, f"{note.token} {job_id}".encode(), expected=note.sequence)
        except ScheduleChanged:
            pass  # another submit of the same key has noted the same job
        except JobError as error:
            logger.debug("job %s: its dedupe key could not be noted: %s", job_id, error.message)
