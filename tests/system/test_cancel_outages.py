"""Cancelling through a connection that breaks and does not come back: an answer in time, and one that agrees."""

import asyncio
import time

import pytest

from jsjobs import JobService
from tcp_proxy import TcpProxy

Status = JobService.Status


def is_first_write(data: bytes) -> bool:
    return b"Jsjobs-Writer" in data and b"Jsjobs-Provisional" in data


def is_last_write(data: bytes) -> bool:
    return b"Nats-TTL" in data and b"Jsjobs-Provisional" not in data


@pytest.mark.parametrize(
    ("lost", "expected"),
    [(is_first_write, "RunnerUnavailable"), (is_last_write, Status.CANCELLED)],
    ids=["the write that decides", "the write that lets the entry age"],
)
async def test_a_cancel_ends_in_its_time_though_the_server_is_gone(jobs: JobService, lost, expected: str) -> None:
    job_id = await jobs.submit("note", "x")
    async with TcpProxy(jobs.config.nats_url) as proxy:

        def is_lost(data: bytes) -> bool:
            proxy.deaf = proxy.deaf or lost(data)
            return proxy.deaf

        async with JobService(jobs.config.model_copy(update={"nats_url": proxy.url})) as caller:
            proxy.cut_before_request(is_lost)
            began = time.monotonic()
            async with asyncio.timeout(20):
                try:
                    outcome: str = (await caller.cancel(job_id, timeout=1)).status
                except JobService.Error as error:
                    outcome = error.reason
            assert proxy.lost
            assert time.monotonic() - began >= 0.9, "it tried on"
    assert outcome == expected
    status = (await jobs.status(job_id)).status
    assert status is (Status.CANCELLED if expected == Status.CANCELLED else Status.QUEUED)


async def test_a_cancel_goes_through_when_the_connection_comes_back_in_its_time(jobs: JobService) -> None:
    job_id = await jobs.submit("note", "x")
    async with (
        TcpProxy(jobs.config.nats_url) as proxy,
        JobService(jobs.config.model_copy(update={"nats_url": proxy.url})) as caller,
    ):
        proxy.cut_before_request(is_first_write)
        assert (await caller.cancel(job_id, timeout=20)).status is Status.CANCELLED
        assert proxy.lost
    assert (await jobs.status(job_id)).status is Status.CANCELLED
