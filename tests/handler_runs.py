"""Runs handlers in the event loop and in threads, without any server."""

from concurrent.futures import ThreadPoolExecutor

from jsjobs.handlers.context import JobContext
from jsjobs.handlers.registry import Registry
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
from jsjobs.model.retry import Retry, RetryState
from jsjobs.worker.executor import Handling, Pools, execute
from jsjobs.worker.processes.pool import Processes
from jsjobs.worker.result import Verdict
from jsjobs.worker.timeouts import TimeLimits


def handling(*, is_torn_down: bool = False) -> Handling:
    context = JobContext("normal-1", "t", Priority.NORMAL, shard=0, attempt=1, fence=7)
    return Handling(context, grace=10, limits=TimeLimits(), is_torn_down=lambda: is_torn_down)


def entry(attempts: int = 1, max_attempts: int = 3, retry: RetryState | None = None) -> JobStatusResponse:
    return JobStatusResponse(
        job_id="normal-1", status=Status.PROCESSING, attempts=attempts, max_attempts=max_attempts, retry=retry
    )


class Runs:
    """Runs one function on one payload."""

    def __init__(self, threads: ThreadPoolExecutor) -> None:
        self.threads = threads

    async def __call__(
        self, function, data: bytes = b"{}", *, on: Handling | None = None, limit=None, retry=None, of=None
    ) -> Verdict:
        registry = Registry()
        registration = registry.register("t", function, retry=retry)
        return await execute(
            of or entry(),
            lambda: (registration, data),
            on or handling(),
            Pools(self.threads, Processes(1)),
            limit=limit,
            policy=Retry(),
            clock=utc_now,
        )
