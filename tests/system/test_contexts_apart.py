"""A hundred jobs of a hundred tenants at once: none sees anything of another's request."""

import asyncio
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from facts import eventually
from jsjobs import JobService
from jsjobs.model.errors import JobError

COUNT = 100


@dataclass(frozen=True)
class Told:
    """What a handler was told, by its context and by the request context around it."""

    kind: str
    tenant: str | None
    request: str | None
    entity: str | None
    shard: int | None
    priority: str
    around: tuple[str | None, str | None, str | None, int | None, str | None]


def told(kind: str, jobs: JobService, ctx: JobService.Context) -> Told:
    now = jobs.current_context()
    around = (now.tenant_id, now.request_id, now.entity_id, now.shard_id, now.job_id)
    return Told(kind, ctx.tenant_id, ctx.request_id, ctx.entity, ctx.shard, ctx.priority, around)


@dataclass
class Meeting:
    """Holds handlers until many are there, and keeps what they were told."""

    tasks: asyncio.Event = field(default_factory=asyncio.Event)
    threads: threading.Event = field(default_factory=threading.Event)
    inside: set[str] = field(default_factory=set)
    looks: dict[str, list[Told]] = field(default_factory=dict)

    def end(self) -> None:
        self.tasks.set()
        self.threads.set()


def register(jobs: JobService, meeting: Meeting) -> None:
    loop = asyncio.get_running_loop()

    def look(kind: str, ctx: JobService.Context) -> None:
        meeting.looks.setdefault(ctx.job_id, []).append(told(kind, jobs, ctx))

    @jobs.handler("parent.task")
    async def parent_task(payload: int, ctx: JobService.Context) -> str:
        look("task", ctx)
        meeting.inside.add(ctx.job_id)
        await meeting.tasks.wait()
        look("task", ctx)
        child = await jobs.submit("child.dies", payload)
        ctx.report_progress(50, str(jobs.current_context().tenant_id))
        other = await asyncio.create_task(jobs.submit("child.thread", payload))  # a task of its own inherits too
        look("task", ctx)
        return f"{child} {other}"

    @jobs.handler("parent.thread")
    def parent_thread(payload: int, ctx: JobService.Context) -> str:
        look("thread", ctx)
        meeting.inside.add(ctx.job_id)
        meeting.threads.wait(60)
        look("thread", ctx)
        child = asyncio.run_coroutine_threadsafe(jobs.submit("child.dies", payload), loop).result(30)
        ctx.report_progress(50, str(jobs.current_context().tenant_id))
        other = asyncio.run_coroutine_threadsafe(jobs.submit("child.thread", payload), loop).result(30)
        look("thread", ctx)
        return f"{child} {other}"

    @jobs.handler("child.dies")
    async def child_dies(payload: int, ctx: JobService.Context) -> None:
        look("child", ctx)
        await asyncio.sleep(0)
        look("child", ctx)
        raise JobError.from_validation(f"{ctx.tenant_id} {ctx.request_id}")

    @jobs.handler("child.thread")
    def child_thread(payload: int, ctx: JobService.Context) -> str:
        look("child thread", ctx)
        return f"{jobs.current_context().tenant_id} {jobs.current_context().request_id}"


async def test_a_hundred_tenants_at_once(
    settings_of: Callable[..., JobService.Config], deploy: Callable[..., Awaitable[None]]
) -> None:
    config = settings_of(pools={"critical": 64, "high": 64}, ack_wait=30)
    await deploy(config)
    jobs, meeting = JobService(config), Meeting()
    register(jobs, meeting)

    async def submit(number: int) -> str:
        kind, priority = ("task", "critical") if number % 2 else ("thread", "high")
        with jobs.request_context(tenant_id=f"tenant {number}", request_id=f"request-{number}"):
            await asyncio.sleep(0)  # others submit in between
            return await jobs.submit(f"parent.{kind}", number, priority=priority, entity=f"entity {number}")

    async with jobs:
        ids = await asyncio.gather(*(submit(number) for number in range(COUNT)))
        async with jobs.worker(), jobs.router():
            # As many at once as there are shards hit by a hundred entities, and threads.
            await eventually(lambda: len(meeting.inside) > COUNT / 3)
            meeting.end()
            children = [answer.split() for answer in await jobs.results(ids, timeout=90)]
            dead, other = [pair[0] for pair in children], [pair[1] for pair in children]
            answers = await jobs.results(other, timeout=90)
            await jobs.results(dead, timeout=90, return_exceptions=True)

            async def all_letters() -> bool:
                return len(await jobs.dlq.list(limit=10 * COUNT)) == COUNT

            await eventually(all_letters, within=60)
            letters = {letter.original_job_id: letter for letter in await jobs.dlq.list(limit=10 * COUNT)}
        for number, job_id in enumerate(ids):
            tenant, request = f"tenant {number}", f"request-{number}"
            seen = meeting.looks[job_id]
            assert len(seen) == 3
            assert len(set(seen)) == 1, seen
            kind, priority = ("task", "critical") if number % 2 else ("thread", "high")
            shard = seen[0].shard
            around = (tenant, request, f"entity {number}", shard, job_id)
            assert seen[0] == Told(kind, tenant, request, f"entity {number}", shard, priority, around)
            assert isinstance(shard, int)
            assert answers[number] == f"{tenant} {request}"
            # What a handler submits is its request's too, but another job of no entity.
            for child in (dead[number], other[number]):
                for one in meeting.looks[child]:
                    assert (one.tenant, one.request, one.entity, one.priority) == (tenant, request, None, "normal")
                    assert one.around == (tenant, request, None, one.shard, child)
            letter = letters[dead[number]]
            assert (letter.app_id, letter.entity) == (tenant, None)
            assert ("Jsjobs-Request-Id", request) in letter.headers
            assert letter.error_history[-1]["error"].endswith(f"{tenant} {request}")
            assert [update.message async for update in jobs.progress(job_id)] == [tenant]
    assert jobs.current_context().tenant_id is None
