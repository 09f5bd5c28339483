"""Check that everything ended as it should: each check reads the result itself, and none trusts the story."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import zipfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from jsjobs import JobService
from jsjobs.cli.demo.environment import DemoEnvironment
from jsjobs.cli.demo.fixtures import DemoFiles
from jsjobs.cli.demo.measures import ended, late_ms, started
from jsjobs.cli.demo.screen import counted
from jsjobs.cli.demo.story import FIRINGS, DemoRecord
from jsjobs.jetstream.api.streams import stream_info
from jsjobs.model.job import JobStatusResponse, Priority, Status
from jsjobs.model.lanes import QUEUES

FLAKY = ["processing", "queued", "processing", "queued", "processing", "complete"]
ATTEMPTS = 3
SIDE_BY_SIDE = 10
"""Uploads that must have run at the same time, at least; a busy machine takes its time to begin them."""
EMPTY_WITHIN_S = 5.0
NAMED = 3
CHUNK = 1 << 16


@dataclass(frozen=True)
class Check:
    """Something that must be true."""

    text: str
    wrong: str = ""
    """A description of what is wrong; empty where all is well."""


async def check(
    environment: DemoEnvironment, chosen: DemoFiles, record: DemoRecord, jobs: JobService, archive: Path
) -> list[Check]:
    """Check every claim of the demo."""
    return [
        check_statuses(record),
        await asyncio.to_thread(check_archive, chosen, record, archive),
        check_order(record),
        check_side_by_side(record),
        check_flaky(record),
        await _dead_letter(record, jobs),
        await check_scheduled(record, jobs),
        await _queues(environment),
    ]


def check_statuses(record: DemoRecord) -> Check:
    """Check that every job ended as it should: one failed, one cancelled, the others complete."""
    expected = {record.poison: Status.FAILED, record.stuck: Status.CANCELLED}
    wrong = [
        f"{entry.job_id} is {entry.status}: {entry.last_error or 'no error'}"
        for entry in record.entries.values()
        if entry.status is not expected.get(entry.job_id, Status.COMPLETE)
    ]
    return Check(f"all {len(record.entries)} jobs ended, each exactly as expected", _few(wrong))


def check_archive(chosen: DemoFiles, record: DemoRecord, archive: Path) -> Check:
    """Unpack the archive, and compare it with the files as they are, and with the results of their jobs."""
    wrong = []
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        if sorted(names) != sorted(file.name for file in chosen.files):
            wrong.append(f"it does not hold just the {counted(len(chosen.files), 'file')} chosen")
        for job_id, file in record.files.items():
            if file.name not in names:
                continue
            result = record.entries[job_id].result or {}
            with packed.open(file.name) as inside:
                sums = {_sha256(inside), _original(file.path), file.sha256, result.get("sha256")}
            if len(sums) != 1:
                wrong.append(f"{file.name} is not what it was: was it changed while the demo ran?")
    text = f"the archive was unpacked: {counted(len(names), 'file')}, each with the sha256 of the original"
    return Check(text, _few(wrong))


def _original(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return _sha256(file)
    except OSError:
        return None


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def check_order(record: DemoRecord) -> Check:
    """Check that jobs of one folder and priority ran in the order submitted, each after the previous one had ended."""
    lanes: dict[tuple[str, Priority], list[JobStatusResponse]] = defaultdict(list)
    for job_id, file in record.files.items():
        lanes[file.entity, file.priority].append(record.entries[job_id])
    pairs, wrong = 0, []
    for lane in lanes.values():
        for before, after in itertools.pairwise(lane):
            pairs += 1
            if started(after) < ended(before):
                wrong.append(f"{after.job_id} began before {before.job_id} had ended")
    folders = counted(len({entity for entity, _ in lanes}), "folder")
    text = f"{folders}: their files kept their order, one at a time ({counted(pairs, 'pair')} of neighbours compared)"
    return Check(text, _few(wrong))


def check_side_by_side(record: DemoRecord) -> Check:
    """Check that jobs without an entity ran at the same time."""
    spans = [(started(record.entries[job_id]), ended(record.entries[job_id])) for job_id in record.uploads]
    most = max(sum(begin <= moment < end for begin, end in spans) for moment, _ in spans)
    text = f"the uploads have no entity: up to {most} of {len(spans)} ran at the same time"
    return Check(text, "" if most >= SIDE_BY_SIDE else f"at most {most} did")


def check_flaky(record: DemoRecord) -> Check:
    """Check that the flaky job failed at first and succeeded later."""
    entry = record.entries[record.flaky]
    history = [item.status.value for item in entry.history]
    wrong = "" if entry.attempts == ATTEMPTS and history == FLAKY else f"its history is {', '.join(history)}"
    return Check(f"the flaky job failed twice and succeeded at attempt {ATTEMPTS}", wrong)


async def _dead_letter(record: DemoRecord, jobs: JobService) -> Check:
    rows = await jobs.dlq.list(include_replayed=True, include_discarded=True)
    wrong = []
    if [row.original_job_id for row in rows] != [record.poison]:
        wrong.append(f"job_dlq has rows for {[row.original_job_id for row in rows]}")
    for row in rows:
        errors = len(row.error_history)
        if (errors, row.attempts, row.error_reason) != (ATTEMPTS, ATTEMPTS, "MaxRetries"):
            wrong.append(f"its row says {row.error_reason}, {row.attempts} attempts, {errors} errors")
        if row.replayed_job_id != record.replay or row.replayed_at is None:
            wrong.append("its row does not say that it was replayed")
    text = f"the poison job has one row in job_dlq with its {ATTEMPTS} errors, and its replay succeeded"
    return Check(text, _few(wrong))


async def check_scheduled(record: DemoRecord, jobs: JobService) -> Check:
    """Check that the delayed job and each firing were due when their ids say, and did not start earlier."""
    wrong = [f"schedule {one.name} is still there" for one in await jobs.schedules.list()]
    if len(record.firings) < FIRINGS:
        wrong.append(f"the periodic job had {counted(len(record.firings), 'firing')}")
    latest = 0.0
    for job_id in (record.delayed, *record.firings):
        entry = record.entries[job_id]
        if entry.scheduled_for is None:
            wrong.append(f"{job_id} does not say when it was due")
            continue
        if job_id in record.firings and not job_id.endswith(f"{entry.scheduled_for:%Y%m%dT%H%M%SZ}"):
            wrong.append(f"{job_id} was due at {entry.scheduled_for:%H:%M:%S}")
        if late_ms(entry) < 0:
            wrong.append(f"{job_id} began {-late_ms(entry):.0f} ms before it was due")
        latest = max(latest, late_ms(entry))
    fired = counted(len(record.firings), "firing")
    text = f"the delayed job and {fired} of the periodic one: none before it was due, at most {latest:.0f} ms after"
    return Check(text, _few(wrong))


async def _queues(environment: DemoEnvironment) -> Check:
    """Check that the queues are empty.

    A job's message is deleted when it is acknowledged, a moment after the job's entry says that it has ended.
    """
    deadline = asyncio.get_running_loop().time() + EMPTY_WITHIN_S
    while True:
        left = 0
        for name in (*map(environment.names.queue, QUEUES), environment.names.dead_stream):
            left += (await stream_info(environment.connection, name)).state.messages
        if not left or asyncio.get_running_loop().time() > deadline:
            return Check("nothing is left in any queue", f"{counted(left, 'message')} left" if left else "")
        await asyncio.sleep(0.05)


def _few(wrong: list[str]) -> str:
    more = f"; and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
    return "; ".join(wrong[:NAMED]) + more
