"""Progress updates, sent by handlers and kept by the server: the last 100 of each job, for a day.

Anyone may follow them.
"""

from __future__ import annotations

import asyncio
import threading
import time
from contextlib import suppress
from datetime import UTC, datetime

from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionLost, TooLarge
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.errors import clipped
from jsjobs.model.job import ProgressUpdate

INTERVAL = 0.05
"""Minimum seconds between two updates of one job. More frequent reports are joined, and the latest counts."""


class ProgressSender:
    """Publish the progress of one worker's jobs, without waiting: a lost update costs nothing."""

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
        """Flush a reporter in the event loop, now or soon; may be called from any thread."""
        if threading.get_ident() == self._thread:
            reporter.flush()
        else:
            self._loop.call_soon_threadsafe(reporter.flush)

    def wake_later(self, reporter: Reporter) -> asyncio.TimerHandle:
        """Flush a reporter when another update may be sent."""
        return self._loop.call_later(INTERVAL, reporter.flush_again)


class Reporter:
    """Join the reports of one attempt to at most 20 a second.

    A report only stores its values. The event loop is woken only if it is not about to check by itself. So ten thousand
    reports a second, from a task or from a thread, cost it no more than twenty.
    """

    __slots__ = ("_is_closed", "_job_id", "_sender", "_timer", "is_awake", "latest")

    def __init__(self, sender: ProgressSender, job_id: str) -> None:
        self._sender = sender
        self._job_id = job_id
        self.latest: tuple[float, str | None, float] | None = None
        """The last report and its time, if it was not sent yet."""
        self.is_awake = False
        """Whether the event loop is about to check by itself for reports."""
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None

    def report(self, pct: float, message: str | None) -> None:
        """Report progress from the handler's task or thread."""
        # The report is stored before `is_awake` is checked, and the loop clears `is_awake` before its last check for
        # reports. So one of the two sees the other, and no report is left behind.
        self.latest = (pct, message, time.time())
        if not self.is_awake:
            self.is_awake = True
            self._sender.wake(self)

    def flush(self) -> None:
        """Send the latest report, and come back for later ones as soon as another may be sent."""
        if self._is_closed or self._timer is not None:
            return
        self.is_awake = False
        if self.latest is not None:
            self.is_awake = True
            self._send()
            self._timer = self._sender.wake_later(self)

    def flush_again(self) -> None:
        """Send the latest report since the last update."""
        self._timer = None
        self.flush()

    def close(self) -> None:
        """Send the latest report at once, because the attempt has ended.

        Later reports of a stray thread are dropped.
        """
        self.is_awake = self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self.latest is not None:
            self._send()

    def _send(self) -> None:
        latest, self.latest = self.latest, None
        if latest is None:
            return
        pct, message, reported_at = latest
        text = None if message is None else clipped(message)
        timestamp = datetime.fromtimestamp(reported_at, UTC)
        self._sender.send(self._job_id, ProgressUpdate(pct=pct, message=text, timestamp=timestamp))
