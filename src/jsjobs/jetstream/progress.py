"""Progress updates: sent by handlers, kept by the server (the last 100 of each job, for a day), followed by anyone."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import datetime

from pydantic import BaseModel, ConfigDict

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, TooLarge
from jsjobs.jetstream.subjects import Names
from jsjobs.model.job import clipped, utc_now

INTERVAL = 0.05
"""Seconds between two updates of one job, at least: a chatty handler's are joined, the latest counts."""


class ProgressUpdate(BaseModel):
    """How far a job is."""

    model_config = ConfigDict(frozen=True)

    pct: float
    """Percent done, 0 to 100."""
    message: str | None = None
    timestamp: datetime


class ProgressSender:
    """Publishes the progress of the jobs of one worker, without waiting: a lost update costs nothing."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def reporter(self, job_id: str) -> Reporter:
        """Where one attempt reports."""
        return Reporter(self, job_id)

    def send(self, job_id: str, update: ProgressUpdate) -> None:
        """Publish one update."""
        data = update.model_dump_json(exclude_none=True).encode()
        with suppress(ConnectionLost, TooLarge):
            self._connection.post(self._names.progress(job_id), data)

    def on_loop(self, call: Reporter, update: ProgressUpdate) -> None:
        """Take a report made in any thread."""
        if threading.get_ident() == self._thread:
            call.take(update)
        else:
            self._loop.call_soon_threadsafe(call.take, update)

    def later(self, seconds: float, call: Reporter) -> asyncio.TimerHandle:
        """Call its `flush` after so many seconds."""
        return self._loop.call_later(seconds, call.flush)


class Reporter:
    """Joins the reports of one attempt to at most 20 a second."""

    __slots__ = ("_job_id", "_latest", "_sender", "_sent_at", "_timer")

    def __init__(self, sender: ProgressSender, job_id: str) -> None:
        self._sender = sender
        self._job_id = job_id
        self._sent_at = 0.0
        self._latest: ProgressUpdate | None = None
        self._timer: asyncio.TimerHandle | None = None

    def report(self, pct: float, message: str | None) -> None:
        """Report from the handler's task or thread."""
        text = None if message is None else clipped(str(message))
        self._sender.on_loop(self, ProgressUpdate(pct=pct, message=text, timestamp=utc_now()))

    def take(self, update: ProgressUpdate) -> None:
        """Send it now if the last one is long enough ago, else soon."""
        self._latest = update
        wait = self._sent_at + INTERVAL - time.monotonic()
        if wait <= 0:
            self.flush()
        elif self._timer is None:
            self._timer = self._sender.later(wait, self)

    def flush(self) -> None:
        """Send what waits."""
        self._timer = None
        if self._latest is not None:
            self._sender.send(self._job_id, self._latest)
            self._latest, self._sent_at = None, time.monotonic()

    def close(self) -> None:
        """The attempt has ended: send what waits, now."""
        if self._timer is not None:
            self._timer.cancel()
        self.flush()
