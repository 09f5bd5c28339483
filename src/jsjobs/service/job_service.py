"""JobService: the one thing users import. A thin facade; its parts are the other modules here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Unpack

from jsjobs.model.batch import BatchStatus
from jsjobs.model.context import RequestContext, current_context, request_context
from jsjobs.model.errors import JobError
from jsjobs.model.ids import JobId
from jsjobs.model.job import JobStatusResponse, Priority, Status
from jsjobs.model.payload import JobPayload
from jsjobs.model.periodic import ScheduleStatus
from jsjobs.model.progress import ProgressUpdate
from jsjobs.model.retry import Retry
from jsjobs.model.snooze import Snooze
from jsjobs.service.controls import Controls
from jsjobs.service.follows import Follows
from jsjobs.service.submits import Submits
from jsjobs.settings import Config
from jsjobs.worker.context import JobContext
from jsjobs.worker.registry import Handler, RunIn

if TYPE_CHECKING:
    from jsjobs.dead_letters.router import Router
    from jsjobs.queue_metrics import QueueMetrics
    from jsjobs.scheduling import PeriodicOptions
    from jsjobs.worker.worker import Worker

H = TypeVar("H", bound=Handler)


class _Response:
    """The forms of answers."""

    Status: TypeAlias = JobStatusResponse
    Batch: TypeAlias = BatchStatus
    Schedule: TypeAlias = ScheduleStatus


class JobService(Submits, Follows, Controls):
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
    Snooze: TypeAlias = Snooze
    JobId: TypeAlias = JobId
    ProgressUpdate: TypeAlias = ProgressUpdate
    BatchStatus: TypeAlias = BatchStatus

    # -- handlers

    def handler(self, job_type: str, *, retry: Retry | None = None, run_in: RunIn | None = None) -> Callable[[H], H]:
        """Make the decorated function the handler of a job type. See `register_handler`."""

        def register(function: H) -> H:
            self.register_handler(job_type, function, retry=retry, run_in=run_in)
            return function

        return register

    def register_handler(
        self, job_type: str, function: Handler, *, retry: Retry | None = None, run_in: RunIn | None = None
    ) -> None:
        """Make a function the handler of a job type.

        An async function runs in the worker's event loop, a plain one in a thread or in a process; what a thread's
        returns to be awaited is awaited in the event loop. The parameter that is annotated with `Context`, or named
        `ctx` or `context`, gets the job's context; the other one the payload, checked by pydantic against its
        annotation.

        Args:
            job_type: Words of A-Z, a-z, 0-9, `_` and `-`, with dots between them.
            function: The handler.
            retry: When to try a failed job again; None: as the settings say. A job that was submitted without
                `max_attempts` has one more than its `max_retries`.
            run_in: `thread` (the default) or `process`, for a plain function that computes for long; a process must be
                able to import it.

        Raises:
            JobError: `Validation`, if the type has a handler already, or the function cannot be one or run there: a
                generator, say, or one whose signature does not tell which parameter is the payload.
        """
        self._registry.register(job_type, function, retry=retry, run_in=run_in)

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
        """Let the server submit the decorated handler's job again and again.

        It is kept in line by name: a worker that starts adds it, changes what changed, and removes what this
        application (the setting `app`) declared before and does not any more. Any number may start at once.

        Args:
            cron: Five fields as in a crontab, six with seconds in front, or a macro such as `@daily`.
            every: Whole seconds between two jobs, or a timedelta, in the place of a cron.
            zone: The IANA time zone of a cron; UTC if not given.
            name: The schedule's; None: the job's type, its dots as dashes.
            job_type: Which job, where the function handles several.
            payload: Of each job.
            **options: As `schedules().add` takes them: priority, entity, tenant, max_attempts, duration, timeout.

        Raises:
            JobError: `Validation`, if the timetable cannot be one. What else cannot be used is told at `worker()`.
        """
        from jsjobs.declaring import Declaration
        from jsjobs.scheduling import timetable_of

        timetable = timetable_of(cron, every, zone)

        def declare(function: H) -> H:
            declaration = Declaration(timetable, function, job_type, name, payload, options)
            self._declared.append(declaration)
            return function

        return declare

    @property
    def types(self) -> list[str]:
        """The job types that have a handler in this process, sorted."""
        return self._registry.types

    # -- consuming

    def worker(self) -> Worker:
        """A worker of this process; use it as an async context manager while the service is connected.

        Raises:
            JobError: `Validation`, if a periodic schedule that the code declares cannot be used.
        """
        from jsjobs.declaring import definitions, keep_in_line
        from jsjobs.worker.worker import Worker

        connection, config, names = self.connection, self.config, self._names
        wanted = definitions(self._declared, names, self._composer(), self._registry, config.app)
        worker = Worker(connection, config, self._registry, self._telemetry)
        worker.beside.append(partial(keep_in_line, connection, names, wanted, config.app, timeout=config.timeout))
        return worker

    def router(self) -> Router:
        """A dead-letter router of this process, where a database is set; use it as an async context manager."""
        from jsjobs.dead_letters.router import Router

        return Router(self.connection, self.config, self.letters(), self._telemetry)

    def queue_metrics(self) -> QueueMetrics:
        """Metrics of the queues themselves, where telemetry is on; use it as an async context manager."""
        from jsjobs.queue_metrics import QueueMetrics

        return QueueMetrics(self.connection, self._names, self._telemetry)

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
