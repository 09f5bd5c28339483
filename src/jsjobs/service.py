"""JobService: the one thing users import. A thin facade over publishing, consuming and looking up."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeAlias, TypeVar, Unpack, overload

from jsjobs.connections import Connections
from jsjobs.dead_letters.replay import replay_letter
from jsjobs.dead_letters.router import Router
from jsjobs.jetstream.lookup import Lookup, failure
from jsjobs.jetstream.progress import ProgressUpdate
from jsjobs.jetstream.queue import JobQueue
from jsjobs.jetstream.state import StateStore
from jsjobs.jetstream.subjects import Names
from jsjobs.model.context import RequestContext, current_context, request_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, JobStatusResponse, Priority, Status
from jsjobs.model.payload import JobPayload
from jsjobs.model.retry import Retry
from jsjobs.postgres.dead_letters import DeadLetters
from jsjobs.publishing import Publisher, SubmitOptions
from jsjobs.queue_metrics import QueueMetrics
from jsjobs.settings import Config
from jsjobs.worker.context import JobContext
from jsjobs.worker.registry import Handler, Registry
from jsjobs.worker.worker import Worker

H = TypeVar("H", bound=Handler)


class _Response:
    """The forms of answers."""

    Status: TypeAlias = JobStatusResponse


class JobService(Connections):
    """Submits jobs, runs them, and tells what became of them.

        jobs = JobService()

        @jobs.handler("email.send")
        async def send_email(payload: SendEmail, ctx: JobService.Context) -> Receipt: ...

        async with jobs:
            job_id = await jobs.submit("email.send", SendEmail(to="a@example.org"), entity="customer-42")
            receipt = await jobs.result(job_id, timeout=30)

    Args:
        config: The settings; None: from the environment, or the servers of `jsjobs dev` in this folder.

    Raises:
        JobError: `Validation`, if a setting cannot be used.
    """

    Config: TypeAlias = Config
    Context: TypeAlias = JobContext
    Error: TypeAlias = JobError
    Payload: TypeAlias = JobPayload
    Response: TypeAlias = _Response
    Handler: TypeAlias = Handler
    Priority: TypeAlias = Priority
    Status: TypeAlias = Status
    Retry: TypeAlias = Retry

    def __init__(self, config: Config | None = None) -> None:
        super().__init__(config)
        self._names = Names(self.config.namespace)
        self._registry = Registry()

    # -- handlers

    def handler(self, job_type: str, *, retry: Retry | None = None) -> Callable[[H], H]:
        """Make the decorated function the handler of a job type. See `register_handler`."""

        def register(function: H) -> H:
            self.register_handler(job_type, function, retry=retry)
            return function

        return register

    def register_handler(self, job_type: str, function: Handler, *, retry: Retry | None = None) -> None:
        """Make a function the handler of a job type.

        An async function runs in the worker's event loop, a plain one in a thread. Its first parameter is the payload,
        checked by pydantic against its annotation; a second one, if there is one, gets the job's `Context`.

        Args:
            job_type: Words of A-Z, a-z, 0-9, `_` and `-`, with dots between them.
            function: The handler.
            retry: When to try a failed job again; None: as the settings say.

        Raises:
            JobError: `Validation`, if the type has a handler already or the function cannot be one.
        """
        self._registry.register(job_type, function, retry=retry)

    @property
    def types(self) -> list[str]:
        """The job types that have a handler in this process, sorted."""
        return self._registry.types

    # -- publishing

    @overload
    async def submit(self, job_type: str, payload: list[Any], **options: Unpack[SubmitOptions]) -> list[JobId]: ...
    @overload
    async def submit(self, job_type: str, payload: Any = None, **options: Unpack[SubmitOptions]) -> JobId: ...
    async def submit(self, job_type: str, payload: Any = None, **options: Unpack[SubmitOptions]) -> JobId | list[JobId]:
        """Queue one job, or every item of a Python list as one job (a payload that is itself a list: `[[...]]`).

        A list is one batch: all of it is queued or nothing, up to 1,000 items; a longer one goes in chunks of 1,000.

        Args:
            job_type: Which handler runs it.
            payload: Anything JSON can hold: pydantic models, dataclasses, dicts. Checked against the handler's
                annotation where that handler is registered in this process.
            **options: See `SubmitOptions`: priority, entity, dedupe_key, max_attempts, duration, timeout.

        Returns:
            The job's id, or the ids in the list's order.

        Raises:
            JobError: `Validation`, if something given cannot be used; `RunnerUnavailable`, if the queue is full or the
                server cannot be reached. Its message says whether the job may have been queued.
        """
        return await self._publisher().submit(job_type, payload, options)

    enqueue = submit

    async def submit_payloads(self, payloads: Sequence[JobPayload]) -> list[JobId]:
        """As `submit`, of jobs that each say their own type and options; neighbours of one priority go as one batch."""
        return await self._publisher().submit_payloads(payloads)

    # -- looking up

    async def status(self, job_id: str) -> JobStatusResponse:
        """All that is known of a job, its history included.

        Raises:
            JobError: `NotFound`, if the id is not known or the job's entry has expired.
        """
        return await self._lookup().status(job_id)

    def watch(self, job_id: str) -> AsyncGenerator[JobStatusResponse, None]:
        """The status now and at each change, until the job has ended."""
        return self._lookup().watch(job_id)

    async def result(self, job_id: str, timeout: float | None = 30) -> Any:
        """Wait for the job's end and return its handler's result, as JSON values.

        Args:
            job_id: The job.
            timeout: Seconds to wait; None: for ever.

        Raises:
            JobError: `Timeout`, if it has not ended by then; `NotFound`; the job's own reason if it failed;
                `AlreadyCancelled` if it was cancelled.
        """
        status = await self._lookup().end(job_id, timeout)
        if status.status is not Status.COMPLETE:
            raise failure(status)
        return status.result

    def progress(self, job_id: str) -> AsyncGenerator[ProgressUpdate, None]:
        """The progress updates that are kept (the last 100), then live ones, until the job has ended."""
        return self._lookup().progress(job_id)

    # -- consuming

    def worker(self) -> Worker:
        """A worker of this process; use it as an async context manager while the service is connected."""
        return Worker(self._connected(), self.config, self._registry, self._telemetry)

    def router(self) -> Router:
        """A dead-letter router of this process, where a database is set; use it as an async context manager."""
        return Router(self._connected(), self.config, self.letters(), self._telemetry)

    def queue_metrics(self) -> QueueMetrics:
        """Gauges of the queues' depths, where telemetry is on; use it as an async context manager."""
        return QueueMetrics(self._connected(), self._names, self._telemetry)

    # -- dead letters

    def letters(self) -> DeadLetters:
        """The dead-letter table, where a database is set."""
        return DeadLetters(self.database(), self.config.namespace)

    async def replay(self, dlq_id: str, *, priority: Priority | str | None = None, force: bool = False) -> JobId:
        """Put a dead job back into its queue, once, however often and by however many this is called.

        Args:
            dlq_id: The letter's id, the begin of it, or the dead job's id.
            priority: Another priority than its own.
            force: Replay it though it was replayed or discarded before.

        Returns:
            The new job's id, `replay-…`.

        Raises:
            JobError: `NotFound`; `Validation`, if it was replayed or discarded before; `RunnerUnavailable`.
        """
        if priority is not None and priority not in set(Priority):
            raise JobError.from_validation(f"the priority must be one of {', '.join(Priority)}, not {priority!r}")
        other = None if priority is None else Priority(priority)
        return await replay_letter(
            self._connected(),
            self.config,
            self.letters(),
            dlq_id,
            priority=other,
            force=force,
            telemetry=self._telemetry,
        )

    # -- context

    @staticmethod
    def request_context(
        *, tenant_id: str | None = None, request_id: str | None = None
    ) -> AbstractContextManager[RequestContext]:
        """What is submitted inside carries this tenant and request id; handlers run inside it again."""
        return request_context(tenant_id=tenant_id, request_id=request_id)

    @staticmethod
    def current_context() -> RequestContext:
        """The request context of the running task."""
        return current_context()

    def _publisher(self) -> Publisher:
        queue = JobQueue(self._connected(), self._names, timeout=self.config.timeout)
        return Publisher(queue, self._registry, self._telemetry)

    def _lookup(self) -> Lookup:
        connection = self._connected()
        return Lookup(connection, self._names, StateStore(connection, self._names))
