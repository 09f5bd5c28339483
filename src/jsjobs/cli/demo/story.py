"""Run the parts of the demo, from files in order and uploads side by side to one archive at the end.

What they claim is verified in `checks`.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from datetime import datetime

from rich.table import Table

from jsjobs import JobService
from jsjobs.cli.demo import raw_client
from jsjobs.cli.demo.environment import DemoEnvironment, DemoError
from jsjobs.cli.demo.fixtures import DemoFiles, Source
from jsjobs.cli.demo.job_counts import JobCounts
from jsjobs.cli.demo.measures import late_ms
from jsjobs.cli.demo.screen import Screen, counted
from jsjobs.cli.output import plain
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobId, JobStatusResponse, Priority, Status, utc_now
from jsjobs.model.payload import JobPayload
from jsjobs.model.periodic import ScheduleStatus
from jsjobs.postgres.dead_letters import DeadLetter
from jsjobs.postgres.errors import LetterNotFound

CHUNK = 200
ROUTED_WITHIN_S = 15.0
FIRED_WITHIN_S = 15.0
FIRINGS = 2
DELAY_S = 1.0
ONE_BY_ONE = 20
UPLOADS = 50
UPLOAD_S = 0.5
"""Seconds that the handler of `upload.slow` takes."""
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class DemoRecord:
    """The record of what happened, for the checks and the summary."""

    files: dict[JobId, Source] = field(default_factory=dict)
    """The job of each file, in the order submitted."""
    uploads: list[JobId] = field(default_factory=list)
    """The jobs that were submitted together, without an entity."""
    raw: str = ""
    flaky: str = ""
    poison: str = ""
    replay: str = ""
    stuck: str = ""
    delayed: str = ""
    firings: list[str] = field(default_factory=list)
    """The jobs of the periodic schedule."""
    archive: str = ""
    quiet: list[str] = field(default_factory=list)
    """The jobs submitted one by one while nothing else ran."""
    entries: dict[str, JobStatusResponse] = field(default_factory=dict)


class Story:
    """Submit the jobs, and show what becomes of them."""

    def __init__(self, environment: DemoEnvironment, screen: Screen, chosen: DemoFiles, jobs: JobService) -> None:
        self._environment = environment
        self._screen = screen
        self._chosen = chosen
        self._jobs = jobs
        self._counts = JobCounts()
        self._packed = environment.folder / "packed"
        self._hello = environment.folder / "hello.txt"
        self._poison = environment.folder / "orders.json"
        self.archive = environment.folder / "archive.zip"
        self.record = DemoRecord()

    async def files(self) -> None:
        """Submit a job for each file, one job over a bare socket in between, and two jobs that will fail at the end."""
        self._hello.write_text("Any client that can publish can submit a job.\n", encoding="utf-8")
        self._poison.write_bytes(PNG)
        self._screen.say(
            "a file's folder is its job's entity: the files of one folder are packed in order, one at a time"
        )
        await self._counts.follow(self._environment.connection, self._environment.names)
        files = list(self._chosen.files)
        middle = len(files) // 2
        async with self._screen.board(self._counts.table, self._counts.line):
            await self._submit_files(files[:middle])
            await self._publish_raw()
            await self._submit_files(files[middle:])
            self.record.flaky = await self._one("upload.flaky", Priority.NORMAL)
            self.record.poison = await self._one("json.check", Priority.HIGH)
            self.record.entries.update(await self._counts.ended(self._jobs))
        flaky = self.record.entries[self.record.flaky]
        errors = [item.error for item in flaky.history if item.error]
        self._screen.say(f"upload.flaky is {flaky.status} after {counted(len(errors), 'error')}: {', '.join(errors)}")

    async def side_by_side(self) -> None:
        """Submit many jobs at once that name no entity, and wait for all of them."""
        began = time.monotonic()
        file = {"file": str(self._hello)}
        ids = self.record.uploads = await self._jobs.submit("upload.slow", [file] * UPLOADS)
        await asyncio.gather(*map(self._jobs.result, ids))
        took = time.monotonic() - began
        for job_id in ids:
            self.record.entries[job_id] = await self._jobs.status(job_id)
        uploads = f"{UPLOADS} uploads of {UPLOAD_S:g} s each"
        self._screen.say(
            f"`jsjobs submit upload.slow …`, {UPLOADS} times without `--entity`; nothing waits for its neighbour:"
        )
        self._screen.good(f"{uploads}, {UPLOADS * UPLOAD_S:g} s of work, took {took:.1f} s")

    async def quiet(self) -> None:
        """Run a few jobs one by one, to measure how long a job takes that waits for no other."""
        for number in range(ONE_BY_ONE):
            payload = {"file": str(self._hello), "packed": str(self._environment.folder / f"quiet/{number}.gz")}
            job_id = await self._jobs.submit("file.pack", payload, priority=Priority.CRITICAL)
            await self._jobs.result(job_id)
            self.record.quiet.append(job_id)
            self.record.entries[job_id] = await self._jobs.status(job_id)

    async def letter(self) -> None:
        """Show the dead job's letter in Postgres, repair what was wrong, and replay the letter."""
        letter = await self._routed(self.record.poison)
        say = self._screen.say
        say(f"{letter.type} {letter.original_job_id} ended in {letter.error_reason}; its row in job_dlq says:")
        self._screen.show(_errors(letter))
        self._poison.write_text('[{"order": 7}, {"order": 8}]\n', encoding="utf-8")
        say(f"{self._poison.name} is repaired, and the letter replayed (`jsjobs dlq replay {str(letter.id)[:8]}`):")
        self.record.replay = await self._jobs.replay(str(letter.id))
        result = await self._jobs.result(self.record.replay)
        self.record.entries[self.record.replay] = await self._jobs.status(self.record.replay)
        self._screen.good(f"{self.record.replay} is complete: {json.dumps(result)}")

    async def cancelled(self) -> None:
        """Cancel a job that would run for a day, while it runs."""
        file = {"file": str(self._hello)}
        job_id = self.record.stuck = await self._jobs.submit("upload.stuck", file, entity="demo", duration="long")
        async with aclosing(self._jobs.watch(job_id)) as changes:
            async for status in changes:
                if status.status is Status.PROCESSING:
                    break
        began = time.monotonic()
        self.record.entries[job_id] = status = await self._jobs.cancel(job_id)
        took = (time.monotonic() - began) * 1000
        async with aclosing(self._jobs.progress(job_id)) as updates:
            last_words = [update.message or "" async for update in updates]
        self._screen.say(f"{status.type} would run for a day; `jsjobs cancel {job_id}`:")
        self._screen.good(f"it is {status.status} after {took:.0f} ms, and its `finally` ran: {', '.join(last_words)}")

    async def scheduled_jobs(self) -> None:
        """Submit a job that is due in a second, and one that comes every second, both by the server's own clock."""
        payload = {"file": str(self._hello), "packed": str(self._environment.folder / "scheduled/hello.gz")}
        say, jobs = self._screen.say, self._jobs
        job_id = self.record.delayed = await jobs.submit("file.pack", payload, delay=DELAY_S, priority=Priority.HIGH)
        say(f"`jsjobs submit file.pack … --delay {DELAY_S:g}s`: {job_id}")
        added = await jobs.schedules.add("demo", "file.pack", payload, cron="* * * * * *", priority=Priority.LOW)
        say(f'`jsjobs schedule add {added.name} file.pack … --cron "{added.timetable}"`:')
        await jobs.result(job_id)
        self.record.entries[job_id] = status = await jobs.status(job_id)
        self._screen.good(f"{job_id} started {late_ms(status):.0f} ms after it was due")
        await self._firings(added)
        await jobs.schedules.remove(added.name)
        for firing in self.record.firings:
            late = late_ms(self.record.entries[firing])
            self._screen.good(f"{firing} started {late:.0f} ms after it was due")
        say("the server fires them by its own clock, without another process; the schedule is removed")

    async def archived(self) -> None:
        """Run one long job, and show its progress as it comes."""
        payload = {"packed": str(self._packed), "archive": str(self.archive)}
        job_id = await self._jobs.submit("archive.build", payload, duration="long")
        self.record.archive = job_id
        with self._screen.bar("archive.build") as step:
            async for update in self._jobs.progress(job_id):
                step(update.pct, update.message or "")
        self.record.entries[job_id] = await self._jobs.status(job_id)
        result = await self._jobs.result(job_id)
        self._screen.good(f"{job_id} is complete: {json.dumps(result)}")

    # -- helpers

    async def _submit_files(self, files: list[Source]) -> None:
        for first in range(0, len(files), CHUNK):
            # Neighbours of one priority are queued together; the sort keeps the order of each folder's files.
            chunk = sorted(files[first : first + CHUNK], key=lambda source: list(Priority).index(source.priority))
            ids = await self._jobs.submit_payloads([self._payload(source) for source in chunk])
            for job_id, source in zip(ids, chunk, strict=True):
                self.record.files[job_id] = source
                self._counts.add(source.priority, job_id)

    def _payload(self, source: Source) -> JobPayload:
        return JobPayload(
            type="file.pack",
            payload={"file": str(source.path), "packed": str(self._packed / f"{source.name}.gz")},
            priority=source.priority,
            entity=source.entity,
        )

    async def _publish_raw(self) -> None:
        body = json.dumps(
            {"file": str(self._hello), "packed": str(self._environment.folder / "raw/hello.txt.gz")}
        ).encode()
        subject = f"{self._environment.config.namespace}.critical.a-socket.file.pack"
        receipt = await raw_client.publish(self._environment.config.nats_url, subject, body)
        self.record.raw = f"critical-{receipt['seq']}"
        self._counts.add(Priority.CRITICAL, self.record.raw)
        self._screen.say("one job is published without a library, over a bare socket that speaks the NATS protocol:")
        self._screen.line(plain(f"    PUB {subject} {raw_client.INBOX} {len(body)}"))
        self._screen.line(plain(f"    {json.dumps(receipt)}"))
        self._screen.say(f"the server's acknowledgement is the receipt, for job {self.record.raw}")

    async def _one(self, job_type: str, priority: Priority) -> str:
        file = self._poison if job_type == "json.check" else self._hello
        job_id = await self._jobs.submit(job_type, {"file": str(file)}, priority=priority, entity="demo")
        self._counts.add(priority, job_id)
        return job_id

    async def _firings(self, schedule: ScheduleStatus) -> None:
        """Wait until the first firings of a schedule have ended; each is a job named after its due time."""
        deadline = time.monotonic() + FIRED_WITHIN_S
        while len(self.record.firings) < FIRINGS:
            for due in schedule.next:
                firing = f"at-{schedule.name}-{due:%Y%m%dT%H%M%SZ}"
                if firing in self.record.entries or due > utc_now():
                    continue
                with suppress(JobError):  # the first one may have passed when the server stored the schedule
                    status = await self._jobs.status(firing)
                    if status.status.is_terminal:
                        self.record.firings.append(firing)
                        self.record.entries[firing] = status
            if time.monotonic() > deadline:
                count = counted(len(self.record.firings), "firing")
                raise DemoError(f"the periodic job had only {count} within {FIRED_WITHIN_S:g} s")
            await asyncio.sleep(0.05)

    async def _routed(self, job_id: str) -> DeadLetter:
        """Wait until the router has stored the job's letter, and return it."""
        deadline = time.monotonic() + ROUTED_WITHIN_S
        while True:
            try:
                return await self._jobs.dlq.find(job_id)
            except LetterNotFound:
                if time.monotonic() > deadline:
                    raise
            await asyncio.sleep(0.05)


def _errors(letter: DeadLetter) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="dim")
    for name in ("attempt", "after ms", "error"):
        table.add_column(name)
    times = [datetime.fromisoformat(failure["timestamp"]) for failure in letter.error_history]
    for failure, moment in zip(letter.error_history, times, strict=True):
        after = f"{(moment - times[0]).total_seconds() * 1000:.0f}"
        table.add_row(str(failure["attempt"]), after, plain(failure["error"]))
    return table
