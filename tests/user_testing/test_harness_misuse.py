"""What a harness refuses, in one clear line."""

import math
from typing import Any

import pytest

from jsjobs import JobService
from jsjobs.embedded.nats import NatsServer
from jsjobs.testing import Harness


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"namespace": "mine"}, "namespace: every harness has a fresh one"),
        ({"no_such": 1}, "no_such: Extra inputs"),
        ({"ack_wait": "soon"}, "ack_wait: Input should be a valid number"),
        ({"pools": {"urgent": 1}}, "pools.urgent"),
        ({"nats_url": 4222}, "nats_url: Input should be a valid string"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(JobService.Error) as raised:
        Harness(**settings)
    assert raised.value.reason == "Validation"
    assert words in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("wrong", [None, "jobs", JobService, 3])
async def test_what_is_no_service(harness: Harness, wrong: Any) -> None:
    with pytest.raises(JobService.Error, match=r"^Validation: using\(\) takes a JobService, not "):
        async with harness.using(wrong):
            pytest.fail("entered")
    if wrong is not None:
        async with harness.service():
            with pytest.raises(JobService.Error, match="not in use here"):
                await harness.run_all(wrong)


async def test_a_service_that_is_connected_already(harness: Harness, nats_server: NatsServer) -> None:
    own = JobService.Config(nats_url=nats_server.url)
    async with JobService(own) as jobs:
        with pytest.raises(JobService.Error, match=r"^Validation: the service is connected already"):
            async with harness.using(jobs):
                pytest.fail("entered")
        assert jobs.config is own
    async with harness.using(jobs):
        with pytest.raises(JobService.Error, match="connected already"):
            async with harness.using(jobs):
                pytest.fail("entered")
        await jobs.submit("still.works")
        assert [job.type for job in await harness.queued()] == ["still.works"]


async def test_a_server_that_is_away(nats_server: NatsServer) -> None:
    with pytest.raises(JobService.Error) as raised:
        await Harness(nats_url="nats://127.0.0.1:9", timeout=1).open()
    assert raised.value.reason == "RunnerUnavailable"
    own = JobService.Config()
    jobs = JobService(own)
    with NatsServer(nats_server.home.parent / "away") as server:
        harness = Harness(nats_url=server.url, timeout=1)
        await harness.open()
    with pytest.raises(JobService.Error) as raised:
        async with harness.using(jobs):
            pytest.fail("entered")
    assert raised.value.reason == "RunnerUnavailable"
    assert jobs.config is own
    with pytest.raises(JobService.Error, match="RunnerUnavailable"):
        await harness.close()


async def test_a_harness_that_is_not_open(harness: Harness, nats_server: NatsServer) -> None:
    with pytest.raises(JobService.Error, match="open already"):
        await harness.open()
    closed = Harness(nats_url=nats_server.url)
    await closed.close()  # nothing to close
    for use in (closed.run_all, closed.queued, closed.using(JobService(harness.config)).__aenter__):
        with pytest.raises(JobService.Error, match=r"^Validation: the harness is not open"):
            await use()


async def test_whose_handlers_run_must_be_clear(harness: Harness) -> None:
    with pytest.raises(JobService.Error, match="no service is in use"):
        await harness.run_all()
    async with harness.service() as one, harness.service() as other:

        @other.handler("echo")
        async def echo(payload: int) -> int:
            return payload

        await one.submit("echo", 1)
        with pytest.raises(JobService.Error, match="several services are in use"):
            await harness.run_all()
        assert [status.result for status in await harness.run_all(other)] == [1]
    with pytest.raises(JobService.Error, match="not in use here"):
        await harness.run_all(other)


@pytest.mark.parametrize("timeout", [-1, math.nan, "10", None, True])
async def test_timeouts_that_cannot_be(harness: Harness, timeout: Any) -> None:
    async with harness.service():
        with pytest.raises(JobService.Error, match=r"^Validation: the timeout must be seconds"):
            await harness.run_all(timeout=timeout)


@pytest.mark.parametrize("job_type", ["", "two words", "a..b", 3, b"a"])
async def test_types_that_cannot_be(harness: Harness, job_type: Any) -> None:
    with pytest.raises(JobService.Error, match=r"^Validation: (a )?job type"):
        await harness.queued(job_type)
