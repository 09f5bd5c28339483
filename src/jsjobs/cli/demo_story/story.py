"""The acts of the demo: files, a dead letter and its replay, a cancel, jobs in time, one archive.

What is told here is checked in `checks`.
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
from jsjobs.cli.demo_story import raw_client
from jsjobs.cli.demo_story.choice import Choice, Source
from jsjobs.cli.demo_story.measures import late_ms
from jsjobs.cli.demo_story.screen import Screen, counted
from jsjobs.cli.demo_story.stage import Stage, StageError
from jsjobs.cli.demo_story.tally import Tally
from jsjobs.cli.output import plain
from jsjobs.model.errors import JobError
from jsjobs.model.ids import JobId
from jsjobs.model.job import JobStatusResponse, Priority, Status, utc_now
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
PNG = b"\x89PNG\r\n\x1a\n"


@dataclass
class Told:
    """What happened, for the checks and the summary."""

    files: dict[JobId, Source] = field(default_factory=dict)
    """The job of each file, in the order submitted."""
    raw: str = ""
    flaky: str = ""
    poison: str = ""
    replay: str = ""
    stuck: str = ""
    delayed: str = ""
    firings: list[str] = field(default_factory=list)
    """Jobs of the periodic schedule."""
    archive: str = ""
    quiet: list[str] = field(default_factory=list)
    """Jobs submitted one by one while nothing else ran."""
    entries: dict[str, JobStatusResponse] = field(default_factory=dict)


class Story:
    """Submits the jobs and shows what becomes of them."""

    def __init__(self, stage: Stage, screen: Screen, choice: Choice, jobs: JobService) -> None:
        self._stage = stage
        self._screen = screen
        self._choice = choice
        self._jobs = jobs
        self._tally = Tally()
        self._packed = stage.folder / "packed"
        self._hello = stage.folder / "hello.txt"
        self._poison = stage.folder / "orders.json"
        self.archive = stage.folder / "archive.zip"
        self.told = Told()

    async def files(self) -> None:
        """Every file is a job; in the middle one comes over a bare socket, and two that will fail come last."""
        self._hello.write_text("Any client that can publish can submit a job.\n", encoding="utf-8")
        self._poison.write_bytes(PNG)
        await self._tally.follow(self._stage.connection, self._stage.names)
        files = list(self._choice.files)
        middle = len(files) // 2
        async with self._screen.board(self._tally.table, self._tally.line):
            await self._submit_files(files[:middle])
            await self._publish_raw()
            await self._submit_files(files[middle:])
            self.told.flaky = await self._one("upload.flaky", Priority.NORMAL)
            self.told.poison = await self._one("json.check", Priority.HIGH)
            self.told.entries.update(await self._tally.ended(self._jobs))
        flaky = self.told.entries[self.told.flaky]
        errors = [item.error for item in flaky.history if item.error]
        self._screen.say(f"upload.flaky is {flaky.status} after {counted(len(errors), 'error')}: {', '.join(errors)}")

    async def quiet(self) -> None:
        """A few jobs one by one: how long one takes that waits for no other."""
        for number in range(ONE_BY_ONE):
            payload = {"file": str(self._hello), "packed": str(self._stage.folder / f"quiet/{number}.gz")}
            job_id = await self._jobs.submit("file.pack", payload, priority=Priority.CRITICAL)
            await self._jobs.result(job_id)
            self.told.quiet.append(job_id)
            self.told.entries[job_id] = await self._jobs.status(job_id)

    async def letter(self) -> None:
        """The job that could not be saved waits in Postgres; what was wrong is put right, and it is replayed."""
        letter = await self._routed(self.told.poison)
        say = self._screen.say
        say(f"{letter.type} {letter.original_job_id} ended in {letter.error_reason}; its row in job_dlq says:")
        self._screen.show(_errors(letter))
        self._poison.write_text('[{"order": 7}, {"order": 8}]\n', encoding="utf-8")
        say(f"{self._poison.name} is repaired, and the letter replayed (`jsjobs dlq replay {str(letter.id)[:8]}`):")
        self.told.replay = await self._jobs.replay(str(letter.id))
        result = await self._jobs.result(self.told.replay)
        self.told.entries[self.told.replay] = await self._jobs.status(self.told.replay)
        self._screen.good(f"{self.told.replay} is complete: {json.dumps(result)}")

    async def cancelled(self) -> None:
        """A job that would run for a day is cancelled while it runs."""
        file = {"file": str(self._hello)}
        job_id = self.told.stuck = await self._jobs.submit("upload.stuck", file, entity="demo", duration="long")
        async with aclosing(self._jobs.watch(job_id)) as changes:
            async for status in changes:
                if status.status is Status.PROCESSING:
                    break
        began = time.monotonic()
        self.told.entries[job_id] = status = await self._jobs.cancel(job_id)
        took = (time.monotonic() - began) * 1000
        async with aclosing(self._jobs.progress(job_id)) as updates:
            last_words = [update.message or "" async for update in updates]
        self._screen.say(f"{status.type} would run for a day; `jsjobs cancel {job_id}`:")
        self._screen.good(f"it is {status.status} after {took:.0f} ms, and its `finally` ran: {', '.join(last_words)}")

    async def in_time(self) -> None:
        """A job that is due in a second, and one that comes every second, both from the server's own clock."""
        payload = {"file": str(self._hello), "packed": str(self._stage.folder / "in-time/hello.gz")}
        say, jobs = self._screen.say, self._jobs
        job_id = self.told.delayed = await jobs.submit("file.pack", payload, delay=DELAY_S, priority=Priority.HIGH)
        say(f"`jsjobs submit file.pack … --delay {DELAY_S:g}s`: {job_id}")
        added = await jobs.schedules().add("demo", "file.pack", payload, cron="* * * * * *", priority=Priority.LOW)
        say(f'`jsjobs schedule add {added.name} file.pack … --cron "{added.timetable}"`:')
        await jobs.result(job_id)
        self.told.entries[job_id] = status = await jobs.status(job_id)
        self._screen.good(f"{job_id} started {late_ms(status):.0f} ms after it was due")
        await self._firings(added)
        await jobs.schedules().remove(added.name)
        for firing in self.told.firings:
            late = late_ms(self.told.entries[firing])
            self._screen.good(f"{firing} started {late:.0f} ms after it was due")
        say("the server fires them, by its own clock and with no process beside it; the schedule is removed")

    async def archived(self) -> None:
        """One long job, and its progress as it comes."""
        payload = {"packed": str(self._packed), "archive": str(self.archive)}
        job_id = await self._jobs.submit("archive.build", payload, duration="long")
        self.told.archive = job_id
        with self._screen.bar("archive.build") as step:
            async for update in self._jobs.progress(job_id):
                step(update.pct, update.message or "")
        self.told.entries[job_id] = await self._jobs.status(job_id)
        result = await self._jobs.result(job_id)
        self._screen.good(f"{job_id} is complete: {json.dumps(result)}")

    # -- helpers

    async def _submit_files(self, files: list[Source]) -> None:
        for first in range(0, len(files), CHUNK):
            # Neighbours of one priority go as one batch; the sort keeps the order of each folder's files.
            chunk = sorted(files[first : first + CHUNK], key=lambda source: list(Priority).index(source.priority))
            ids = await self._jobs.submit_payloads([self._payload(source) for source in chunk])
            for job_id, source in zip(ids, chunk, strict=True):
                self.told.files[job_id] = source
                self._tally.add(source.priority, job_id)

    def _payload(self, source: Source) -> JobPayload:
        return JobPayload(
            type="file.pack",
            payload={"file": str(source.path), "packed": str(self._packed / f"{source.name}.gz")},
            priority=source.priority,
            entity=source.entity,
        )

    async def _publish_raw(self) -> None:
        body = json.dumps({"file": str(self._hello), "packed": str(self._stage.folder / "raw/hello.txt.gz")}).encode()
        subject = f"{self._stage.config.namespace}.critical.a-socket.file.pack"
        receipt = await raw_client.publish(self._stage.config.nats_url, subject, body)
        self.told.raw = f"critical-{receipt['seq']}"
        self._tally.add(Priority.CRITICAL, self.told.raw)
        self._screen.say("one job comes from no library, but from a bare socket that speaks the NATS protocol:")
        self._screen.line(plain(f"    PUB {subject} {raw_client.INBOX} {len(body)}"))
        self._screen.line(plain(f"    {json.dumps(receipt)}"))
        self._screen.say(f"the server's acknowledgement is the receipt, for job {self.told.raw}")

    async def _one(self, job_type: str, priority: Priority) -> str:
        file = self._poison if job_type == "json.check" else self._hello
        job_id = await self._jobs.submit(job_type, {"file": str(file)}, priority=priority, entity="demo")
        self._tally.add(priority, job_id)
        return job_id

    async def _firings(self, schedule: ScheduleStatus) -> None:
        """Wait for the first firings of a schedule; each is a job named after its due time."""
        deadline = time.monotonic() + FIRED_WITHIN_S
        while len(self.told.firings) < FIRINGS:
            for due in schedule.next:
                firing = f"at-{schedule.name}-{due:%Y%m%dT%H%M%SZ}"
                if firing in self.told.entries or due > utc_now():
                    continue
                with suppress(JobError):  # the first one may have passed when the server stored the schedule
                    status = await self._jobs.status(firing)
                    if status.status.is_terminal:
                        self.told.firings.append(firing)
                        self.told.entries[firing] = status
            if time.monotonic() > deadline:
                count = counted(len(self.told.firings), "firing")
                raise StageError(f"the periodic job had {count} in {FIRED_WITHIN_S:g} s")
            await asyncio.sleep(0.05)

    async def _routed(self, job_id: str) -> DeadLetter:
        """The job's letter, once the router has stored it."""
        deadline = time.monotonic() + ROUTED_WITHIN_S
        while True:
            try:
                return await self._jobs.letters().find(job_id)
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
