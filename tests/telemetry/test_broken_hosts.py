"""Whatever the providers of an application do, each job ends as it should, at its first try."""

import pytest
from otlp_receiver import Receiver
from telemetry_processes import TelemetryApps

from facts import eventually
from jsjobs import JobService

PLACES = ["sampler", "start", "end", "export", "record", "span", "span context"]
AT_ONCE = {("end", "SystemExit"), ("span", "SystemExit"), ("record", "RuntimeError")}
"""Where a job's settlement came to grief; the others with the long tests."""
CASES = [
    *((place, error) for place in PLACES for error in ("RuntimeError", "SystemExit", "GeneratorExit")),
    ("end", "KeyboardInterrupt"),
    # Nothing can be recorded then.
    ("tracer", "RuntimeError"),
    ("meter", "RuntimeError"),
]


@pytest.mark.parametrize(
    ("place", "error"),
    [pytest.param(*case, marks=() if case in AT_ONCE else pytest.mark.long) for case in CASES],
    ids=[f"{place}, {error}" for place, error in CASES],
)
async def test_jobs_are_queued_and_settled_all_the_same(
    telemetry_apps: TelemetryApps, receiver: Receiver, jobs: JobService, place: str, error: str
) -> None:
    telemetry_apps.environment |= {"HOST_ENDPOINT": receiver.url, "HOST_IS_BROKEN": place, "HOST_RAISES": error}
    telemetry_apps.environment["JSJOBS_CONCURRENCY"] = "20"
    worker = await telemetry_apps.worker()
    one = str(await telemetry_apps.submit("note", 1))
    flaky, dead, huge = [
        await jobs.submit(job_type, payload, max_attempts=2)
        for job_type, payload in (("flaky", {"fails": 1}), ("dies", None), ("huge", 2_000_000))
    ]
    child = await jobs.result(flaky, timeout=20)  # submitted by a handler
    for job_id, attempts in ((one, 1), (flaky, 2), (child, 1)):
        await jobs.result(job_id, timeout=20)
        assert (await jobs.status(job_id)).attempts == attempts
    for job_id, why in ((dead, "it shall die"), (huge, "cannot be kept")):
        with pytest.raises(JobService.Error, match=why):
            await jobs.result(job_id, timeout=20)
        assert (await jobs.status(job_id)).attempts == 1
        assert await eventually(lambda job_id=job_id: jobs.dlq.find(job_id))
    await worker.stop()


async def test_a_submit_ends_in_its_own_error(telemetry_apps: TelemetryApps, receiver: Receiver) -> None:
    telemetry_apps.environment |= {
        "HOST_ENDPOINT": receiver.url,
        "HOST_IS_BROKEN": "span",
        "HOST_RAISES": "SystemExit",
        "JSJOBS_NAMESPACE": "nothing-here",
    }
    process = await telemetry_apps.start("submit", "note", "1")
    assert "'nothing-here': run `jsjobs streams apply`" in await process.errors()
    assert await process.child.wait() == 1
