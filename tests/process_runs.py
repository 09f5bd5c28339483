"""Running functions in processes, and looking at processes."""

import asyncio
import re
import signal
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil

from facts import eventually
from jsjobs.handlers.context import JobContext
from jsjobs.handlers.registry import Registry
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.model.retry import Retry
from jsjobs.worker.executor import Handling, Pools, execute
from jsjobs.worker.processes.pool import Processes
from jsjobs.worker.result import Verdict
from jsjobs.worker.timeouts import TimeLimits


def new_handling(job_type: str = "t", **given) -> Handling:
    values = {"job_id": "normal-1", "type": job_type, "priority": Priority.NORMAL, "shard": 0, "attempt": 1, "fence": 7}
    return Handling(JobContext(**{**values, **given}), grace=10, limits=TimeLimits())


class Runs:
    """Runs functions on payloads in one pool of processes."""

    def __init__(self, limit: int) -> None:
        self.processes = Processes(limit)
        self.pools = Pools(ThreadPoolExecutor(1), self.processes)

    async def __call__(self, function, data: bytes = b"null", *, on: Handling | None = None, limit=None) -> Verdict:
        name = getattr(function, "__qualname__", type(function).__name__).replace(".", "-")
        registration = Registry().register(name, function, run_in="process")
        on = on or new_handling()
        on.context.type = name
        return await execute(
            JobStatusResponse(job_id="normal-1", status=Status.PROCESSING, attempts=1, max_attempts=3),
            lambda: (registration, data),
            on,
            self.pools,
            limit=limit,
            policy=Retry(),
            clock=utc_now,
        )


async def text_of(path: Path) -> str:
    """What the file holds, once it holds something."""

    async def look() -> str:
        return await asyncio.to_thread(path.read_text)

    return await eventually(look)


async def number_in(path: Path) -> int:
    return int(await text_of(path))


def is_running(pid: int) -> bool:
    """Whether the process has not ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def processes() -> list[int]:
    """The ids of those that this one has for handlers."""
    children = psutil.Process().children()
    return [child.pid for child in children if _is_for_handlers(child)]


def _is_for_handlers(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return any("jsjobs.worker.processes.child" in word for word in process.cmdline())
    return False


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a process has been sent a signal that it has not taken yet."""
    status = Path(f"/proc/{pid}/status").read_text()
    return bool(int(re.search(r"^ShdPnd:\s*([0-9a-f]+)$", status, re.MULTILINE)[1], 16) & 1 << number - 1)


async def all_ended(*pids: int) -> None:
    async def look() -> bool:
        return not any(is_running(pid) for pid in pids)

    await eventually(look)
