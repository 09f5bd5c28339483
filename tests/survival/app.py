"""The application whose workers are hurt: `jsjobs worker tests/survival/app.py:jobs`.

Every start and end of a handler is in its process's journal before anything else happens.
"""

import asyncio
import logging
import os
import random
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from jsjobs import JobService
from jsjobs.maintenance import router
from survival.journal import Journal
from survival.register import RegisterClient, StaleFenceError
from survival.unfenced import take_fencing_out
from survival.workload import GATHERED

LOOKS_EVERY = 0.05
STALLED = 0.3
"""Seconds that the event loop is late, from which on the process is said to have stood still."""

SWEEP_EVERY = 10.0
"""Seconds between two sweeps of a router, which are two minutes else: longer than a run waits for its end."""

EPOCH = float(os.environ["SURVIVAL_EPOCH"])
"""What makes a time of the machine's out of a duration: the clock of this process may be wrong."""
folder = Path(os.environ["SURVIVAL_FOLDER"])
journal = Journal(folder, f"handlers-{os.getpid()}")
register = RegisterClient(int(os.environ["SURVIVAL_REGISTER"]))
jobs = JobService()
router.SWEEP_EVERY = SWEEP_EVERY
watching: set[asyncio.Task[None]] = set()
if os.environ.get("SURVIVAL_UNFENCED"):
    take_fencing_out()


class RaisingHandler(logging.Handler):
    """An application's own, whose other end is away half of the time."""

    def emit(self, record: logging.LogRecord) -> None:
        if random.random() < 0.5:
            raise OSError("the collector of logs is away")


if os.environ.get("SURVIVAL_RAISING_LOGS"):
    logging.getLogger("jsjobs").addHandler(RaisingHandler())


async def tell_of_oneself(every: float) -> None:
    """Tell how many tasks and subscriptions there are."""
    while True:
        await asyncio.sleep(every)
        journal.note("sample", tasks=len(asyncio.all_tasks()), subscriptions=jobs.connection.subscription_count)


async def watch_for_stalls() -> None:
    """Tell when this process stood still, whoever made it."""
    while True:
        before = time.monotonic()
        await asyncio.sleep(LOOKS_EVERY)
        if time.monotonic() - before > STALLED:
            journal.note("stalled", pid=os.getpid(), since=before)


def note_start(payload: dict[str, Any], ctx: JobService.Context) -> None:
    journal.note(
        "start",
        pid=os.getpid(),
        wall=time.monotonic() + EPOCH,
        job=ctx.job_id,
        uid=payload["uid"],
        lane=payload["lane"],
        priority=ctx.priority,
        attempt=ctx.attempt,
        fence=ctx.fence,
    )


def note_end(ctx: JobService.Context, outcome: str) -> None:
    journal.note("end", job=ctx.job_id, fence=ctx.fence, outcome=outcome)


@jobs.handler("survival.work")
async def work(payload: dict[str, Any], ctx: JobService.Context) -> dict[str, Any]:
    note_start(payload, ctx)
    if not watching:
        watching.add(asyncio.create_task(watch_for_stalls()))
        if every := os.environ.get("SURVIVAL_SAMPLES"):
            watching.add(asyncio.create_task(tell_of_oneself(float(every))))
    outcome = "interrupted"
    try:
        await perform(payload, ctx)
        outcome = "done"
    except Exception as error:
        outcome = type(error).__name__
        raise
    finally:
        note_end(ctx, outcome)
    return {"fence": ctx.fence, "uid": payload["uid"]}


async def perform(payload: dict[str, Any], ctx: JobService.Context) -> None:
    snoozes = await register.effect(ctx.job_id, ctx.fence, "begin")
    match payload["kind"]:
        case "progress":
            for pct in (10, 50, 90):
                ctx.report_progress(pct, "on its way")
                await asyncio.sleep(payload["seconds"] / 3)
        case "snooze" if snoozes < payload["snoozes"]:
            await register.effect(ctx.job_id, ctx.fence, "snooze")
            raise JobService.Snooze(payload["snooze"])
        case "flaky" if ctx.attempt <= payload["fails"]:
            raise RuntimeError("it was planned to fail")
        case "dies":
            raise RuntimeError("it was planned to die")
        case "invalid":
            raise JobService.Error.from_validation("it was planned to be invalid")
        case "gather":  # until all are there
            while not (folder / GATHERED).exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(LOOKS_EVERY)
        case "careless":  # it will not be stopped, and does not care for what the register says
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(payload["seconds"])
            with suppress(StaleFenceError):
                register.effect_from_thread(ctx.job_id, ctx.fence, "final")
            return
        case _:
            await asyncio.sleep(payload["seconds"])
    await register.effect(ctx.job_id, ctx.fence, "final")


@jobs.handler("survival.plain")
def plain(payload: dict[str, Any], ctx: JobService.Context) -> dict[str, Any]:
    note_start(payload, ctx)
    outcome = "error"
    try:
        register.effect_from_thread(ctx.job_id, ctx.fence, "begin")
        time.sleep(payload["seconds"])
        if not ctx.cancelled:
            register.effect_from_thread(ctx.job_id, ctx.fence, "final")
            outcome = "done"
    finally:
        note_end(ctx, outcome)
    return {"fence": ctx.fence, "uid": payload["uid"]}
