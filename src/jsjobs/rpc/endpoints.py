"""The endpoints of the micro service: each reads the request, asks the service, and answers."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, TypeVar
from urllib.parse import unquote

from pydantic import BaseModel

from jsjobs.jetstream.micro.service import Endpoint, Refused, ServiceRequest
from jsjobs.jetstream.protocol.names import Names, name_token
from jsjobs.jetstream.schedules.tenant_keys import TenantKeys
from jsjobs.model.context import RequestContext, enter_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, JobStatusResponse, ProgressUpdate, Status, failure, utc_now
from jsjobs.model.payload import Written
from jsjobs.operations.dedupe import owned_key
from jsjobs.rpc.forms import (
    JobRequest,
    ReplayRequest,
    ReplayResponse,
    RescheduleRequest,
    ResultResponse,
    SubmitRequest,
    SubmitResponse,
    WaitRequest,
)
from jsjobs.rpc.quotas import Quotas
from jsjobs.rpc.reading import read_form, read_submit
from jsjobs.rpc.refusals import CONFLICT, refusal, trace_of
from jsjobs.service import JobService

F = TypeVar("F", bound=BaseModel)

_SMALL = 16 * 2**10
"""The largest request that names a job, in bytes."""
_LARGE = 2**20
"""The largest request that submits a job, in bytes: the queues' limit, and room for the rest."""

Answers = AsyncGenerator[bytes, None]
Serve = Callable[[ServiceRequest], Answers]


def endpoints(service: JobService) -> list[Endpoint]:
    """Return all endpoints that this service can serve; `replay` is among them only where a database is set."""
    asked = _Asked(service)
    root = f"{service.config.namespace}.rpc"
    submits = {
        "submit": (f"{root}.submit", asked.submit),
        "tenant-submit": (f"{root}.tenant.*.submit", asked.submit_of_tenant),
    }
    found = [
        _endpoint(name, subject, serve, SubmitRequest, SubmitResponse, _LARGE, is_intake=True)
        for name, (subject, serve) in submits.items()
    ] + [
        _endpoint("status", f"{root}.status", asked.status, JobRequest, JobStatusResponse),
        _endpoint("result", f"{root}.result", asked.result, WaitRequest, ResultResponse),
        _endpoint("progress", f"{root}.progress", asked.progress, JobRequest, ProgressUpdate),
        _endpoint("cancel", f"{root}.cancel", asked.cancel, WaitRequest, JobStatusResponse),
        _endpoint("reschedule", f"{root}.reschedule", asked.reschedule, RescheduleRequest, JobStatusResponse),
    ]
    if service.config.database_url is not None:
        found.append(_endpoint("replay", f"{root}.replay", asked.replay, ReplayRequest, ReplayResponse))
    return found


def _endpoint(
    name: str,
    subject: str,
    serve: Serve,
    request: type[BaseModel],
    response: type[BaseModel],
    most_bytes: int = _SMALL,
    *,
    is_intake: bool = False,
) -> Endpoint:
    metadata = {
        "request_schema": json.dumps(request.model_json_schema()),
        "response_schema": json.dumps(response.model_json_schema(mode="serialization")),
    }
    return Endpoint(name, subject, _judged(serve), most_bytes, metadata, is_intake)


def _judged(serve: Serve) -> Serve:
    """Turn each JobError that an endpoint raises into a refusal with the same reason."""

    async def judged(request: ServiceRequest) -> Answers:
        try:
            async with aclosing(serve(request)) as answers:
                async for answer in answers:
                    yield answer
        except JobError as error:
            raise refusal(error) from None

    return judged


class _Asked:
    """The endpoints' methods: each yields the answers to one request, in a task of its own."""

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._quotas = Quotas(service)
        self._tenant_keys: TenantKeys | None = None

    async def submit(self, request: ServiceRequest) -> Answers:
        form, payload = read_submit(request)
        yield await self._submit(form, payload, form.tenant, request, of="")

    async def submit_of_tenant(self, request: ServiceRequest) -> Answers:
        tenant = _tenant_of(request.subject)
        form, payload = read_submit(request)
        if form.tenant not in {None, tenant}:
            raise JobError.from_validation(f"the subject belongs to tenant {tenant!r}, the request names another")
        yield await self._submit(form, payload, tenant, request, of=tenant)

    async def _submit(
        self, form: SubmitRequest, payload: Written, tenant: str | None, request: ServiceRequest, *, of: str
    ) -> bytes:
        # The context is this task's alone; it takes nothing from the context in which the service was started.
        context = RequestContext(tenant_id=tenant, request_id=form.request_id, trace=trace_of(request))
        enter_context(context._replace(on_own_subject=bool(of)))
        options: dict[str, Any] = form.model_dump(exclude={"type", "payload", "tenant", "request_id", "dedupe_key"})

        async def submit(key: str | None) -> JobId:
            receipt: JobId = await self._service.submit(form.type, payload, **options, dedupe_key=key)
            return receipt

        async def submit_by_key() -> JobId:
            if not of or form.dedupe_key is None:
                return await submit(form.dedupe_key)
            scope = "" if form.due(utc_now()) else f"{form.priority}/"  # the scope that dedupe keys have everywhere
            return await self._keys().submit(f"/{scope}{owned_key(form.dedupe_key, of, form.type)}", submit)

        job_id = await self._quotas.submit(of, form, len(request.body), submit_by_key)
        receipt = SubmitResponse(job_id=job_id, duplicate=job_id.duplicate, batch_id=job_id.batch_id)
        return receipt.model_dump_json(exclude_none=True).encode()

    def _keys(self) -> TenantKeys:
        if self._tenant_keys is None:
            config = self._service.config
            self._tenant_keys = TenantKeys(
                self._service.connection,
                Names(config.namespace),
                timeout=config.timeout,
                duplicate_window=config.duplicate_window,
            )
        return self._tenant_keys

    async def status(self, request: ServiceRequest) -> Answers:
        form = self._read(JobRequest, request)
        yield (await self._service.status(form.job_id)).to_json()

    async def result(self, request: ServiceRequest) -> Answers:
        form = self._read(WaitRequest, request)
        try:
            result = await self._service.result(form.job_id, timeout=form.timeout)
        except JobError as error:
            raise await self._no_result(form.job_id, error) from None
        yield ResultResponse(job_id=form.job_id, result=result).model_dump_json().encode()

    async def _no_result(self, job_id: str, error: JobError) -> Refused:
        """Return the refusal of a request for a result.

        A job can fail for the same reasons as a request; the job's status tells which of the two failed.
        """
        try:
            status = await self._service.status(job_id)
        except JobError:
            return refusal(error)
        if status.status in {Status.FAILED, Status.CANCELLED}:
            ended = failure(status)
            return Refused(CONFLICT, ended.reason, ended.message)
        return refusal(error)

    async def progress(self, request: ServiceRequest) -> Answers:
        form = self._read(JobRequest, request)
        async with aclosing(self._service.progress(form.job_id)) as updates:
            async for update in updates:
                yield update.model_dump_json(exclude_none=True).encode()
        yield b""

    async def cancel(self, request: ServiceRequest) -> Answers:
        form = self._read(WaitRequest, request)
        yield (await self._service.cancel(form.job_id, timeout=form.timeout)).to_json()

    async def reschedule(self, request: ServiceRequest) -> Answers:
        form = self._read(RescheduleRequest, request)
        jobs = self._service
        moving = jobs.run_now(form.job_id) if form.now else jobs.reschedule(form.job_id, delay=form.delay, at=form.at)
        yield (await moving).to_json()

    async def replay(self, request: ServiceRequest) -> Answers:
        form = self._read(ReplayRequest, request)
        job_id = await self._service.replay(form.dlq_id, priority=form.priority, force=form.force)
        yield ReplayResponse(job_id=job_id).model_dump_json().encode()

    @staticmethod
    def _read(form: type[F], request: ServiceRequest) -> F:
        enter_context(RequestContext(trace=trace_of(request)))
        return read_form(form, request)


def _tenant_of(subject: str) -> str:
    token = subject.split(".")[-2]
    try:
        tenant = unquote(token, errors="strict")
        canonical = name_token(tenant, "the tenant")
    except (UnicodeDecodeError, JobError):
        canonical = tenant = ""
    if not tenant or canonical != token:
        # A tenant has one subject, since permissions are granted by subject.
        raise JobError.from_validation(
            f"{token[:80]!r} is not a tenant: A-Z, a-z, 0-9, '_' and '-' stand for themselves, other bytes are %XX"
        )
    return tenant
