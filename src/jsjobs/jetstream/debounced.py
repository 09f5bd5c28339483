"""Debounced jobs: of those submitted under one key, the last one waits, in the place of those before."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from jsjobs.jetstream.acknowledgements import unknown
from jsjobs.jetstream.cancelled import tell_cancelled
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.delayed import DelayedJob, Named, digest, named
from jsjobs.jetstream.errors import ConnectionLost
from jsjobs.jetstream.ids import debounced_id, digest_of
from jsjobs.jetstream.schedules import ScheduleChanged, Schedules
from jsjobs.jetstream.settled import settled
from jsjobs.jetstream.state import Conflict, Found, StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.model.ids import JobId
from jsjobs.model.job import JobStatusResponse, Status, random_token

_TRIES = 50
_LOOK_AGAIN = 0.02
"""Seconds after a lost race, in which a replica has mostly caught up."""


class Debounced:
    """Submits debounced jobs of one namespace."""

    def __init__(self, connection: Connection, names: Names, *, timeout: float, result_ttl: float) -> None:
        self._connection = connection
        self._names = names
        self._timeout = timeout
        self._result_ttl = result_ttl
        self._schedules = Schedules(connection, names, timeout=timeout)
        self._state = StateStore(connection, names)

    async def submit(self, delayed_job: DelayedJob, key: str) -> JobId:
        """Schedule a job in the place of the one that waits under the same key; that one's id, if there is one.

        Raises:
            JobError: As `submit`; `RunnerUnavailable` also, if many submits of the key are under way at once.
        """
        text = "too many submits of the same debounce_key at once: submit it again"
        return await settled(lambda: self._put(delayed_job, digest(key)), within=self._timeout, else_say=text)

    async def _put(self, delayed_job: DelayedJob, of_key: str) -> JobId:
        job_id = debounced_id(of_key, random_token())
        found = await self._schedules.find(self._names.schedule(job_id))
        known: Found | None = None
        # Another id than one of this key is a stranger's.
        if found is not None and found.is_live and found.job_id and digest_of(found.job_id) == of_key:
            known = await self._state.read(found.job_id)
            if known is None or known.is_deleted or (known.entry is not None and not known.entry.status.is_terminal):
                job_id = found.job_id  # a cancelled one would never run: its successor is another job
        one = named(self._names, delayed_job, job_id)
        schedule = one.schedule
        try:
            if found is None:
                await self._schedules.store(schedule.subject, schedule.headers, schedule.data, expected=0)
            else:
                await self._schedules.replace(found, schedule.headers, schedule.data)
        except ConnectionLost as error:
            raise unknown(error, "submit it again with the same debounce_key, it will not run twice") from error
        if known is not None and known.entry is not None and known.entry.status is Status.CANCELLED:
            await self._let_age(known.entry, known)
        if not await self._write(one):
            raise ScheduleChanged
        return JobId(job_id)

    async def _let_age(self, cancelled: JobStatusResponse, known: Found) -> None:
        """Whoever cancelled it finds no schedule any more: this one stands in its place."""
        if not known.expires:
            with suppress(Conflict):
                await self._state.write(cancelled, expected=known.revision, ttl=self._result_ttl, within=self._timeout)
                tell_cancelled(self._connection, self._names, cancelled.job_id)

    async def _write(self, one: Named) -> bool:
        """Write the entry of a job that may have replaced an earlier one; False if that one was cancelled meanwhile."""
        for _ in range(_TRIES):
            found = await self._state.read(one.job_id)
            entry = one.entry
            if found is not None and not found.is_deleted:
                if found.entry is None or found.entry.status.is_terminal:
                    return False
                if found.entry.carrier is not None:
                    return True  # it fired, and a worker has begun it
                kept = {"created_at": found.entry.created_at, "history": found.entry.history}
                entry = entry.model_copy(update=kept)
            try:
                await self._state.write(entry, expected=found.revision if found else 0, within=self._timeout)
            except Conflict:
                await asyncio.sleep(_LOOK_AGAIN)
            else:
                return True
        return True  # others write of it all the time: it is scheduled
