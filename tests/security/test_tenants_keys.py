"""A tenant's keys, on its own subject, are nobody else's: who only names the tenant meets none of them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from nats.aio.client import Client
from nats.js.errors import APIError
from secured import plain_client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.schedules.delayed import digest
from jsjobs.rpc import Rpc

Settings = Callable[..., JobService.Config]
OWN = "jobs.rpc.tenant.acme.submit"
EVERYBODYS = "jobs.rpc.submit"


class Users:
    """A publisher who means harm, and the tenant."""

    def __init__(self, publisher: Client, acme: Client, jobs: JobService) -> None:
        self.publisher, self.acme, self.jobs = publisher, acme, jobs

    async def own(self, payload: object = "own", **job: object) -> dict[str, Any]:
        return await self._submit(self.acme, OWN, {"payload": payload, **job})

    async def theirs(self, payload: object = "theirs", **job: object) -> dict[str, Any]:
        return await self._submit(self.publisher, EVERYBODYS, {"payload": payload, "tenant": "acme", **job})

    async def raw(self, message_id: str, priority: str = "normal") -> str:
        headers = {"Nats-Msg-Id": message_id, "Jsjobs-Tenant": "acme"}
        ack = await self.publisher.jetstream().publish(f"jobs.parallel.{priority}.-.echo", b'"raw"', headers=headers)
        return f"{priority}-parallel-{ack.seq}"

    async def last_message_id(self, priority: str = "normal") -> str:
        """The server tells it to whoever asks for another."""
        headers = {"Nats-Expected-Last-Msg-Id": "another"}
        with pytest.raises(APIError) as raised:
            await self.publisher.jetstream().publish(f"jobs.parallel.{priority}.-.echo", b"1", headers=headers)
        return str(raised.value.description).partition("wrong last msg ID: ")[2]

    @staticmethod
    async def _submit(client: Client, subject: str, job: dict[str, object]) -> dict[str, Any]:
        answer = await client.request(subject, json.dumps({"type": "echo", **job}).encode(), timeout=20)
        assert not answer.headers, answer.headers
        told: dict[str, Any] = json.loads(answer.data)
        return told


@asynccontextmanager
async def users(as_user: Settings, **given: object) -> AsyncIterator[Users]:
    config = as_user("service", **given)
    async with (
        plain_client(config.nats_url, "acme") as acme,
        plain_client(config.nats_url, "publisher") as publisher,
        JobService(config) as jobs,
        Rpc(jobs),
    ):
        yield Users(publisher, acme, jobs)


@pytest.mark.parametrize("when", [{}, {"delay": 600}, {"at": "2020-01-01T00:00:00Z"}, {"at": "2199-01-01T00:00:00Z"}])
async def test_nobody_takes_a_tenants_dedupe_key(as_user: Settings, when: dict[str, object]) -> None:
    async with users(as_user) as these:
        guesses = ["k", "acme/echo/k", "/acme/echo/k", "//acme/echo/k", "/normal//acme/echo/k"]
        taken = {(await these.theirs(dedupe_key=key, **some))["job_id"] for key in guesses for some in ({}, when)}
        taken |= {await these.raw(key) for key in (*guesses, "acme/echo/acme/echo/k")}
        own = await these.own(dedupe_key="k", **when)
        assert not own["duplicate"]
        assert own["job_id"] not in taken
        assert await these.own(dedupe_key="k", **when) == {**own, "duplicate": True}
        after = [await these.theirs(dedupe_key=key, **when) for key in guesses]
        assert own["job_id"] not in {each["job_id"] for each in after}


async def test_what_the_server_tells_of_a_tenants_job_helps_nobody_to_its_next_one(as_user: Settings) -> None:
    async with users(as_user, duplicate_window=1) as these:
        own = await these.own(dedupe_key="k")
        seen = await these.last_message_id()
        assert seen, "the message id of the tenant's job, which was the last"
        token = seen.rpartition("/")[2]
        assert await these.raw(seen) == own["job_id"], "the job that there is, by another of its names"

        async def is_forgotten() -> bool:
            return not (await these.own(dedupe_key="k"))["duplicate"]

        # Each of these would have to be the id that the key's next job has.
        taken = {await these.raw(seen, "high"), (await these.theirs(dedupe_key=token, priority="high"))["job_id"]}
        high = await these.own(dedupe_key="k", priority="high")
        assert not high["duplicate"]
        assert high["job_id"] not in taken

        await eventually(is_forgotten)
        assert await these.last_message_id() != seen


async def test_nobody_replaces_a_tenants_debounced_job(as_user: Settings) -> None:
    async with users(as_user) as these:
        own = await these.own(debounce_key="k", delay=600)
        for key in ("k", "acme/echo/k", "/acme/echo/k"):
            theirs = await these.theirs(debounce_key=key, at="2199-01-01T00:00:00Z")
            assert theirs["job_id"] != own["job_id"]
        assert (await these.own(debounce_key="k", delay=0.5))["job_id"] == own["job_id"]
        status = await these.jobs.status(own["job_id"])
        assert status.tenant == "acme"
        assert status.scheduled_for is not None
        assert status.scheduled_for.year < 2199
        worker = JobService(as_user("worker"))

        @worker.handler("echo")
        async def echo(payload: object) -> object:
            return payload

        async with worker, worker.worker():
            assert await these.jobs.result(own["job_id"], timeout=20) == "own"


async def test_a_library_that_names_the_tenant_shares_the_keys_of_everybodys_subject(as_user: Settings) -> None:
    async with users(as_user) as these, JobService(as_user("publisher")) as library:
        with library.request_context(tenant_id="acme"):
            job_id = await library.submit("echo", "library", dedupe_key="k")
        assert await these.theirs(dedupe_key="k") == {"job_id": job_id, "duplicate": True}
        own = await these.own(dedupe_key="k")
        assert not own["duplicate"]


async def test_many_submits_of_a_tenants_key_at_once_are_one_job(as_user: Settings) -> None:
    async with users(as_user) as these, JobService(as_user("service")) as other, Rpc(other):
        told = await asyncio.gather(*(these.own(dedupe_key="k") for _ in range(40)))
        assert len({each["job_id"] for each in told}) == 1
        assert sum(not each["duplicate"] for each in told) == 1


async def test_a_submit_that_died_half_way_is_the_job_of_the_one_that_comes_again(as_user: Settings) -> None:
    async with users(as_user) as these, plain_client(as_user("operator").nats_url, "root") as root:
        token = "0123456789abcdef" * 2
        subject = f"jobs.at.key.{digest('/normal//acme/echo/k')}"
        await root.jetstream().publish(subject, token.encode(), headers={"Nats-TTL": "60s"})
        job_id = await these.raw(f"/acme/echo/{token}")
        assert await these.own(dedupe_key="k") == {"job_id": job_id, "duplicate": True}
        noted = await root.jetstream().get_last_msg("JOBS_SCHEDULE", subject)
        assert noted.data == f"{token} {job_id}".encode()
