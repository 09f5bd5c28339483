"""Cancels, moves and debounced submits around the moment in which a delayed job fires: thousands of rounds."""

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from nats.aio.client import Client

from cancel_race import TERMINAL, course
from facts import eventually
from jsjobs import JobService
from jsjobs.model.errors import AlreadyDue, AlreadyEnded

pytestmark = pytest.mark.long

ROUNDS = 2400
AT_ONCE = 300
Moment = datetime


def now() -> Moment:
    return datetime.now(UTC)


class Race:
    """Delayed jobs, something done to each of them around its due time, and what was seen."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.ran: dict[str, list[tuple[Moment, Any]]] = defaultdict(list)
        """Each start of a job: when, and what it was given."""
        self.not_before: dict[str, Moment] = {}
        self.payload: dict[str, Any] = {}
        """What the last submit under this id that was accepted gave."""
        self.cancelled: dict[str, tuple[Moment, int]] = {}
        """When the cancel said so, and at which attempt."""
        self.ends: Counter[str] = Counter()

    async def handle(self, payload: Any, ctx: JobService.Context) -> None:
        self.ran[ctx.job_id].append((now(), payload))
        await asyncio.sleep(self.random.choice([0, 0.002, 0.05]))

    async def round(self, jobs: JobService, number: int) -> None:
        act = [self.cancel, self.reschedule, self.run_now, self.debounce][number % 4]
        if act == self.debounce:
            await self.debounce(jobs, number)
            return
        due = now() + timedelta(seconds=self.random.uniform(0.3, 0.8))
        job_id = await jobs.submit("race", number, at=due, priority=self.random.choice(["high", "critical"]))
        self.not_before[job_id], self.payload[job_id] = due, number
        if not job_id.startswith("at-"):  # it was due by the time when the machine got to it: it was never delayed
            self.ends["due at once"] += 1
            return
        # The server's timers have steps of 250 ms: it fires up to that much later.
        await asyncio.sleep((due - now()).total_seconds() + self.random.uniform(-0.1, 0.35))
        await act(jobs, job_id)

    async def cancel(self, jobs: JobService, job_id: str) -> None:
        try:
            status = await jobs.cancel(job_id)
        except AlreadyEnded:
            self.ends["cancel: ended"] += 1
        else:
            self.cancelled[job_id] = (now(), status.attempts)
            self.ends[f"cancel: cancelled {status.attempts}"] += 1

    async def reschedule(self, jobs: JobService, job_id: str) -> None:
        later = now() + timedelta(seconds=self.random.uniform(0.05, 0.6))
        try:
            status = await jobs.reschedule(job_id, at=later)
        except (AlreadyDue, AlreadyEnded) as error:
            self.ends[f"reschedule: {type(error).__name__}"] += 1
        else:
            assert status.scheduled_for == later or status.attempts, status
            self.not_before[job_id] = later
            self.ends["reschedule: moved"] += 1

    async def run_now(self, jobs: JobService, job_id: str) -> None:
        del self.not_before[job_id]
        try:
            await jobs.run_now(job_id)
        except (AlreadyDue, AlreadyEnded) as error:
            self.ends[f"run_now: {type(error).__name__}"] += 1
        else:
            self.ends["run_now: fired"] += 1

    async def debounce(self, jobs: JobService, number: int) -> None:
        job_id = ""
        for part in range(self.random.randint(2, 5)):
            delay = self.random.uniform(0.15, 0.5)
            before = job_id
            payload = {"number": number, "part": part}
            job_id = await jobs.submit("race", payload, delay=delay, debounce_key=f"k{number}", priority="high")
            self.payload[job_id] = payload
            self.ends["debounce: " + ("replaced" if before == job_id else "first" if not before else "after it")] += 1
            await asyncio.sleep(delay + self.random.uniform(-0.15, 0.35))
        if self.random.random() < 0.5:
            await self.cancel(jobs, job_id)

    def check(self, entries: dict[str, list[dict[str, Any]]]) -> None:
        for job_id, payload in self.payload.items():
            known = entries[job_id]
            statuses = [entry["status"] for entry in known]
            first = next(index for index, status in enumerate(statuses) if status in TERMINAL)
            assert all(entry == known[first] for entry in known[first:]), (job_id, statuses)
            starts = self.ran[job_id]
            if job_id in self.cancelled:
                answered, attempts = self.cancelled[job_id]
                assert statuses[first] == "cancelled"
                assert len(starts) <= attempts, (job_id, starts, answered)
                assert all(at <= answered for at, _ in starts), (job_id, starts, answered)
            else:
                assert statuses[first] == "complete", (job_id, statuses)
                assert [given for _, given in starts] == [payload], (job_id, starts)
                if job_id in self.not_before:
                    assert starts[0][0] >= self.not_before[job_id], job_id


@pytest.fixture
def config(settings_of: Callable[..., JobService.Config]) -> JobService.Config:
    return settings_of(ack_wait=3, scale=4)


async def test_what_is_done_to_a_job_while_it_fires_is_done_or_refused(
    config: JobService.Config,
    deploy: Callable[..., Awaitable[None]],
    plain: Client,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
) -> None:
    await deploy(config)
    race = Race(seed)
    async with course(config, plain, monkeypatch, race) as around:
        await around.rounds(race.round, ROUNDS, at_once=AT_ONCE)

        async def all_ended() -> bool:
            ended = [(await around.caller.status(job_id)).status.is_terminal for job_id in race.payload]
            return all(ended) and await around.is_drained()

        await eventually(all_ended, within=60)
        entries = await around.history()
    race.check(entries)
    # The moments were well mixed.
    expected = {"cancel: cancelled 0", "cancel: cancelled 1", "cancel: ended", "reschedule: moved", "run_now: fired"}
    expected |= {"reschedule: AlreadyDue", "run_now: AlreadyEnded", "debounce: replaced", "debounce: after it"}
    assert expected <= set(race.ends), race.ends
