"""The last report of a job reaches everybody who follows it, however soon after it the job ends."""

import asyncio

from jsjobs import JobService

JOBS = 60


async def test_nobody_misses_the_last_report(jobs: JobService) -> None:
    @jobs.handler("quick")
    async def quick(payload: int, ctx: JobService.Context) -> None:
        for number in range(payload % 4):
            ctx.report_progress(number, f"{number}")
            await asyncio.sleep(0)
        ctx.report_progress(100, "last")

    @jobs.handler("quick.thread")
    def quick_thread(payload: int, ctx: JobService.Context) -> None:
        for number in range(payload % 4):
            ctx.report_progress(number, f"{number}")
        ctx.report_progress(100, "last")

    async def follow(client: JobService, job_id: str) -> list[str | None]:
        return [update.message async for update in client.progress(job_id)]

    async with JobService(jobs.config) as client:
        ids = await client.submit("quick", list(range(JOBS)), priority="critical")
        ids += await client.submit("quick.thread", list(range(JOBS)), priority="high")
        early = [asyncio.ensure_future(follow(client, job_id)) for job_id in ids for _ in range(2)]
        async with jobs.worker():
            seen = await asyncio.gather(*early)
            late = await asyncio.gather(*(follow(client, job_id) for job_id in ids))
    for messages in seen + late:
        assert messages[-1:] == ["last"]
        assert len(set(messages)) == len(messages), "none comes twice"
    assert seen[::2] == late
