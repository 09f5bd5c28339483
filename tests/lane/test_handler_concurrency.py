"""A handler's own limit: how many of its jobs one process runs at once."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from lane_runs import Journal, results, submit

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.worker.intake import rooms
from jsjobs.worker.intake.rooms import delay_without_room


async def test_no_more_run_at_once_and_all_run(service: Callable) -> None:
    journal, others = Journal(), Journal()
    async with service(concurrency=50) as jobs:
        jobs.register_handler("t", journal.sleeper(0.05), concurrency=3)
        jobs.register_handler("other", others.sleeper(0.05))
        ids = await submit(jobs, "t", 40)
        async with jobs.worker() as worker:
            await eventually(lambda: journal.running == 3)
            more = await submit(jobs, "other", 40)
            await results(jobs, more)
            assert len(journal.ends) < 40, "its jobs that wait hold no slot"
            await results(jobs, ids)
            await eventually(lambda: worker.running == 0)
        assert journal.most == 3
        assert journal.ends == dict.fromkeys(ids, 1)
        assert {(await jobs.status(job_id)).attempts for job_id in ids} == {1}, "being given back burns no attempt"
        assert [item.status for item in (await jobs.status(ids[-1])).history] == ["processing", "complete"]
    assert others.most > 5


async def test_it_holds_for_ordered_jobs_too(service: Callable) -> None:
    journal = Journal()
    async with service(concurrency=50) as jobs:
        jobs.register_handler("t", journal.sleeper(0.05), concurrency=1)
        ids = [
            await jobs.submit("t", n, entity=f"e{n % 6}", priority=priority)
            for n in range(4)
            for priority in ("critical", "high", "normal")
        ]
        async with jobs.worker():
            await results(jobs, ids)
        order = [[payload for job, payload, _ in journal.starts if job.startswith(p)] for p in ("critical", "high")]
        assert {(await jobs.status(job_id)).attempts for job_id in ids} == {1}
    assert journal.most == 1
    assert all(sorted(one) == list(range(4)) for one in order)


async def test_it_holds_for_threads(service: Callable) -> None:
    running: Counter[str] = Counter()

    def plain(payload: int) -> int:
        running["now"] += 1
        running["most"] = max(running["most"], running["now"])
        time.sleep(0.05)
        running["now"] -= 1
        return payload

    async with service() as jobs:
        jobs.register_handler("t", plain, concurrency=2)
        ids = await submit(jobs, "t", 10)
        async with jobs.worker():
            assert await results(jobs, ids) == list(range(10))
    assert running["most"] == 2


async def test_a_job_that_ends_in_any_way_leaves_its_room(service: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    began: Counter[str] = Counter()
    naks, nak = [], Delivery.nak
    monkeypatch.setattr(Delivery, "nak", lambda self, delay=0: (naks.append(self), nak(self, delay)))
    async with service() as jobs:

        @jobs.handler("t", concurrency=1, retry=JobService.Retry(initial=0.01))
        async def handler(payload: str, ctx: JobService.Context) -> str:
            began[ctx.job_id] += 1
            if began[ctx.job_id] == 1 and payload in {"fails", "snoozes"}:
                raise ValueError if payload == "fails" else JobService.Snooze(0.1)
            if payload == "hangs":
                await asyncio.sleep(60)
            if payload == "dies":
                raise JobService.Error.from_validation("no")
            return payload

        async with jobs.worker() as worker:
            for entity in (None, "e"):
                for payload in ("fails", "snoozes", "hangs", "dies", "ends"):
                    job_id = await jobs.submit("t", payload, entity=entity)
                    if payload == "hangs":
                        await eventually(lambda job_id=job_id: began[job_id])
                        await jobs.cancel(job_id)
                    elif payload == "dies":
                        with pytest.raises(JobService.Error):
                            await jobs.result(job_id)
                    else:
                        assert await jobs.result(job_id, timeout=20) == payload
            await eventually(lambda: worker.running == 0)
            naks.clear()
            assert await jobs.result(await jobs.submit("t", "last")) == "last"
            assert naks == [], "there was room at once"


async def test_a_snoozed_ordered_job_makes_room(service: Callable) -> None:
    began = []
    async with service() as jobs:

        @jobs.handler("t", concurrency=1)
        async def handler(payload: str) -> str:
            began.append(payload)
            if began.count("snoozes") == 1 and payload == "snoozes":
                raise JobService.Snooze(1)
            return payload

        async with jobs.worker():
            snoozing = await jobs.submit("t", "snoozes", entity="e")
            await eventually(lambda: began)
            assert await jobs.result(await jobs.submit("t", "other"), timeout=10) == "other"
            assert began == ["snoozes", "other"]
            assert await jobs.result(snoozing, timeout=10) == "snoozes"


async def test_a_long_wait_for_room_makes_no_dead_letter(jobs: JobService, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its entry notes now and then how often it was delivered."""
    monkeypatch.setattr(rooms, "SHORTEST", 0.0)
    monkeypatch.setattr(rooms, "LONGEST", 0.001)
    journal, naks = Journal(), Counter[int]()
    nak = Delivery.nak

    def counted(self: Delivery, delay: float = 0) -> None:
        naks[self.attempt] += 1
        nak(self, delay)

    monkeypatch.setattr(Delivery, "nak", counted)
    jobs.register_handler("t", journal.sleeper(60), concurrency=1)
    async with jobs.worker():
        first = await jobs.submit("t", 1, duration="long")
        await eventually(lambda: journal.running == 1)
        waiting = await jobs.submit("t", 2, duration="long")
        await eventually(lambda: naks[1600], within=60)
        entry = await jobs.status(waiting)
        assert (entry.status, entry.attempts) == ("queued", 0)
        assert (entry.deliveries or 0) >= 1500
        await jobs.cancel(first)
        await eventually(lambda: waiting in journal.started)
        assert (await jobs.status(waiting)).attempts == 1
        await jobs.cancel(waiting)


@pytest.mark.parametrize("concurrency", [0, -1, 1.5, "3", True, float("nan")])
def test_a_limit_that_is_none_is_refused(concurrency: Any) -> None:
    jobs = JobService()
    with pytest.raises(JobService.Error, match="the concurrency of t must be a whole number of 1 or more") as caught:
        jobs.handler("t", concurrency=concurrency)(lambda payload: payload)
    assert caught.value.reason == "Validation"


def test_a_job_without_room_comes_back_within_a_second_at_first() -> None:
    delays = [delay_without_room(attempt) for attempt in range(1, 21) for _ in range(50)]
    assert 0.1 <= min(delays) <= max(delays) <= 1
    assert max(delays) - min(delays) > 0.5, "they do not all come back at once"
    assert all(delay_without_room(10_000) <= 10 for _ in range(100))
