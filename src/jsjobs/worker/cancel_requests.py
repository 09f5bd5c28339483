"""Receive requests to cancel jobs that run in this worker."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost
from jsjobs.jetstream.protocol.names import Names, may_be_answered
from jsjobs.safe_log import get_logger
from jsjobs.worker.job_run import JobRun, RunKey

logger = get_logger("jsjobs.worker")


class CancelRequests:
    """Stop this worker's runs of jobs that are to be cancelled; leave requests for other workers' jobs unanswered."""

    def __init__(self, connection: Connection, names: Names, worker: str, runs: Mapping[RunKey, JobRun]) -> None:
        self._connection = connection
        self._namespace = names.namespace
        self._every = names.cancel("*")
        self._answer = json.dumps({"worker": worker}).encode()
        self._runs = runs
        self._subscription: int | None = None

    async def start(self) -> None:
        """Start listening."""
        self._subscription = await self._connection.receive(self._every, self._on_request)

    async def stop(self) -> None:
        """Stop listening."""
        if self._subscription is not None:
            await self._connection.stop_receiving(self._subscription, drain=False)
            self._subscription = None

    def _on_request(self, subject: bytes, reply: bytes, _header: bytes, _data: bytes) -> None:
        job_id = subject[len(self._every) - 1 :].decode("utf-8", "backslashreplace")
        runs = [run for run in self._runs.values() if run.job_id == job_id]
        for run in runs:
            if run.cancel():  # a caller that waits asks again and again
                logger.info("job %s: to be cancelled", job_id)
        if runs:
            self._reply(reply)

    def _reply(self, reply: bytes) -> None:
        if may_be_answered(reply, self._namespace):
            with suppress(ConnectionLost):
                self._connection.post(reply, self._answer)
