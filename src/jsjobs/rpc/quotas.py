"""The quotas of the micro service: what one tenant may ask for is bounded, so that no other tenant's jobs suffer."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from jsjobs.jetstream.protocol.names import Names, checked_type
from jsjobs.jetstream.schedules.delayed_quota import DelayedQuota, Reservation
from jsjobs.model.errors import JobError, QuotaReached
from jsjobs.model.job import JobId, utc_now
from jsjobs.rpc.forms import SubmitRequest
from jsjobs.service import JobService

_HOUR = 3600.0
_MOST_TENANTS = 10_000
_MOST_KEYS = 10_000


class Quotas:
    """The quotas of all tenants, as one instance counts them; `tenant` is empty for requests on the shared subject."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._types: dict[str, dict[str, float]] = {}
        """The time at which each tenant last used each type, the longest unused type first."""
        self._debounced: dict[tuple[str | None, ...], Reservation] = {}
        self._delayed: DelayedQuota | None = None

    async def submit(
        self, tenant: str, form: SubmitRequest, body_bytes: int, submit: Callable[[], Awaitable[JobId]]
    ) -> JobId:
        """Submit a job for a tenant, if its quotas allow it.

        Raises:
            QuotaReached: If they do not; nothing was queued.
            JobError: Whatever `submit` raises.
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
            if not error.is_transient:  # otherwise the job may have been scheduled
                await _give_back(quota, reserved)
            raise
        if receipt.duplicate:
            await _give_back(quota, reserved)
        elif form.debounce_key is not None:
            await self._replace(quota, (tenant, tenant or form.tenant, form.type, form.debounce_key), reserved)
        return receipt

    async def _replace(self, quota: DelayedQuota, key: tuple[str | None, ...], reserved: Reservation) -> None:
        """Count a debounced job in the place of the one that it replaced in the stream."""
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
        """Count a job type against the tenant's quota of types.

        Each type is a subject of its own in the queue. Where no worker knows the type, its jobs become dead letters.

        Raises:
            QuotaReached: If the tenant used its maximum of other types within the last hour.
        """
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
    with suppress(JobError):  # otherwise the reservation counts until it is due
        await quota.give_back(reserved)
