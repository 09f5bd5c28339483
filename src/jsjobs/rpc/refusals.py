"""Turn errors into refusals of requests, and read the requester's place in a trace."""

from __future__ import annotations

from jsjobs.jetstream.micro.service import Refused, ServiceRequest
from jsjobs.jetstream.protocol.headers import parse_block
from jsjobs.model.errors import AlreadyDue, AlreadyEnded, JobError, QuotaReached, Reason
from jsjobs.model.trace import Trace, read_trace

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
    """Return the refusal of a request that failed with this error."""
    code = CONFLICT if isinstance(error, AlreadyEnded | AlreadyDue) else _CODES[error.reason]
    if isinstance(error, QuotaReached):
        code = _QUOTA
    return Refused(code, error.reason, error.message)


def trace_of(request: ServiceRequest) -> Trace:
    """Return the requester's place in a trace.

    Raises:
        JobError: `Validation`, if the request's headers cannot be read.
    """
    return read_trace(parse_block(request.header))
