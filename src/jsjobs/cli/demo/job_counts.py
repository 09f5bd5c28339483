"""Follow many jobs at once: every change of the state bucket is published, so one subscription sees all of them."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress

from rich.table import Table

from jsjobs import JobService
from jsjobs.cancellation import at_most
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import JobStatusResponse, Priority, Status

LOOK_EVERY_S = 1.0
COLUMNS = {
    Status.QUEUED: "yellow",
    Status.PROCESSING: "blue",
    Status.COMPLETE: "green",
    Status.FAILED: "red",
}


class JobCounts:
    """Count the added jobs by status, as far as their statuses are known."""

    def __init__(self) -> None:
        self._statuses: dict[str, Status] = {}
        self._added: dict[str, Priority] = {}
        self._open: set[str] = set()
        self._none_open = asyncio.Event()

    async def follow(self, connection: Connection, names: Names) -> None:
        """Begin to listen for changes."""
        await connection.receive(names.state("*"), self._on_update)

    def add(self, priority: Priority, job_id: str) -> None:
        """Count this job from now on."""
        self._added[job_id] = priority
        if not self._statuses.setdefault(job_id, Status.QUEUED).is_terminal:
            self._open.add(job_id)

    async def ended(self, jobs: JobService) -> dict[str, JobStatusResponse]:
        """Wait until all jobs have ended, and return their entries, read from the bucket: an update is only a hint."""
        entries: dict[str, JobStatusResponse] = {}
        while len(entries) < len(self._added):
            self._none_open.clear()
            if self._open:
                await at_most(LOOK_EVERY_S, self._none_open.wait())
            unread = [job_id for job_id in self._added if job_id not in entries and job_id not in self._open]
            for job_id in unread or list(self._open):
                entry = await jobs.status(job_id)
                self._see(job_id, entry.status)
                if entry.status.is_terminal:
                    entries[job_id] = entry
                else:
                    self._open.add(job_id)
        return entries

    def table(self) -> Table:
        """Return a table of how many jobs of each priority are in each status."""
        counts = self._counts()
        table = Table(box=None, padding=(0, 2), header_style="dim")
        table.add_column("priority")
        for status, colour in COLUMNS.items():
            table.add_column(status, justify="right", style=colour, min_width=10)
        for priority in Priority:
            numbers = [counts[priority, status] for status in COLUMNS]
            table.add_row(priority, *(str(number) if number else "-" for number in numbers))
        return table

    def line(self) -> str:
        """Return how many jobs are in each status, in a few words."""
        totals = Counter(status for (_, status), count in self._counts().items() for _ in range(count))
        return ", ".join(f"{totals[status]} {status}" for status in COLUMNS if totals[status])

    def _counts(self) -> Counter[tuple[Priority, Status]]:
        # Copy first: the display draws in a thread of its own.
        return Counter((priority, self._statuses[job_id]) for job_id, priority in list(self._added.items()))

    def _on_update(self, subject: bytes, _reply: bytes, _header: bytes, data: bytes) -> None:
        with suppress(ValueError, KeyError, TypeError):  # the bucket holds more than jobs
            self._see(subject.rpartition(b".")[2].decode(), Status(json.loads(data)["status"]))

    def _see(self, job_id: str, status: Status) -> None:
        self._statuses[job_id] = status
        if status.is_terminal:
            self._open.discard(job_id)
            if not self._open:
                self._none_open.set()
