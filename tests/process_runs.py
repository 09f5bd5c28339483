"""Running functions in processes, and looking at processes."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from facts import eventually
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.model.retry import Retry
from jsjobs.worker.context import JobContext
from jsjobs.worker.executor import Handling, Places, execute
from jsjobs.worker.limits import TimeLimits
from jsjobs.worker.processes.pool import Processes
from jsjobs.worker.registry import Registry
from jsjobs.worker.verdict import Verdict


def new_handling(job_type: str = "t", **given) -> Handling:
    values = {"job_id": "normal-1", "type": job_type, "priority": Priority.NORMAL, "shard": 0, "attempt": 1, "fence": 7}
    return Handling(JobContext(**{**values, **given}), grace=10, limits=TimeLimits())


class Runs:
    """Runs functions on payloads in one pool of processes."""

    def __init__(self, limit: int) -> None:
        self.processes = Processes(limit)
        self.places = Places(ThreadPoolExecutor(1), self.processes)

    async def __call__(self, function, data: bytes = b"null", *, on: Handling | None = None, limit=None) -> Verdict:
        name = getattr(function, "__qualname__", type(function).__name__).replace(".", "-")
        registration = Registry().register(name, function, run_in="process")
        on = on or new_handling()
        on.context.type = name
        return await execute(
            JobStatusResponse(job_id="normal-1", status=Status.PROCESSING, attempts=1, max_attempts=3),
            lambda: (registration, data),
            on,
            self.places,
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


async def all_ended(*pids: int) -> None:
    async def look() -> bool:
        return not any(is_running(pid) for pid in pids)

    await eventually(look)
