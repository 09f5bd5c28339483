"""Progress updates: sent by handlers, kept by the server (the last 100 of each job, for a day), followed by anyone."""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionLost, TooLarge
from jsjobs.jetstream.subjects import Names
from jsjobs.model.clipping import clipped
from jsjobs.model.progress import ProgressUpdate

INTERVAL = 0.05
"""Seconds between two updates of one job, at least: a chatty handler's are joined, the latest counts."""


class ProgressSender:
    """Publishes the progress of the jobs of one worker, without waiting: a lost update costs nothing."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()

    def send(self, job_id: str, update: ProgressUpdate) -> None:
        """Publish one update."""
        data = update.model_dump_json(exclude_none=True).encode()
        with suppress(ConnectionLost, TooLarge):
            self._connection.post(self._names.progress(job_id), data)

    def wake(self, reporter: Reporter) -> None:
        """Flush it in the loop, now or soon; from any thread."""
        if threading.get_ident() == self._thread:
            reporter.flush()
        else:
            self._loop.call_soon_threadsafe(reporter.flush)

    def wake_later(self, reporter: Reporter) -> asyncio.TimerHandle:
        """Flush it when another update may be sent."""
        return self._loop.call_later(INTERVAL, reporter.flush_again)


class Reporter:
    """Joins the reports of one attempt to at most 20 a second.

    A report only stores what it says: the loop is woken where it is not about to look by itself, so that ten thousand
    reports a second, from a task or from a thread, cost it no more than twenty.
    """

    __slots__ = ("_is_awake", "_is_closed", "_job_id", "_latest", "_sender", "_timer")

    def __init__(self, sender: ProgressSender, job_id: str) -> None:
        self._sender = sender
        self._job_id = job_id
        self._latest: tuple[float, str | None, float] | None = None
        self._is_awake = False
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None

    def report(self, pct: float, message: str | None) -> None:
        """Report from the handler's task or thread."""
        # Stored before the look whether the loop is awake, which it ends before its last look for what is stored: one
        # of the two sees the other, and no report is left behind.
        self._latest = (pct, message, time.time())
        if not self._is_awake:
            self._is_awake = True
            self._sender.wake(self)

    def flush(self) -> None:
        """Send what waits, and come back for what is reported meanwhile; not sooner than another may be sent."""
        if self._is_closed or self._timer is not None:
            return
        self._is_awake = False
        if self._latest is not None:
            self._is_awake = True
            self._send()
            self._timer = self._sender.wake_later(self)

    def flush_again(self) -> None:
        """Send what was reported since the last update."""
        self._timer = None
        self.flush()

    def close(self) -> None:
        """The attempt has ended: send what waits, now. What a stray thread reports later is dropped."""
        self._is_awake = self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        self._send()

    def _send(self) -> None:
        latest, self._latest = self._latest, None
        if latest is None:
            return
        pct, message, reported_at = latest
        text = None if message is None else clipped(message)
        timestamp = datetime.fromtimestamp(reported_at, UTC)
        self._sender.send(self._job_id, ProgressUpdate(pct=pct, message=text, timestamp=timestamp))
