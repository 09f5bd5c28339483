"""JobService, the one class that users import: a thin facade over the other modules here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Unpack

from jsjobs.handlers.context import JobContext
from jsjobs.handlers.registry import Handler, RunIn
from jsjobs.model.batch import BatchStatus
from jsjobs.model.context import RequestContext, current_context, request_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, JobStatusResponse, Priority, ProgressUpdate, Status
from jsjobs.model.payload import JobPayload
from jsjobs.model.periodic import ScheduleStatus
from jsjobs.model.queues import PartitionStatus, QueueStatus, RunningJob, ShardStatus
from jsjobs.model.retry import Retry, Snooze
from jsjobs.service.controls import Controls
from jsjobs.service.follows import Follows
from jsjobs.service.submits import Submits
from jsjobs.settings import Config

if TYPE_CHECKING:
    from jsjobs.maintenance.router import Router
    from jsjobs.operations.periodic_schedules import PeriodicOptions
    from jsjobs.operations.queue_metrics import QueueMetrics
    from jsjobs.worker.worker import Worker

H = TypeVar("H", bound=Handler)


class _Response:
    """The types of answers."""

    Status: TypeAlias = JobStatusResponse
    Batch: TypeAlias = BatchStatus
    Schedule: TypeAlias = ScheduleStatus
    Queue: TypeAlias = QueueStatus


class JobService(Submits, Follows, Controls):
    """Submit jobs, run them, and follow them to their results.

        jobs = JobService()

        @jobs.handler("email.send")
        async def send_email(payload: SendEmail, ctx: JobService.Context) -> Receipt: ...

        async with jobs:
            job_id = await jobs.submit("email.send", SendEmail(to="a@example.org"), entity="customer-42")
            receipt = await jobs.result(job_id, timeout=30)

    Args:
        config: The settings; None: from the environment, or the servers of `jsjobs dev` in this folder.

    Raises:
        JobError: `Validation`, if a setting is invalid.
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
    Snooze: TypeAlias = Snooze
    JobId: TypeAlias = JobId
    ProgressUpdate: TypeAlias = ProgressUpdate
    BatchStatus: TypeAlias = BatchStatus
    QueueStatus: TypeAlias = QueueStatus
    ShardStatus: TypeAlias = ShardStatus
    PartitionStatus: TypeAlias = PartitionStatus
    RunningJob: TypeAlias = RunningJob

    # -- handlers

    def handler(
        self,
        job_type: str,
        *,
        retry: Retry | None = None,
        run_in: RunIn | None = None,
        concurrency: int | None = None,
    ) -> Callable[[H], H]:
        """Make the decorated function the handler of a job type.

            @jobs.handler("email.send", retry=JobService.Retry(max_retries=8))
            async def send_email(payload: SendEmail, ctx: JobService.Context) -> Receipt: ...

        See `register_handler` for the arguments and errors.
        """

        def register(function: H) -> H:
            self.register_handler(job_type, function, retry=retry, run_in=run_in, concurrency=concurrency)
            return function

        return register

    def register_handler(
        self,
        job_type: str,
        function: Handler,
        *,
        retry: Retry | None = None,
        run_in: RunIn | None = None,
        concurrency: int | None = None,
    ) -> None:
        """Make a function the handler of a job type.

        An async function runs in the worker's event loop, a plain function in a thread or in a process. If a function
        that runs in a thread returns an awaitable, the event loop awaits it.

        The parameter annotated with `Context`, or named `ctx` or `context`, gets the job's context. The other parameter
        gets the payload, which pydantic checks against its annotation.

        Args:
            job_type: Words of A-Z, a-z, 0-9, `_` and `-`, separated by dots, such as `email.send`.
            function: The handler.
            retry: When to retry a failed job; None: as the settings say. A job that was submitted without
                `max_attempts` has one attempt more than its `max_retries`.
            run_in: `thread` (the default) or `process`, for a plain function that computes for long; a process must be
                able to import the function.
            concurrency: The most jobs of this type that one worker process runs at once; None: as many as it has slots.
                A job for which there is no room waits without a slot, and is delivered again 0.1 to 1 s later.

        Raises:
            JobError: `Validation`, if the type already has a handler, `concurrency` is no number above 0, or the
                function cannot be a handler or cannot run there: a generator, for example, or a function whose
                signature does not tell which parameter is the payload.
        """
        self._registry.register(job_type, function, retry=retry, run_in=run_in, concurrency=concurrency)

    def periodic(
        self,
        cron: str | None = None,
        *,
        every: float | timedelta | None = None,
        zone: str | None = None,
        name: str | None = None,
        job_type: str | None = None,
        payload: Any = None,
        **options: Unpack[PeriodicOptions],
    ) -> Callable[[H], H]:
        """Have the server submit the decorated handler's job periodically.

            @jobs.handler("report.build")
            @jobs.periodic("0 3 * * 1-5", zone="Europe/Berlin", payload={"days": 1})
            async def build_report(payload: dict[str, int]) -> str: ...

        A worker that starts brings the schedules in line, by name: it adds new ones, updates those that changed, and
        removes those that this application (the setting `app`) declared before and no longer declares. Any number of
        workers may start at once.

        Args:
            cron: Five fields as in a crontab, six with seconds in front, or a macro such as `@daily`.
            every: Whole seconds between two jobs, or a timedelta, instead of a cron.
            zone: The IANA time zone of the cron; UTC if not given.
            name: The schedule's name; None: the job type, with dashes for its dots.
            job_type: The type of the job, where the function handles several types.
            payload: The payload of each job.
            **options: The options of `schedules.add`: priority, entity, tenant, max_attempts, duration, timeout.

        Raises:
            JobError: `Validation`, if the timetable is invalid. Any other mistake is reported by `worker()`.
        """
        from jsjobs.operations.declared_schedules import Declaration
        from jsjobs.operations.periodic_schedules import timetable_of

        timetable = timetable_of(cron, every, zone)

        def declare(function: H) -> H:
            declaration = Declaration(timetable, function, job_type, name, payload, options)
            self._declared.append(declaration)
            return function

        return declare

    @property
    def types(self) -> list[str]:
        """Return the job types that have a handler in this process, sorted."""
        return self._registry.types

    # -- consuming

    def worker(self) -> Worker:
        """Return a worker of this process; use it as an async context manager while the service is connected.

            async with jobs, jobs.worker():
                await stop.wait()

        Raises:
            JobError: `Validation`, if a periodic schedule that the code declares is invalid.
        """
        from jsjobs.operations.declared_schedules import definitions, keep_in_line
        from jsjobs.worker.worker import Worker

        connection, config, names = self.connection, self.config, self._names
        wanted = definitions(self._declared, names, self._connected.composer, self._registry, config.app)
        worker = Worker(connection, config, self._registry, self._telemetry)
        worker.beside.append(partial(keep_in_line, connection, names, wanted, config.app, timeout=config.timeout))
        return worker

    def router(self) -> Router:
        """Return a dead-letter router of this process; use it as an async context manager.

        A database must be set.
        """
        from jsjobs.maintenance.router import Router

        return Router(self.connection, self.config, self.dlq, self._telemetry)

    def queue_metrics(self) -> QueueMetrics:
        """Return a reporter of the queues' own metrics; use it as an async context manager.

        It reports only where telemetry is on.
        """
        from jsjobs.operations.queue_metrics import QueueMetrics

        return QueueMetrics(self.connection, self._names, self._telemetry)

    # -- context

    @staticmethod
    def request_context(
        *, tenant_id: str | None = None, request_id: str | None = None
    ) -> AbstractContextManager[RequestContext]:
        """Set the tenant and request id of the jobs that are submitted inside a block.

            with jobs.request_context(tenant_id="acme"):
                await jobs.submit("email.send", SendEmail(to="ada@example.org"))

        Their handlers run in the same context. An argument that is not given stays as it is outside of the block.
        """
        return request_context(tenant_id=tenant_id, request_id=request_id)

    @staticmethod
    def current_context() -> RequestContext:
        """Return the request context of the running task."""
        return current_context()
