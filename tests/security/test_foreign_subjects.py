"""What an operator can make a stream of ours do beside what is declared: doctor names it, apply takes it back or says why not."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from commands import commands
from secured import api, environment, plain_client

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.plan import Action
from jsjobs.jetstream.topology.reconciler import TopologyReconciler

Settings = Callable[..., JobService.Config]
NAMES = Names("jobs")

FOREIGN: list[tuple[str, dict[str, Any]]] = [
    ("JOBS_PROGRESS", {"subjects": ["jobs.progress.*", "_INBOX.>"]}),
    ("JOBS_PROGRESS", {"sources": [{"name": "OTHERS"}]}),
    ("JOBS_PROGRESS", {"republish": {"src": "jobs.progress.>", "dest": "elsewhere.>"}}),
    ("JOBS_PROGRESS", {"subject_transform": {"src": "jobs.progress.*", "dest": "elsewhere.{{wildcard(1)}}"}}),
    ("JOBS_PROGRESS", {"max_msgs": 1}),
    ("JOBS_DEAD", {"no_ack": True}),
    ("JOBS_DEAD", {"republish": {"src": "jobs.dead.>", "dest": "elsewhere.>"}}),
    ("JOBS_SCHEDULE", {"subject_transform": {"src": "jobs.due.>", "dest": "elsewhere.>"}}),
    ("KV_jobs", {"republish": {"src": "$KV.jobs.>", "dest": "elsewhere.>"}}),
    ("KV_jobs", {"max_msg_size": 10}),
    ("JOBS_LOW", {"republish": {"src": "jobs.work.low.>", "dest": "elsewhere.>"}}),
    ("JOBS_LOW", {"max_msgs": 1}),
    (
        "JOBS_LOW",
        {"subject_transform": {"src": "jobs.low.*.evil", "dest": "jobs.work.low.1x1.{{partition(1,1)}}.evil"}},
    ),
]


async def test_apply_takes_it_back(as_user: Settings) -> None:
    config = as_user("operator")
    worker = JobService(as_user("worker"))
    worker.register_handler("echo", lambda payload: payload)
    async with (
        JobService(config) as operator,
        plain_client(config.nats_url, "root") as root,
        plain_client(config.nats_url, "operator") as hostile,
        worker,
        worker.worker(),
    ):
        await root.jetstream().add_stream(name="OTHERS", subjects=["others.*"])
        topology = TopologyReconciler(operator.connection, NAMES, config)
        await root.publish("jobs.progress.x", b"{}")
        for stream, foreign in FOREIGN:
            info = await api(hostile, f"STREAM.INFO.{stream}")
            answer = await api(hostile, f"STREAM.UPDATE.{stream}", {**info["config"], **foreign})
            assert "error" not in answer, (stream, foreign, answer)
            steps = [step for step in await topology.plan() if step.action is not Action.KEEP]
            assert [(step.action, step.name) for step in steps] == [(Action.UPDATE, stream)], foreign
            assert steps[0].changes.keys() == foreign.keys()
            await topology.apply()
            assert {step.action for step in await topology.plan()} == {Action.KEEP}, foreign
            now = await api(hostile, f"STREAM.INFO.{stream}")
            assert {key: now["config"].get(key) for key in foreign} == {key: info["config"].get(key) for key in foreign}
        job = await operator.submit("echo", 1, priority="low", entity="e")
        assert await operator.result(job, timeout=20) == 1


async def test_an_operator_can_read_everybodys_answers_until_somebody_applies(as_user: Settings) -> None:
    config = as_user("operator")
    env = environment(config)
    async with (
        plain_client(config.nats_url, "operator") as hostile,
        plain_client(config.nats_url, "root") as root,
    ):
        info = await api(hostile, "STREAM.INFO.JOBS_PROGRESS")
        subjects = ["jobs.progress.*", "_INBOX.worker.>"]
        await api(hostile, "STREAM.UPDATE.JOBS_PROGRESS", {**info["config"], "subjects": subjects})
        await root.publish("_INBOX.worker.x", b"an answer")

        async def is_read() -> bool:
            read = await hostile.request("$JS.API.DIRECT.GET.JOBS_PROGRESS", b'{"last_by_subj":"_INBOX.worker.x"}')
            return bool(read.data == b"an answer")

        await eventually(is_read)
    [examined] = await commands((env, ("doctor", "--json")))
    [found] = [one for one in json.loads(examined.out)["findings"] if one["where"] == "JOBS_PROGRESS"]
    assert "subjects is" in found["what"]
    [applied] = await commands((env, ("streams", "apply")))
    assert applied.code == 0, applied.err


@pytest.mark.parametrize("for_good", ["deny_purge", "deny_delete", "sealed"])
async def test_what_cannot_be_taken_back_is_refused_with_words(as_user: Settings, for_good: str) -> None:
    config = as_user("operator")
    async with plain_client(config.nats_url, "operator") as hostile:
        info = await api(hostile, "STREAM.INFO.JOBS_PROGRESS")
        await api(hostile, "STREAM.UPDATE.JOBS_PROGRESS", {**info["config"], for_good: True})
    [applied] = await commands((environment(config), ("streams", "apply")))
    assert applied.code != 0
    assert f"stream JOBS_PROGRESS: its {for_good} is True" in " ".join(applied.err.split())
