"""An application with telemetry, in a process of its own: one that stays, or one that submits and ends.

    python telemetry_app.py worker|router|watcher
    python telemetry_app.py submit TYPE PAYLOAD [OPTIONS]
    python telemetry_app.py submits

`HOST_ENDPOINT` makes it install providers of its own before it connects. It prints JSON lines.
"""

import asyncio
import json
import logging
import os
import signal
import sys
from contextlib import AsyncExitStack, suppress
from typing import Any

from jsjobs import JobService
from jsjobs.logs import log_to_stderr

jobs = JobService()
logger = logging.getLogger("shop")


def say(**what: Any) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - this is how the test hears of it


@jobs.handler("flaky")
async def flaky(payload: dict[str, Any], ctx: JobService.Context) -> str:
    logger.warning("at work")
    if ctx.attempt <= payload.get("fails", 0):
        raise ValueError(f"attempt {ctx.attempt} fails")
    return await jobs.submit("child", {"of": ctx.job_id}, priority="low")


@jobs.handler("child")
def child(payload: dict[str, str]) -> str:
    logger.warning("in a thread")
    if "opentelemetry.trace" in sys.modules and "HOST_IS_BROKEN" not in os.environ:
        from opentelemetry import trace  # noqa: PLC0415 - where telemetry is off it must stay out

        with trace.get_tracer("shop").start_as_current_span("own work"):
            return payload["of"]
    return payload["of"]


@jobs.handler("dies")
async def dies(payload: Any) -> None:
    raise JobService.Error.from_validation("it shall die")


@jobs.handler("sleepy")
async def sleepy(path: str) -> None:
    if not os.path.exists(path):  # noqa: ASYNC240, PTH110 - one look
        open(path, "w").close()  # noqa: ASYNC230, PTH123 - likewise
        raise JobService.Snooze(0.2)


@jobs.handler("huge")
async def huge(size: int) -> str:
    return "x" * size


@jobs.handler("sleep")
async def sleep(seconds: float) -> None:
    await asyncio.sleep(seconds)


@jobs.handler("suicide")
async def suicide(payload: Any, ctx: JobService.Context) -> None:
    if ctx.attempt == 1:
        os._exit(9)


@jobs.handler("note")
async def note(number: int) -> None:
    """Do nothing."""


def apart(payload: Any) -> None:
    """Runs in a process of its own."""


jobs.register_handler("apart", apart, run_in="process")


async def serve(role: str) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    parts = {"worker": (jobs.worker, jobs.router), "router": (jobs.router,), "watcher": (jobs.queue_metrics,)}
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(jobs)
        for part in parts[role]:
            await stack.enter_async_context(part())
        say(event="ready", imported="opentelemetry" in sys.modules)
        await stop.wait()


async def submit(job_type: str, payload: str, options: str = "{}") -> None:
    async with jobs:
        ids = await jobs.submit(job_type, json.loads(payload), **json.loads(options))
        say(event="submitted", ids=ids)


async def submits() -> None:
    """Submit one after the other from one task: one that is refused, and a list of which a part is."""

    def enough(_: int) -> None:
        raise RuntimeError("enough")

    async with jobs:
        ids = [await jobs.submit("note", 1)]
        with suppress(JobService.Error):
            await jobs.submit("note", "no number")
        with suppress(RuntimeError):
            await jobs.submit("note", list(range(1001)), priority="low", on_queued=enough)
        with jobs.request_context(tenant_id="acme"):
            ids.append(await jobs.submit("note", 2, delay=600))
        some = [JobService.Payload(type=job_type, payload=2, priority="high") for job_type in ("note", "sleep")]
        await jobs.submit_payloads(some)
        say(event="submitted", ids=ids)


async def main(role: str, *arguments: str) -> None:
    brief = {"submit": submit, "submits": submits}
    await (brief[role](*arguments) if role in brief else serve(role))


if __name__ == "__main__":
    log_to_stderr(logging.WARNING, "%(levelname)s %(name)s: %(message)s", os.environ.get("JSJOBS_LOG_FORMAT", "json"))
    if "HOST_ENDPOINT" in os.environ:
        from host_providers import install_providers

        install_providers(os.environ["HOST_ENDPOINT"])
    asyncio.run(main(*sys.argv[1:]))
