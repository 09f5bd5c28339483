"""Every right, every role: the server itself says who may publish and subscribe where."""

import json
from collections.abc import Callable
from contextlib import suppress

import pytest
from nats.errors import NoRespondersError
from secured import USERS, plain_client, wire

from jsjobs import JobService

NOBODY: set[str] = set()
LOOKERS = {"worker", "service", "operator", "viewer"}
READERS = LOOKERS - {"viewer"}
"""Those who may read by direct get, which may ask for a whole stream."""
SUBMITTERS = {"publisher", "worker", "service", "operator"}
WRITERS = {"worker", "service", "router", "operator"}

NOT_ENABLED = 10039

PUBLISH = {
    "jobs.normal.e.t": SUBMITTERS,
    "jobs.critical.e.two.words": SUBMITTERS,
    "jobs.parallel.normal.-.t": SUBMITTERS,
    "jobs.parallel.critical.acme.two.words": SUBMITTERS,
    "jobs.parallel.other.-.t": NOBODY,
    "jobs.rpc.submit": {"publisher", "operator"},
    "jobs.rpc.tenant.acme.submit": {"acme", "operator"},
    "jobs.rpc.tenant.other.submit": {"operator"},
    "jobs.rpc.status": {"operator"},
    "jobs.rpc.cancel": {"operator"},
    "$SRV.PING": {"operator"},
    # Reading: states, results, payloads.
    "$JS.API.DIRECT.GET.KV_jobs.$KV.jobs.normal-1": READERS | {"router"},
    "$JS.API.DIRECT.GET.KV_jobs": READERS | {"router"},
    "$JS.API.DIRECT.GET.JOBS_NORMAL": READERS,
    "$JS.API.DIRECT.GET.JOBS_NORMAL_PARALLEL": READERS | {"router"},
    "$JS.API.DIRECT.GET.JOBS_PROGRESS": {"service", "operator"},
    "$JS.API.DIRECT.GET.JOBS_DEAD": NOBODY,
    "$JS.API.STREAM.MSG.GET.JOBS_NORMAL": {"router", "operator", "viewer"},
    "$JS.API.STREAM.MSG.GET.JOBS_NORMAL_PARALLEL": {"router", "operator", "viewer"},
    "$JS.API.STREAM.MSG.GET.JOBS_DEAD": {"router"},
    "$JS.API.STREAM.INFO.JOBS_NORMAL": LOOKERS | {"router"},
    "$JS.API.STREAM.INFO.JOBS_NORMAL_PARALLEL": LOOKERS | {"router"},
    # Of a stream with a subject for each job, it may ask for the names of all.
    "$JS.API.STREAM.INFO.KV_jobs": LOOKERS - {"viewer"} | {"router"},
    "$JS.API.STREAM.INFO.JOBS_PROGRESS": {"router", "operator"},
    "$JS.API.STREAM.INFO.JOBS_SCHEDULE": {"router", "operator"},
    "$JS.API.STREAM.INFO.OTHERS": NOBODY,
    "$JS.API.STREAM.NAMES": NOBODY,
    "$JS.API.CONSUMER.LIST.JOBS_NORMAL": {"worker", "router", "operator", "viewer"},
    "$JS.API.CONSUMER.LIST.JOBS_NORMAL_PARALLEL": {"worker", "router", "operator", "viewer"},
    "$JS.API.CONSUMER.INFO.JOBS_NORMAL_PARALLEL.normal-parallel-0": {"worker", "router", "operator"},
    "$JS.API.CONSUMER.MSG.NEXT.JOBS_NORMAL.normal-1x2-0": NOBODY,
    "$JS.API.CONSUMER.MSG.NEXT.JOBS_NORMAL_PARALLEL.normal-parallel-0": {"worker"},
    "$JS.API.CONSUMER.MSG.NEXT.JOBS_DEAD.router": NOBODY,
    "$JS.API.CONSUMER.CREATE.JOBS_NORMAL.spy": {"operator"},
    "$JS.API.CONSUMER.CREATE.KV_jobs.spy.$KV.jobs.>": {"operator"},
    "$JS.API.CONSUMER.CREATE.OTHERS.spy": NOBODY,
    "$JS.API.CONSUMER.CREATE.JOBS_NORMAL_PARALLEL.spy": {"operator"},
    "$JS.API.CONSUMER.DURABLE.CREATE.JOBS_NORMAL.spy": {"router", "operator"},
    "$JS.API.CONSUMER.DURABLE.CREATE.JOBS_NORMAL_PARALLEL.spy": {"router", "operator"},
    "$JS.API.CONSUMER.DELETE.JOBS_NORMAL_PARALLEL.spy": {"router", "operator"},
    "$JS.API.CONSUMER.PAUSE.JOBS_NORMAL_PARALLEL.spy": {"router", "operator"},
    "$JS.API.CONSUMER.DURABLE.CREATE.KV_jobs.spy": {"operator"},
    "$JS.API.CONSUMER.DELETE.JOBS_NORMAL.spy": {"router", "operator"},
    "$JS.API.CONSUMER.PAUSE.JOBS_NORMAL.spy": {"router", "operator"},
    # Streams.
    "$JS.API.STREAM.CREATE.JOBS_NORMAL": {"operator"},
    "$JS.API.STREAM.CREATE.OTHERS": NOBODY,
    "$JS.API.STREAM.UPDATE.JOBS_NORMAL": {"operator"},
    "$JS.API.STREAM.UPDATE.JOBS_NORMAL_PARALLEL": {"operator"},
    "$JS.API.STREAM.DELETE.JOBS_NORMAL_PARALLEL": NOBODY,
    "$JS.API.STREAM.PURGE.JOBS_NORMAL_PARALLEL": NOBODY,
    "$JS.API.STREAM.UPDATE.KV_jobs": {"operator"},
    "$JS.API.STREAM.DELETE.JOBS_NORMAL": NOBODY,
    "$JS.API.STREAM.PURGE.JOBS_NORMAL": NOBODY,
    "$JS.API.STREAM.PURGE.KV_jobs": NOBODY,
    "$JS.API.STREAM.SNAPSHOT.KV_jobs": NOBODY,
    "$JS.API.STREAM.RESTORE.KV_jobs": NOBODY,
    "$JS.API.STREAM.MSG.DELETE.JOBS_NORMAL": {"service", "router", "operator"},
    "$JS.API.STREAM.MSG.DELETE.JOBS_NORMAL_PARALLEL": {"service", "router", "operator"},
    "$JS.API.STREAM.MSG.DELETE.KV_jobs": {"operator"},
    # What only jsjobs itself may say.
    "$KV.jobs.normal-1": WRITERS,
    "$KV.jobs.batch.b": {"worker", "service", "operator"},
    "$KV.jobs.topology.normal": {"router", "operator"},
    "$KV.jobs.quota.x": {"service"},
    "$KV.others.key": NOBODY,
    "jobs.progress.normal-1": {"worker"},
    "jobs.dead.normal-1": {"worker", "router"},
    "jobs.cancel.normal-1": {"service", "operator"},
    "jobs.at.at-1": {"service", "operator"},
    "jobs.at.schedule.x": {"service", "operator"},
    "jobs.due.normal.e.t": {"service", "operator"},
    "jobs.due.parallel.normal.-.t": {"service", "operator"},
    "jobs.work.normal.1x2.0.t": NOBODY,
    "jobs.lane.normal.0.t": NOBODY,
    "jobs.deliver.normal.1x2.0": NOBODY,
    "jobs.source.normal": NOBODY,
    "jobs.source.normal-parallel": NOBODY,
    "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS_NORMAL.normal-1x2-0": NOBODY,
    "$JS.ACK.JOBS_NORMAL.normal-1x2-0.1.1.1.1.0": {"worker"},
    # Whoever may have a job run now wakes it by the delivery that it sleeps in.
    "$JS.ACK.JOBS_NORMAL_PARALLEL.normal-parallel-0.1.1.1.1.0": {"worker", "service", "operator"},
    "$JS.ACK.JOBS_DEAD.router.1.1.1.1.0": {"router"},
    "$JS.ACK.JOBS_SCHEDULE.source-normal.1.1.1.1.0": NOBODY,
    "$JS.API.CONSUMER.DURABLE.CREATE.JOBS_SCHEDULE.source-normal": {"router", "operator"},
    "$JS.API.CONSUMER.DURABLE.CREATE.JOBS_SCHEDULE.source-normal-parallel": {"router", "operator"},
    "$JS.API.CONSUMER.DURABLE.CREATE.JOBS_SCHEDULE.spy": {"operator"},
    "$JS.API.CONSUMER.DURABLE.CREATE.JOBS_DEAD.spy": {"operator"},
    "$JS.API.CONSUMER.DELETE.JOBS_SCHEDULE.source-normal": {"operator"},
    "$JS.API.CONSUMER.DELETE.JOBS_SCHEDULE.spy": {"operator"},
    "$JS.API.CONSUMER.RESET.JOBS_SCHEDULE.source-normal": {"operator"},
    "_INBOX.worker.x": NOBODY,
    "_INBOX.service.x": NOBODY,
    "_INBOX.operator.x": NOBODY,
    "_INBOX.operator.x.y": NOBODY,
    "_INBOX.operator.seen.x.y": {"worker"},
    "_INBOX.elsewhere.seen.x.y": NOBODY,
    "_R_.x.y": {"worker", "service"},
}
SUBSCRIBE = {
    ">": NOBODY,
    "jobs.>": NOBODY,
    "jobs.normal.*.>": NOBODY,
    "jobs.parallel.normal.*.>": NOBODY,
    "jobs.lane.>": NOBODY,
    "jobs.deliver.>": NOBODY,
    "jobs.deliver.normal.1x2.0": {"worker"},
    "jobs.deliver.dead": {"router"},
    "jobs.cancel.*": {"worker"},
    "jobs.rpc.>": {"service"},
    # Who may subscribe to `a.*` may to `a.>`, says the server: nothing that matters stands one word further down.
    "jobs.progress.>": {"service", "operator", "viewer"},
    "jobs.progress.*": {"service", "operator", "viewer"},
    "$KV.jobs.>": LOOKERS,
    "$KV.jobs.*": LOOKERS,
    "$KV.jobs.topology.*": {"worker", "operator"},
    "$JS.ACK.>": NOBODY,
    "$JS.EVENT.>": NOBODY,
    "_INBOX.>": NOBODY,
    **{f"_INBOX.{user}.>": {user} for user in USERS},
}


@pytest.mark.parametrize("user", USERS)
async def test_who_may_say_and_hear_what(as_user: Callable[[str], JobService.Config], user: str) -> None:
    async with wire(as_user(user).nats_url, user) as plain:
        for subjects, kind in ((PUBLISH, "Publish"), (SUBSCRIBE, "Subscription")):
            refused = {subject for subject in subjects if await plain.is_refused(subject, kind=kind)}
            assert refused == {subject for subject, users in subjects.items() if user not in users}
    async with wire(as_user(user).nats_url, "root") as root:
        for subjects, kind in ((PUBLISH, "Publish"), (SUBSCRIBE, "Subscription")):
            assert [subject for subject in subjects if await root.is_refused(subject, kind=kind)] == []


async def test_an_account_is_a_wall_without_any_permissions(as_user: Callable[[str], JobService.Config]) -> None:
    """Who may say everything among publishers reaches nothing of the namespace but its queues and `submit`."""
    config = as_user("operator")
    body = json.dumps({"last_by_subj": "$KV.jobs.topology.normal"}).encode()
    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "stranger") as stranger,
        plain_client(config.nats_url, "root") as root,
    ):
        job_id = await operator.submit("t", "a secret payload")
        heard: list[str] = []

        async def hear(message: object) -> None:
            heard.append(message.subject)

        await stranger.subscribe(">", cb=hear)
        for subject, request in (
            ("$JS.API.DIRECT.GET.KV_jobs", body),
            ("$JS.API.STREAM.MSG.GET.KV_jobs", body),
            ("$JS.API.DIRECT.GET.JOBS_NORMAL_PARALLEL", json.dumps({"seq": int(job_id.split("-")[-1])}).encode()),
            ("$JS.API.STREAM.INFO.JOBS_NORMAL_PARALLEL", b""),
        ):
            assert (await root.request(subject, request)).data
            with suppress(NoRespondersError, TimeoutError):
                answer = await stranger.request(subject, request, timeout=0.2)
                assert json.loads(answer.data)["error"]["err_code"] == NOT_ENABLED, "it is its own account that answers"
        before = await root.jetstream().stream_info("KV_jobs")
        for subject in (
            "$KV.jobs.normal-1",
            "jobs.dead.normal-1",
            "$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.JOBS_NORMAL.x",
        ):
            await stranger.publish(subject, b"forged", headers={"Nats-Rollup": "all"})
        await stranger.flush()
        assert (await root.jetstream().stream_info("KV_jobs")).state == before.state
        assert (await root.jetstream().stream_info("JOBS_DEAD")).state.messages == 0
        await operator.submit("t", "another secret")
        await stranger.flush()
        assert not [subject for subject in heard if subject.startswith(("jobs.normal", "jobs.parallel", "jobs.lane"))]
        assert (await stranger.jetstream().publish("jobs.normal.e.t", b"1")).stream == "JOBS_NORMAL"
        assert (await stranger.jetstream().publish("jobs.parallel.normal.-.t", b"1")).stream == "JOBS_NORMAL_PARALLEL"
