"""A worker of some priorities only."""

from collections.abc import Callable

import pytest

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition
from jsjobs.model.job import Priority
from jsjobs.settings import load


async def test_it_takes_their_jobs_and_no_others(service: Callable) -> None:
    ran: dict[str, list[str]] = {"some": [], "all": []}

    def register(jobs: JobService, name: str) -> None:
        @jobs.handler("t")
        async def handler(payload: object, ctx: JobService.Context) -> None:
            ran[name].append(ctx.job_id)

    async with service(priorities=("critical", "high")) as some, service() as every:
        register(some, "some")
        register(every, "all")
        ids = [
            await every.submit("t", 0, priority=priority, entity=entity)
            for priority in Priority
            for entity in ("e", None)
        ]
        async with some.worker() as worker:
            await eventually(lambda: len(ran["some"]) == 4)
            await eventually(lambda: worker.ready)
            assert len(worker.taken) == 4 + 3 + 2 * 4
            assert {place.priority for place in worker.taken} == {Priority.CRITICAL, Priority.HIGH}
            for job_id in ids[4:]:
                assert (await every.status(job_id)).status == "queued"
        async with every.worker():
            for job_id in ids:
                await every.result(job_id)
    assert set(ran["some"]) == set(ids[:4])
    assert set(ran["all"]) == set(ids[4:])


async def test_it_is_ready_whatever_others_lack(service: Callable, connection: Connection, namespace: str) -> None:
    names = Names(namespace)
    for partition in (Partition(Priority.LOW, 0), Partition(Priority.LOW, 3)):
        stream = names.queue(partition.queue)
        await connection.ask(f"$JS.API.CONSUMER.DELETE.{stream}.{partition.consumer}".encode())
    async with (
        service(priorities=("critical",)) as some,
        service() as every,
        some.worker() as worker,
        every.worker() as other,
    ):
        await eventually(lambda: worker.ready)
        await eventually(lambda: "low-parallel-0" in other.why_not_ready)
        assert worker.ready


def test_priorities_are_words_with_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().priorities == tuple(Priority)
    monkeypatch.setenv("JSJOBS_PRIORITIES", "high, critical")
    assert load().priorities == (Priority.CRITICAL, Priority.HIGH)
    assert load(priorities=["low"]).priorities == (Priority.LOW,)
    assert load(priorities="low").priorities == (Priority.LOW,)


@pytest.mark.parametrize("words", ["urgent", "critical,,high", "critical;high", "CRITICAL", '["critical"]', ","])
def test_other_words_are_refused(monkeypatch: pytest.MonkeyPatch, words: str) -> None:
    monkeypatch.setenv("JSJOBS_PRIORITIES", words)
    with pytest.raises(JobService.Error, match=r"priorities: .*each must be one of critical, high, normal, low"):
        load()


@pytest.mark.parametrize("given", [(), [], 3, None, [3]])
def test_none_is_no_choice(given: object) -> None:
    with pytest.raises(JobService.Error, match="priorities"):
        load(priorities=given)
