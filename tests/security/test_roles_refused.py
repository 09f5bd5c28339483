"""What a role may not do fails at once, in one line that names the right; the same works for a role that may."""

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import commands
from secured import AUTH, Wire, apply, config_of, environment, plain_client, secured, server_config, wire

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import find
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.reconciler import TopologyReconciler
from stream_facts import messages_in

Settings = Callable[..., JobService.Config]


async def test_commands_say_which_right_is_missing(as_user: Settings) -> None:
    async with JobService(as_user("operator")) as operator:
        job_id = await operator.submit("echo", 1)
    refused = {
        ("publisher", "status", job_id): "$JS.API.DIRECT.GET.KV_jobs",
        ("publisher", "cancel", job_id): "$JS.API.DIRECT.GET.KV_jobs",
        ("publisher", "submit", "echo", "1", "--delay", "5m"): "jobs.at.",
        ("publisher", "streams", "apply"): "$JS.API.STREAM.INFO.JOBS_CRITICAL",
        ("viewer", "submit", "echo", "1"): "jobs.parallel.normal.-.echo",
        ("viewer", "submit", "echo", "1", "--entity", "e"): "jobs.normal.e.echo",
        ("viewer", "cancel", job_id): "$KV.jobs.normal-",
        ("viewer", "pause", "normal"): "$",
        ("viewer", "schedule", "add", "x", "echo", "1", "--every", "1h"): "jobs.at.schedule.x",
        ("worker", "streams", "apply", "--shards", "low=2"): "$",
        ("acme", "submit", "echo", "1"): "jobs.parallel.normal.-.echo",
    }
    ended = await commands(*((environment(as_user(user)), tuple(words)) for user, *words in refused))
    for (call, subject), end in zip(refused.items(), ended, strict=True):
        assert end.code == 1, (call, end)
        assert end.out == ""
        assert f'this NATS user may not do that: Permissions Violation for Publish to "{subject}' in end.err, (
            call,
            end,
        )
        # Beside the error at most a warning of a hint that it does without.
        assert [line[:7] for line in end.err.splitlines() if "Subscription" not in line] == ["error: "], end.err


async def test_who_has_the_wrong_inbox_is_told_at_once(as_user: Settings) -> None:
    config = as_user("viewer", nats_inbox_prefix="_INBOX")
    ended, fine = await commands((environment(config), ("queues",)), (environment(as_user("viewer")), ("queues",)))
    assert ended.code == 1
    assert 'Violation for Subscription to "_INBOX.' in ended.err
    assert "JSJOBS_NATS_INBOX_PREFIX" in ended.err
    assert ended.err.strip().count("\n") == 0
    assert fine.code == 0


async def test_a_handler_that_may_not_delay_is_told_which_file_it_takes(as_user: Settings) -> None:
    """At once; its attempt has failed with that, and is made again as any other: somebody may give the right."""
    worker = JobService(as_user("worker"))

    @worker.handler("parent")
    async def parent(_: object) -> None:
        await worker.submit("echo", 1, delay=60)

    async with JobService(as_user("operator")) as operator, worker, worker.worker():
        job = await operator.submit("parent", 1)
        with pytest.raises(JobService.Error):
            await operator.result(job, timeout=20)
        status = await operator.status(job)
    assert 'Permissions Violation for Publish to "jobs.at.at-' in str(status.last_error)
    assert "`delaying-worker.conf`" in str(status.last_error)


async def test_a_worker_that_may_declare_no_schedule_says_so_and_works(
    as_user: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    worker = JobService(as_user("worker"))

    @worker.periodic(every=3600)
    @worker.handler("beat")
    async def beat(payload: object) -> object:
        return payload

    async with JobService(as_user("operator")) as operator, worker, worker.worker():
        await eventually(lambda: 'Permissions Violation for Publish to "jobs.at.schedule.beat"' in caplog.text)
        assert "is not what the code declares" in caplog.text
        assert await operator.result(await operator.submit("beat", 1), timeout=20) == 1
        assert await operator.schedules.list() == []


async def test_the_library_says_it_too(as_user: Settings) -> None:
    async with (
        JobService(as_user("publisher")) as publisher,
        JobService(as_user("worker")) as worker,
        JobService(as_user("operator")) as operator,
        JobService(as_user("viewer")) as viewer,
    ):
        job_id = await publisher.submit("echo", {"card": "4111"})
        with pytest.raises(NotPermitted, match="DIRECT") as refused:
            await publisher.status(job_id)
        assert isinstance(refused.value, JobService.Error)
        assert refused.value.reason == "RunnerUnavailable"
        with pytest.raises(NotPermitted, match="DIRECT"):
            await publisher.result(job_id, timeout=5)
        with pytest.raises(NotPermitted, match="DIRECT"):
            _ = [update async for update in publisher.progress(job_id)]
        with pytest.raises(NotPermitted, match="DIRECT"):
            await publisher.cancel(job_id)
        with pytest.raises(NotPermitted, match=r"to .jobs"):
            await viewer.submit("echo", [1, 2])
        with pytest.raises(NotPermitted, match=r"\$KV.jobs"):
            await viewer.cancel(job_id)
        with pytest.raises(NotPermitted):
            await TopologyReconciler(worker.connection, Names("jobs"), worker.config).apply()
        assert (await viewer.status(job_id)).status == "queued"
        assert (await operator.cancel(job_id)).status == "cancelled"


async def test_who_may_not_ask_workers_hears_why_a_running_job_is_not_cancelled(as_user: Settings) -> None:
    """A router may write states, and may not ask a worker to stop."""
    worker = JobService(as_user("worker"))

    @worker.handler("sleeps")
    async def sleeps(_: object) -> None:
        await asyncio.sleep(60)

    async with (
        worker,
        JobService(as_user("operator")) as operator,
        JobService(as_user("router")) as router,
        worker.worker(),
    ):
        job_id = await operator.submit("sleeps")

        async def runs() -> bool:
            return (await operator.status(job_id)).status == "processing"

        await eventually(runs)
        with pytest.raises(NotPermitted, match=f"jobs.cancel.{job_id}"):
            await router.cancel(job_id)
        assert (await operator.cancel(job_id)).status == "cancelled"


async def test_answers_do_not_become_states_letters_nor_jobs(as_user: Settings) -> None:
    """The server answers on whatever subject the asker names; in an account of its own that is its own subject."""
    url = as_user("operator").nats_url
    async with (
        JobService(as_user("operator")) as operator,
        wire(url, "root") as root,
        wire(url, "publisher") as publisher,
        wire(url, "viewer") as viewer,
    ):
        victim = await operator.submit("echo", 1)
        await operator.cancel(victim)
        before = await operator.status(victim)
        for reply in (f"$KV.jobs.{victim}", "jobs.dead.x", "jobs.critical.e.echo", f"jobs.cancel.{victim}"):
            await publisher.publish("jobs.normal.e.echo", b"1", reply=reply)
            await viewer.publish("$JS.API.STREAM.MSG.GET.KV_jobs", b'{"seq":1}', reply=reply)
            await viewer.publish("$JS.API.STREAM.INFO.JOBS_LOW", b"", reply=reply)

        async def stored() -> bool:
            return await messages_in(operator.connection, "JOBS_NORMAL") == 4

        await eventually(stored)
        assert await operator.status(victim) == before
        assert await messages_in(operator.connection, "JOBS_DEAD") == 0
        assert await messages_in(operator.connection, "JOBS_CRITICAL") == 0
        # Within the account it works: neither publishers nor viewers must be there.
        await root.publish("jobs.normal.e.echo", b"1", reply="jobs.dead.x")
        await root.publish("$JS.API.STREAM.INFO.KV_jobs", b"", reply="jobs.dead.y")

        async def forged() -> bool:
            return await messages_in(operator.connection, "JOBS_DEAD") == 2

        await eventually(forged)


async def test_nobody_reads_anothers_answers(as_user: Settings) -> None:
    url = as_user("operator").nats_url
    async with JobService(as_user("operator")) as operator, wire(url, "root") as root:
        spies: dict[str, Wire] = {"root": root}
        async with plain_client(url, "viewer"), wire(url, "publisher") as publisher, wire(url, "worker") as worker:
            spies |= {"publisher": publisher, "worker": worker}
            refused = {user: await spy.listen("_INBOX.>") for user, spy in spies.items()}
            assert refused == {"root": False, "publisher": True, "worker": True}
            await operator.status(await operator.submit("echo", "secret"))
            heard = {user: await spy.heard() for user, spy in spies.items()}
        assert "secret" in heard["root"]
        assert (heard["publisher"], heard["worker"]) == ("", "")


async def test_a_publisher_cannot_empty_anything_with_a_rollup(as_user: Settings) -> None:
    url = as_user("operator").nats_url
    async with JobService(as_user("operator")) as operator, plain_client(url, "publisher") as publisher:
        await operator.submit("echo", 1, entity="e")
        answer = await publisher.request("jobs.normal.e.echo", b"1", headers={"Nats-Rollup": "all"})
        assert "rollup not permitted" in json.loads(answer.data)["error"]["description"]
        assert await messages_in(operator.connection, "JOBS_NORMAL") == 1
        states = await messages_in(operator.connection, "KV_jobs")
        async with plain_client(url, "root") as root:
            await root.request("$KV.jobs.batch.b", b"1", headers={"Nats-Rollup": "all"})
        assert states > 1
        assert await messages_in(operator.connection, "KV_jobs") == 1, (
            "who may publish there can, hence no publisher may"
        )


async def test_a_router_that_may_not_publish_letters_clears_away_what_fired_and_buries_what_it_can(
    tmp_path: Path, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """As with the role of an older version."""
    files = tmp_path / "files"
    shutil.copytree(AUTH, files)
    role = (files / "router.conf").read_text()
    assert role.count('"jobs.dead.*"\n') == 1
    (files / "router.conf").write_text(role.replace('"jobs.dead.*"\n', "\n"))
    with secured(tmp_path / "nats", server_config(), files) as server:
        await apply(config_of(server.url, "operator"))
        root, router_user = (config_of(server.url, user, database_url=database_url) for user in ("root", "router"))
        async with JobService(root) as jobs, JobService(router_user) as routing:
            jobs.register_handler("note", lambda payload: payload)
            for subject in (b"jobs.due.nowhere", b"jobs.due.*", b"jobs.normal.e.>"):
                await jobs.connection.ask(subject, b"1")
            async with jobs.worker():
                await jobs.result(await jobs.submit("note", 1, delay=0.1, priority="high"))
            router = routing.router()

            async def only_the_letters_wait() -> bool:
                await router.sweep()
                due = await find(jobs.connection, "STREAM.INFO.JOBS_SCHEDULE")
                queue = await find(jobs.connection, "STREAM.INFO.JOBS_NORMAL")
                return (due["state"]["messages"], queue["state"]["messages"]) == (2, 0)

            await eventually(only_the_letters_wait)
    assert "could not be made a dead letter" in caplog.text
    assert 'for Publish to "jobs.dead.at-unfit-' in caplog.text


async def test_the_doctor_names_the_right_that_a_viewer_lacks(as_user: Settings) -> None:
    [examined] = await commands((environment(as_user("viewer")), ("doctor", "--json")))
    found = json.loads(examined.out)["findings"]
    assert not [each for each in found if "is not available" in each["what"]]
    [limits] = [each for each in found if each["check"] == "limits"]
    assert limits["severity"] == "note"
    assert 'Permissions Violation for Publish to "$JS.API.INFO"' in limits["what"]
    assert "$JS.API.INFO" in limits["remedy"]
    # The rest is looked at all the same.
    assert "workers" in {each["check"] for each in found}, found
