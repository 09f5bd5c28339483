"""What other programs ask of a worker, a router and the service, and tell them."""

import json
from functools import cache
from typing import Any

from corpus import ADVISORY, FORMS, HEADERS
from target import NAMES, Recording, Target, at_once, joined, parts

from jsjobs import JobService
from jsjobs.jetstream.micro.service import Refused, ServiceRequest, one_line
from jsjobs.maintenance.router import read_advisory
from jsjobs.model.job import Priority
from jsjobs.rpc.endpoints import endpoints
from jsjobs.worker.cancel_requests import CancelRequests


def advisory(data: bytes) -> bool:
    read = read_advisory(data, {"JOBS_CRITICAL", "JOBS_NORMAL"})
    if read is None:
        return False
    assert 0 < read.sequence < 2**63
    assert read.consumer.isascii()
    return True


class _Running:
    """In the place of the one job that this worker runs."""

    job_id = "normal-7"

    def cancel(self) -> bool:
        return True


def cancel_request(data: bytes) -> bool:
    subject, reply, block, body = parts(data, 4)
    connection = Recording()
    runs: Any = {(Priority.NORMAL, 7): _Running()}
    requests = CancelRequests(connection, NAMES, "worker", runs)  # type: ignore[arg-type]
    at_once(requests.start())
    [receiver] = connection.receivers
    receiver(subject, reply, block, body)
    assert not any(each.startswith((b"$", b"jobs.")) for each in connection.posted)
    return bool(connection.posted)


def service_request(data: bytes) -> bool:
    """A request to the micro service: its form is read, its job composed; then there is no server to ask."""
    number, subject, block, body = parts(data, 4)
    known = _endpoints()
    endpoint = known[(number or b"\0")[0] % len(known)]
    asked = subject.decode("utf-8", "backslashreplace")
    request = ServiceRequest(asked if "." in asked else "jobs.rpc.tenant.acme.submit", block, body)
    answers = endpoint.serve(request)
    try:
        at_once(anext(answers))  # type: ignore[arg-type]
    except Refused as refused:
        said = one_line(str(refused))
        assert len(said) <= 1000
        assert said.isprintable()
        return refused.code != 400
    finally:
        at_once(answers.aclose())
    raise AssertionError("there is no server to ask")


@cache
def _endpoints() -> list[Any]:
    jobs = JobService(JobService.Config(nats_url="nats://127.0.0.1:1", database_url="postgresql://127.0.0.1:1/x"))

    @jobs.handler("count")
    async def count(payload: dict[str, int]) -> None: ...

    return endpoints(jobs)


TARGETS = (
    Target("advisory", advisory, (json.dumps(ADVISORY).encode(),), (b"JOBS_NORMAL", b"normal-1x2-0")),
    Target(
        "cancel request",
        cancel_request,
        (
            joined(b"jobs.cancel.at-1", b"_INBOX.x.1", b"", b""),
            joined(b"jobs.cancel.normal-7", b"_INBOX.y", b"", b""),
        ),
        (b"jobs.normal.a.b", b"$KV.jobs.normal-7"),
    ),
    Target(
        "service request",
        service_request,
        tuple(
            joined(bytes([number]), b"jobs.rpc.tenant.acme.submit", block, json.dumps(form).encode())
            for form, numbers, block in zip(
                FORMS, (b"\0\1", b"\0\1", b"\0\1", b"\2\3\4\5", b"\6", b"\7"), (b"", *HEADERS), strict=False
            )
            for number in numbers
        ),
        (b'"tenant"', b'"payload"', b"%20"),
        0.5,
    ),
)
