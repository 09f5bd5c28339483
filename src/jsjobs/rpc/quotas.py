"""What one tenant may ask of the micro service: bounded, so that nobody else's jobs suffer for it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from jsjobs.jetstream.delayed_quota import DelayedQuota, Reservation
from jsjobs.jetstream.subjects import Names, checked_type
from jsjobs.model.errors import JobError, QuotaReached
from jsjobs.model.ids import JobId
from jsjobs.model.job import utc_now
from jsjobs.rpc.forms import SubmitRequest
from jsjobs.service import JobService

_HOUR = 3600.0
_MOST_TENANTS = 10_000
_MOST_KEYS = 10_000


class Quotas:
    """Keeps the quotas of all tenants of one instance; `tenant` is empty for what comes on everybody's subject."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._types: dict[str, dict[str, float]] = {}
        """Of each tenant: when each type was last used, the longest unused first."""
        self._debounced: dict[tuple[str | None, ...], Reservation] = {}
        self._delayed: DelayedQuota | None = None

    async def submit(
        self, tenant: str, form: SubmitRequest, body_bytes: int, submit: Callable[[], Awaitable[JobId]]
    ) -> JobId:
        """Submit a job for a tenant, if that may have it.

        Raises:
            QuotaReached: If not; nothing was queued.
            JobError: As `submit`.
        """
        self._count_type(tenant, form.type)
        due = form.due(utc_now())
        if due is None and form.debounce_key is None:
            return await submit()
        quota = self._quota()
        reserved = await quota.reserve(tenant, due or utc_now(), body_bytes)
        try:
            receipt = await submit()
        except JobError as error:
            if not error.is_transient:  # else it may have been scheduled
                await _give_back(quota, reserved)
            raise
        if receipt.duplicate:
            await _give_back(quota, reserved)
        elif form.debounce_key is not None:
            await self._replace(quota, (tenant, tenant or form.tenant, form.type, form.debounce_key), reserved)
        return receipt

    async def _replace(self, quota: DelayedQuota, key: tuple[str | None, ...], reserved: Reservation) -> None:
        """A debounced job takes the place of the one before it, in the stream and here."""
        before = self._debounced.pop(key, None)
        self._debounced[key] = reserved
        if len(self._debounced) > _MOST_KEYS:
            del self._debounced[next(iter(self._debounced))]
        if before is not None:
            await _give_back(quota, before)

    def _quota(self) -> DelayedQuota:
        if self._delayed is None:
            config = self._service.config
            self._delayed = DelayedQuota(
                self._service.connection,
                Names(config.namespace),
                most_jobs=config.tenant_delayed_jobs,
                most_bytes=config.tenant_delayed_bytes,
                timeout=config.timeout,
            )
        return self._delayed

    def _count_type(self, tenant: str, job_type: str) -> None:
        """Each type is a subject of its own in the queue; where nobody knows it, its jobs are dead letters."""
        checked_type(job_type)
        if len(self._types) >= _MOST_TENANTS and tenant not in self._types:
            del self._types[next(iter(self._types))]
        now, most = time.monotonic(), self._service.config.tenant_types
        used = self._types.setdefault(tenant, {})
        if job_type not in used and len(used) >= most:
            longest = next(iter(used))
            wait = used[longest] + _HOUR - now
            if wait > 0:
                raise QuotaReached(
                    f"the quota of job types is used up: {most} (JSJOBS_TENANT_TYPES) were used within an hour; "
                    f"nothing was queued: use one of those, or try again in {wait:.0f} s"
                )
            del used[longest]
        used.pop(job_type, None)
        used[job_type] = now


async def _give_back(quota: DelayedQuota, reserved: Reservation) -> None:
    with suppress(JobError):  # it is counted until its time then
        await quota.give_back(reserved)
