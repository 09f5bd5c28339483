"""What a header can do that no right can keep off."""

import json
from collections.abc import Callable

import pytest
from secured import plain_client

from facts import eventually
from jsjobs import JobService
from stream_facts import messages_in


@pytest.mark.parametrize("user", ["worker", "service", "router", "operator"])
async def test_who_writes_states_can_empty_them_with_a_rollup(
    as_user: Callable[..., JobService.Config], user: str
) -> None:
    """The page says so: rights are for subjects, not for headers, and the server keeps rollups on for delete markers."""
    async with (
        plain_client(as_user("operator").nats_url, "root") as root,
        plain_client(root.connected_url.geturl(), user) as one,
    ):
        assert (await root.jetstream().stream_info("KV_jobs")).state.messages > 1
        await one.request("$KV.jobs.normal-1", b"1", headers={"Nats-Rollup": "all"})
        assert (await root.jetstream().stream_info("KV_jobs")).state.messages == 1
        config = json.loads((await root.request("$JS.API.STREAM.INFO.KV_jobs")).data)["config"]
        config["allow_rollup_hdrs"] = False
        updated = await root.request("$JS.API.STREAM.UPDATE.KV_jobs", json.dumps(config).encode())
        assert json.loads(updated.data)["config"]["allow_rollup_hdrs"] is True


@pytest.mark.parametrize("user", ["delaying", "service", "operator"])
async def test_who_delays_jobs_can_take_away_what_is_due_and_in_no_queue_yet(
    as_user: Callable[..., JobService.Config], user: str
) -> None:
    async with (
        plain_client(as_user("operator").nats_url, "root") as root,
        plain_client(root.connected_url.geturl(), user) as one,
    ):
        schedule = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "jobs.due.unfit"}

        async def due_after(sequence: int) -> int:
            state = (await root.jetstream().stream_info("JOBS_SCHEDULE")).state
            return state.last_seq if state.last_seq > sequence + 1 and state.messages == 1 else 0

        ack = await root.jetstream().publish("jobs.at.at-theirs", b"1", headers=schedule)
        await eventually(lambda: due_after(ack.seq - 1))
        answer = await one.request("jobs.at.at-own", b"1", headers={**schedule, "Nats-Schedule-Rollup": "sub"})
        own = json.loads(answer.data)["seq"]
        assert await eventually(lambda: due_after(own - 1)) == own + 1, "the other is gone, and nothing else"
        await one.request("jobs.at.at-own", b"1", headers={"Nats-Rollup": "all"})
        assert (
            await root.jetstream().stream_info("JOBS_SCHEDULE", subjects_filter="jobs.due.>")
        ).state.subjects is None
        config = json.loads((await root.request("$JS.API.STREAM.INFO.JOBS_SCHEDULE")).data)["config"]
        config["allow_rollup_hdrs"] = False
        updated = await root.request("$JS.API.STREAM.UPDATE.JOBS_SCHEDULE", json.dumps(config).encode())
        assert json.loads(updated.data)["config"]["allow_rollup_hdrs"] is True


async def test_who_delays_jobs_can_replace_anothers(as_user: Callable[..., JobService.Config]) -> None:
    """The server cannot tell whose a schedule is: the job that waited runs with what another put in its place."""
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(as_user("operator")) as operator,
        plain_client(as_user("operator").nats_url, "delaying") as hostile,
        worker,
        worker.worker(),
    ):
        waits = await operator.submit("echo", "mine", delay=3600)
        schedule = {"Nats-Schedule": "@at 2020-01-01T00:00:00Z", "Nats-Schedule-Target": "jobs.due.normal.e.echo"}
        await hostile.request(f"jobs.at.{waits}", b'"theirs"', headers={**schedule, "Jsjobs-Id": str(waits)})
        assert await operator.result(waits, timeout=20) == "theirs"


async def test_a_router_may_empty_the_schedules(as_user: Callable[..., JobService.Config]) -> None:
    url = as_user("operator").nats_url
    async with JobService(as_user("operator")) as operator, plain_client(url, "router") as router:
        await operator.submit("echo", 1, delay=3600)
        answer = json.loads((await router.request("$JS.API.STREAM.PURGE.JOBS_SCHEDULE", b"")).data)
        assert answer["purged"] >= 1
        assert await messages_in(operator.connection, "JOBS_SCHEDULE") == 0
