"""The request context: who a job is for, carried from publisher to handler and on to the jobs the handler submits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from jsjobs.model.checks import checked_text
from jsjobs.model.errors import JobError
from jsjobs.model.trace import NO_TRACE, Trace

DEFAULT_TENANT = "default"
"""The tenant (`app_id` in the dead-letter table) of a job submitted outside any context."""

MAX_NAME = 256
"""The longest tenant, entity, request or batch id, in characters: they are names, not data."""


class RequestContext(NamedTuple):
    """The context of the request now being served.

    A handler runs inside the context its job was submitted in, to which the job's entity, type and shard are added.
    """

    tenant_id: str | None = None
    request_id: str | None = None
    entity_id: str | None = None
    entity_type: str | None = None
    shard_id: int | None = None
    """None in the parallel lane."""
    job_id: str | None = None
    """The job being run."""
    trace: Trace = NO_TRACE
    """The current place in a trace; submitted jobs carry it along."""
    on_own_subject: bool = False
    """Whether the request came on a subject that is the tenant's alone: its keys are apart from what others submit."""

    @property
    def within_worker(self) -> bool:
        """Return whether this code runs inside a job's handler."""
        return self.job_id is not None


_NONE = RequestContext()
_current: ContextVar[RequestContext] = ContextVar("jsjobs_request_context", default=_NONE)


def current_context() -> RequestContext:
    """Return the context of the running task or thread."""
    return _current.get()


def enter_context(context: RequestContext) -> None:
    """Make this the context of the running task from now on."""
    _current.set(context)


@contextmanager
def request_context(*, tenant_id: str | None = None, request_id: str | None = None) -> Iterator[RequestContext]:
    """Give the jobs submitted inside this tenant and request id; one that is not given stays as it is outside.

    Raises:
        JobError: `Validation`, if a name is empty, longer than 256 characters or not printable.
    """
    outer = _current.get()
    context = outer._replace(
        tenant_id=outer.tenant_id if tenant_id is None else checked_name("tenant_id", tenant_id),
        request_id=outer.request_id if request_id is None else checked_name("request_id", request_id),
    )
    token = _current.set(context)
    try:
        yield context
    finally:
        _current.reset(token)


def checked_name(what: str, value: str) -> str:
    """Return the name itself, if it can be sent in a header.

    Raises:
        JobError: `Validation`, naming what is wrong with it.
    """
    checked_text(what, value)
    if not value or len(value) > MAX_NAME or value != value.strip():
        raise JobError.from_validation(
            f"{what} must be 1 to {MAX_NAME} characters, without space at its ends: {value[:80]!r}"
        )
    if not value.isprintable():
        raise JobError.from_validation(f"{what} must be printable: {value[:80]!r}")
    return value
