"""Reading what a stranger sent, and saying what was wrong."""

from __future__ import annotations

from typing import TypeVar

from pydantic import BaseModel, ValidationError

from jsjobs.jetstream.micro import Refused, ServiceRequest
from jsjobs.jetstream.wire import check_sizes, parse_block
from jsjobs.model.checks import problems
from jsjobs.model.errors import AlreadyDue, AlreadyEnded, JobError, QuotaReached, Reason
from jsjobs.model.trace import Trace, read_trace

F = TypeVar("F", bound=BaseModel)

_CODES = {
    Reason.VALIDATION: 400,
    Reason.HANDLER_MISSING: 400,
    Reason.NOT_FOUND: 404,
    Reason.ALREADY_CANCELLED: 409,
    Reason.PROCESSING: 409,
    Reason.MAX_RETRIES: 409,
    Reason.TIMEOUT: 503,
    Reason.RUNNER_UNAVAILABLE: 503,
}
CONFLICT = 409
_QUOTA = 429


def refusal(error: JobError) -> Refused:
    """What a request ends in that failed with this error."""
    code = CONFLICT if isinstance(error, AlreadyEnded | AlreadyDue) else _CODES[error.reason]
    if isinstance(error, QuotaReached):
        code = _QUOTA
    return Refused(code, error.reason, error.message)


def read_form(form: type[F], request: ServiceRequest) -> F:
    """The request's body.

    Raises:
        JobError: `Validation`, if it is no such JSON object; keys that are not known are refused too.
    """
    try:
        # NaN in a payload, which this takes, is refused where a payload is written.
        found = form.model_validate_json(request.body, strict=True)
    except ValidationError as error:
        raise JobError.from_validation(f"the request cannot be used: {problems(error)}", cause=error) from None
    check_sizes(request.body, "the request")
    return found


def trace_of(request: ServiceRequest) -> Trace:
    """Where in a trace the requester is.

    Raises:
        JobError: `Validation`, if the request's headers cannot be read.
    """
    return read_trace(parse_block(request.header))
