"""Whether everything ended as it should: each check reads what is there, and none believes the story."""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from jsjobs import JobService
from jsjobs.cli.demo_story.choice import Choice
from jsjobs.cli.demo_story.stage import Stage
from jsjobs.cli.demo_story.story import Told
from jsjobs.jetstream.api import call
from jsjobs.model.job import JobStatusResponse, Priority, Status

FLAKY = ["processing", "queued", "processing", "queued", "processing", "complete"]
ATTEMPTS = 3
EMPTY_WITHIN_S = 5.0
NAMED = 3
CHUNK = 1 << 16


@dataclass(frozen=True)
class Check:
    """Something that must be true."""

    text: str
    wrong: str = ""
    """What is not as it should be; empty where all is well."""


async def check(stage: Stage, choice: Choice, told: Told, jobs: JobService, archive: Path) -> list[Check]:
    """Look at everything that was promised."""
    return [
        _statuses(told),
        await asyncio.to_thread(_archive, choice, told, archive),
        _order(told),
        _flaky(told),
        await _dead_letter(told, jobs),
        await _queues(stage),
    ]


def _statuses(told: Told) -> Check:
    expected = {told.poison: Status.FAILED}
    wrong = [
        f"{entry.job_id} is {entry.status}: {entry.last_error or 'no error'}"
        for entry in told.entries.values()
        if entry.status is not expected.get(entry.job_id, Status.COMPLETE)
    ]
    return Check(f"all {len(told.entries)} jobs ended, each exactly as expected", _few(wrong))


def _archive(choice: Choice, told: Told, archive: Path) -> Check:
    """The archive is unpacked and compared with the files as they are, and with what their jobs said of them."""
    wrong = []
    with zipfile.ZipFile(archive) as packed:
        names = packed.namelist()
        if sorted(names) != sorted(file.name for file in choice.files):
            wrong.append(f"it holds {len(names)} files instead of {len(choice.files)}, or other ones")
        for job_id, file in told.files.items():
            result = told.entries[job_id].result or {}
            with packed.open(file.name) as inside, file.path.open("rb") as original:
                sums = {_sha256(inside), _sha256(original), file.sha256, result.get("sha256")}
            if len(sums) != 1:
                wrong.append(f"{file.name} is not what it was: was it changed while the demo ran?")
    text = f"unpacked the archive: the sha256 of each of its {len(names)} files is the original's"
    return Check(text, _few(wrong))


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while chunk := file.read(CHUNK):
        digest.update(chunk)
    return digest.hexdigest()


def _order(told: Told) -> Check:
    """Of each folder and priority: started in the order submitted, and none before the one before it had ended."""
    lanes: dict[tuple[str, Priority], list[JobStatusResponse]] = defaultdict(list)
    for job_id, file in told.files.items():
        lanes[file.entity, file.priority].append(told.entries[job_id])
    pairs, wrong = 0, []
    for lane in lanes.values():
        for before, after in itertools.pairwise(lane):
            pairs += 1
            if started(after) < ended(before):
                wrong.append(f"{after.job_id} began before {before.job_id} had ended")
    folders = len({entity for entity, _ in lanes})
    text = f"the files of each of {folders} folder(s) kept their order, one at a time ({pairs} neighbours compared)"
    return Check(text, _few(wrong))
