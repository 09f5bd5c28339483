"""The harness: a namespace for one test, in which jobs run until they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

from jsjobs.embedded.nats import NatsServer
from jsjobs.jetstream.client.connect import connected
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, checked_type
from jsjobs.jetstream.topology.reconciler import deploy, remove
from jsjobs.model.checks import checked_text, checked_timeout
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse, Status
from jsjobs.service import JobService
from jsjobs.settings import Config
from jsjobs.testing.deployment import harness_settings
from jsjobs.testing.drain import drain
from jsjobs.testing.failures import raise_first
from jsjobs.testing.queued import QueuedJob, queued_jobs, scheduled_jobs


class Harness:
    """A fresh namespace with its streams, for the length of a test; use it as an async context manager.

        async with Harness() as harness, harness.using(app.jobs) as jobs:
            job_id = await jobs.submit("email.send", {"to": "ada@example.org"})
            [sent] = await harness.run_all()
            assert sent.result == {"sent_to": "ada@example.org"}

    It belongs to no event loop: you may open it in one and use it in another, as pytest's plugins do.

    Args:
        **settings: Settings of `JobService.Config`, without `namespace`. Nothing is read from the environment. Without
            `nats_url` a server is started and stopped again. Unless `concurrency` is set, or `pools` gives it several
            shards, the jobs of each priority run one after the other, in the order submitted.

    Raises:
        JobError: `Validation`, if a setting is invalid.
    """

    def __init__(self, **settings: Any) -> None:
        """Check the settings; see the class."""
        self._needs_server = "nats_url" not in settings
        self._config = harness_settings(settings)
        self._end: AsyncExitStack | None = None
        self._services: list[JobService] = []

    @property
    def config(self) -> Config:
        """Return the settings of this test: the server, the namespace, and the arguments."""
        return self._config

    async def open(self) -> None:
        """Create the streams, on a server of the harness's own if `nats_url` was not given.

        Raises:
            EmbeddedError: If the server cannot be started.
            JobError: `RunnerUnavailable`, if the server at `nats_url` cannot be reached; `Validation`, if the harness
                is already open.
        """
        if self._end is not None:
            raise JobError.from_validation("the harness is open already")
        async with AsyncExitStack() as undo:
            if self._needs_server:
                await self._start_server(undo)
            undo.push_async_callback(remove, self._config)
            await deploy(self._config)
            self._end = undo.pop_all()

    async def close(self) -> None:
        """Delete the streams, and stop the server if it is the harness's own. Do nothing if the harness is not open."""
        end, self._end = self._end, None
        if end is not None:
            await end.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _start_server(self, undo: AsyncExitStack) -> None:
        server = NatsServer(Path(undo.enter_context(TemporaryDirectory(prefix="jsjobs-"))))
        undo.push_async_callback(asyncio.to_thread, server.stop)
        await asyncio.to_thread(server.start)
        self._config = self._config.model_copy(update={"nats_url": server.url})

    @asynccontextmanager
    async def using(self, service: JobService) -> AsyncIterator[JobService]:
        """Connect the application's own service to this test's namespace for the length of a block.

            async with harness.using(app.jobs) as jobs:
                await jobs.submit("email.send", {"to": "ada@example.org"})

        The service keeps its handlers and its setting `retry`, unless the harness was given `retry`. When the block
        ends it gets all of its own settings back.

        Args:
            service: The application's service; it must not be connected.

        Raises:
            JobError: `Validation`, if it is not a JobService, or is already connected; `RunnerUnavailable`.
        """
        self._opened()
        if not isinstance(service, JobService):
            raise JobError.from_validation(f"using() takes a JobService, not {type(service).__name__}")
        own = service.config
        retry = self._config.retry if "retry" in self._config.model_fields_set else own.retry
        service.configure(self._config.model_copy(update={"retry": retry}))
        self._services.append(service)
        try:
            async with service:
                yield service
        finally:
            self._services.remove(service)
            service.configure(own)

    @asynccontextmanager
    async def service(self) -> AsyncIterator[JobService]:
        """Connect a new service without handlers to this test's namespace for the length of a block.

            async with harness.service() as jobs:
                jobs.register_handler("email.send", fake_send_email)

        Use it for tests that bring handlers of their own.
        """
        async with self.using(JobService(self._config)) as service:
            yield service

    async def queued(self, job_type: str | None = None) -> list[QueuedJob]:
        """Return the jobs that were submitted and have not ended, in the order submitted. Nothing is run.

            [email] = await harness.queued("email.send")
            assert email.payload == {"to": "ada@example.org"}

        Args:
            job_type: The type of the jobs to return; None: jobs of every type.

        Raises:
            JobError: `Validation`, if it is not a valid type.
        """
        return await self._jobs(queued_jobs, job_type)

    async def scheduled(self, job_type: str | None = None) -> list[QueuedJob]:
        """Return the delayed jobs that are not due yet, in the order in which they fall due. Nothing is run.

            [reminder] = await harness.scheduled("reminder.send")
            assert reminder.scheduled_for is not None

        Args:
            job_type: The type of the jobs to return; None: jobs of every type.

        Raises:
            JobError: `Validation`, if it is not a valid type.
        """
        return await self._jobs(scheduled_jobs, job_type)

    async def run_all(
        self,
        service: JobService | None = None,
        *,
        timeout: float = 10.0,
        raise_failures: bool = True,
        with_scheduled: bool = False,
    ) -> list[JobStatusResponse]:
        """Run every queued job, and every job that these submit, until all of them have ended.

            [sent] = await harness.run_all()
            assert sent.status == "complete"

        Failed jobs are retried at once. What is recorded of them, and when they become dead, is as in production.
        Periodic schedules that the code declares submit nothing here.

        Args:
            service: The service whose handlers run; you may leave it out where only one service is in use.
            timeout: Seconds in which all jobs must have ended.
            raise_failures: Whether a dead job is an error here. The exception that its handler raised is raised again,
                with the handler's traceback, once all jobs have ended; with several dead jobs, that of the first.
            with_scheduled: Whether delayed jobs are due at once, in the order of their times, once no other job is
                left. That includes delayed jobs which these submit.

        Returns:
            The statuses of the jobs that ended during the call, in the order in which they ended.

        Raises:
            TimeoutError: If the jobs did not end in time; it names those that run or wait. They are given back.
            JobError: `Validation`, if no service is in use here, or an argument is invalid.
        """
        __tracebackhide__ = True  # so that pytest shows the handler's exception next to the test's own line
        service = self._one_of_ours(service)
        limit = checked_timeout(timeout)
        async with connected(self._config) as connection:
            drained = await drain(connection, service, limit, with_scheduled=with_scheduled)
        dead = [status for status in drained.ended if status.status is Status.FAILED]
        if dead and raise_failures:
            raise_first(dead, drained)
        return drained.ended

    async def _jobs(
        self, find: Callable[[Connection, Names], Awaitable[list[QueuedJob]]], job_type: str | None
    ) -> list[QueuedJob]:
        self._opened()
        if job_type is not None:
            checked_type(checked_text("a job type", job_type))
        async with connected(self._config) as connection:
            jobs = await find(connection, Names(self._config.namespace))
        return [job for job in jobs if job_type in {None, job.type}]

    def _opened(self) -> None:
        if self._end is None:
            raise JobError.from_validation("the harness is not open: use `async with Harness() as harness:`")

    def _one_of_ours(self, service: JobService | None) -> JobService:
        self._opened()
        if service is None:
            if len(self._services) == 1:
                return self._services[0]
            many = "several services are in use: say whose handlers are to run, run_all(jobs)"
            none = "no service is in use: run jobs inside of `async with harness.using(jobs):`"
            raise JobError.from_validation(many if self._services else none)
        if not any(service is ours for ours in self._services):
            raise JobError.from_validation("that service is not in use here: `async with harness.using(jobs):`")
        return service
