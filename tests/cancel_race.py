"""Cancels at every moment of a job's life, and the rules that must hold afterwards."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import pytest
from nats.aio.client import Client
from nats.js.api import StreamConfig, StreamSource

from facts import eventually
from jsjobs import JobService
from jsjobs.jetstream.api.requests import call, find
from jsjobs.model.errors import AlreadyEnded
from taps import watch_answers

AT_ONCE = 100
LOST_ANSWERS = 0.03
"""Of the workers' acks and NAKs; what they were of is delivered again."""
TERMINAL = {"complete", "failed", "cancelled"}


@dataclass
class Job:
    """What was seen of one job, in the order of `clock`."""

    entity: str
    kind: str
    started: list[int] = field(default_factory=list)
    ended: list[int] = field(default_factory=list)
    answer: str = ""
    answered: int = 0
    attempts_when_cancelled: int = -1


class Race:
    """Jobs on their way, each cancelled at some moment of its life."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.jobs: dict[str, Job] = {}
        self.running: dict[str, str] = {}
        self.overlaps: list[tuple[str, str]] = []
        self.starts: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._clock = 0

    def now(self) -> int:
        self._clock += 1
        return self._clock

    async def handle(self, payload: dict[str, Any], ctx: JobService.Context) -> str:
        job = self.jobs.setdefault(ctx.job_id, Job(payload["entity"], payload["kind"]))
        lane = f"{ctx.priority}/{ctx.entity}"
        if lane in self.running:
            self.overlaps.append((self.running[lane], ctx.job_id))
        self.running[lane] = ctx.job_id
        job.started.append(self.now())
        self.starts[ctx.job_id].set()
        try:
            return await self._work(payload, ctx)
        finally:
            del self.running[lane]
            job.ended.append(self.now())

    async def _work(self, payload: dict[str, Any], ctx: JobService.Context) -> str:
        match payload["kind"]:
            case "instant":
                pass
            case "short":
                await asyncio.sleep(payload["seconds"])
            case "long":
                await asyncio.sleep(30)
            case "flaky" if ctx.attempt == 1:
                await asyncio.sleep(payload["seconds"])
                raise RuntimeError("not at first")
            case "dies":
                raise JobService.Error.from_validation("never")
        return "done"

    async def round(self, jobs: JobService, number: int) -> None:
        draw = self.random
        kind = draw.choices(["instant", "short", "flaky", "dies", "long"], [3, 4, 4, 1, 1])[0]
        entity, seconds = f"e{number % 40}", draw.uniform(0, 0.004)
        payload = {"entity": entity, "kind": kind, "seconds": seconds}
        job_id = await jobs.submit("race", payload, entity=entity, priority=draw.choice(["high", "critical"]))
        job = self.jobs.setdefault(job_id, Job(entity, kind))
        when = draw.random()
        if when < 0.6 or kind == "long":
            await self.starts[job_id].wait() if kind == "long" or when < 0.4 else None
            await asyncio.sleep(draw.uniform(0, 0.006))
        else:
            await asyncio.sleep(draw.choice([0, 0, draw.uniform(0, 0.1)]))
        try:
            status = await jobs.cancel(job_id)
        except AlreadyEnded:
            job.answer = "ended"
        else:
            job.answer = status.status
            job.attempts_when_cancelled = status.attempts
        job.answered = self.now()


class Racing(Protocol):
    """What is to be raced: a handler, and the chance that all of it hangs on."""

    random: random.Random

    async def handle(self, payload: Any, ctx: JobService.Context) -> Any: ...


@dataclass
class Course:
    """Two workers that run, a caller, and all that the state bucket ever takes."""

    caller: JobService
    plain: Client

    async def rounds(self, one: Callable[[JobService, int], Awaitable[None]], count: int, *, at_once: int) -> None:
        gate = asyncio.Semaphore(at_once)

        async def passed(number: int) -> None:
            async with gate:
                await one(self.caller, number)

        await asyncio.gather(*(passed(number) for number in range(count)))

    async def is_drained(self) -> bool:
        upper = self.caller.config.namespace.upper()
        streams = [f"{upper}_{name}{lane}" for name in ("HIGH", "CRITICAL") for lane in ("", "_PARALLEL")]
        infos = [await call(self.caller.connection, f"STREAM.INFO.{stream}") for stream in streams]
        return all(info["state"]["messages"] == 0 for info in infos)

    async def history(self) -> dict[str, list[dict[str, Any]]]:
        """Every entry that the bucket ever took, in order: a second stream sourced from it forgets nothing."""
        entries: dict[str, list[dict[str, Any]]] = defaultdict(list)
        stream, name = self.plain.jetstream(), history_of(self.caller.config)
        subscription = await stream.subscribe(">", stream=name, ordered_consumer=True)
        for _ in range((await stream.stream_info(name)).state.messages):
            message = await subscription.next_msg(timeout=20)
            entry = json.loads(message.data)
            if "job_id" in entry:
                entries[entry["job_id"]].append(entry)
        await subscription.unsubscribe()
        return entries


def history_of(config: JobService.Config) -> str:
    return f"{config.namespace.upper()}_HISTORY"


@asynccontextmanager
async def course(
    config: JobService.Config, plain: Client, monkeypatch: pytest.MonkeyPatch, race: Racing
) -> AsyncIterator[Course]:
    """Two workers for the race's handler, whose answers to the server are lost now and then."""
    history = StreamConfig(name=history_of(config), sources=[StreamSource(name=f"KV_{config.namespace}")])
    await plain.jetstream().add_stream(history)
    watch_answers(monkeypatch, lambda _: race.random.random() > LOST_ANSWERS)
    async with AsyncExitStack() as open_ones:
        for _ in range(2):
            worker = await open_ones.enter_async_context(JobService(config))
            worker.register_handler("race", race.handle)
            await open_ones.enter_async_context(worker.worker())
        caller = await open_ones.enter_async_context(JobService(config))
        yield Course(caller, plain)
        await find(caller.connection, f"STREAM.DELETE.{history_of(config)}")


async def run_race(
    config: JobService.Config, plain: Client, monkeypatch: pytest.MonkeyPatch, *, seed: int, rounds: int
) -> tuple[Race, Counter[str]]:
    """Run so many jobs on two workers, cancel each, and check the rules; how the jobs ended."""
    race = Race(seed)
    async with course(config, plain, monkeypatch, race) as around:
        await around.rounds(race.round, rounds, at_once=AT_ONCE)
        await eventually(around.is_drained, within=60)
        entries = await around.history()
    assert len(race.jobs) == rounds
    return race, check(race, entries)


def check(race: Race, entries: dict[str, list[dict[str, Any]]]) -> Counter[str]:
    """The rules; how often each kind of job ended how, and at which attempt it was cancelled (-1: not at all)."""
    assert race.overlaps == []
    ends: Counter[str] = Counter()
    for job_id, job in race.jobs.items():
        known = entries[job_id]
        statuses = [entry["status"] for entry in known]
        first = next(index for index, status in enumerate(statuses) if status in TERMINAL)
        # Written again it gets its time to live; nothing else may change.
        assert all(entry == known[first] for entry in known[first:]), (job_id, statuses)
        end = statuses[first]
        assert job.answer == "cancelled" if end == "cancelled" else job.answer == "ended", (job_id, job, end)
        if end == "cancelled":
            late = [moment for moment in (*job.started, *job.ended) if moment > job.answered]
            assert late == [], (job_id, job)
            if job.attempts_when_cancelled == 0:
                assert job.started == [], (job_id, job)
        elif job.kind != "dies":
            assert end == "complete", (job_id, job, statuses)
        ends[f"{job.kind} {end} {job.attempts_when_cancelled}"] += 1
    return ends
