"""The checks of the demo find what is wrong: each is shown something that must not pass."""

import asyncio
import hashlib
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from jsjobs.cli.demo import checks, raw_client
from jsjobs.cli.demo.fixtures import choose_files
from jsjobs.cli.demo.measures import percentile, totals, waits
from jsjobs.cli.demo.story import DemoRecord
from jsjobs.model.errors import Reason
from jsjobs.model.job import JobId, JobStatusResponse, Status

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def ran(job_id: str, start: float, end: float, **more: object) -> JobStatusResponse:
    queued = JobStatusResponse(job_id=job_id, status=Status.QUEUED, created_at=START, **more)
    return queued.started(at(start), "w").completed(at(end))


@pytest.fixture
def record(tmp_path: Path) -> DemoRecord:
    """Two files of one folder, packed one after the other."""
    (tmp_path / "folder").mkdir()
    record = DemoRecord()
    for number, name in enumerate(("a", "b")):
        (tmp_path / "folder" / name).write_text(name)
        job_id = f"critical-{number + 1}"
        digest = hashlib.sha256(name.encode()).hexdigest()
        record.entries[job_id] = ran(job_id, number, number + 1, result={"sha256": digest})
    chosen = choose_files(tmp_path / "folder")
    record.files = dict(zip(map(JobId, record.entries), chosen.files, strict=True))
    return record


def test_order(record: DemoRecord) -> None:
    assert checks.check_order(record).wrong == ""
    record.entries["critical-2"] = ran("critical-2", 0.5, 2)
    assert checks.check_order(record).wrong == "critical-2 began before critical-1 had ended"


def test_side_by_side(record: DemoRecord) -> None:
    record.uploads = [JobId(f"normal-parallel-{number + 1}") for number in range(50)]
    for number, job_id in enumerate(record.uploads):
        record.entries[job_id] = ran(job_id, number / 20, number / 20 + 0.5)
    assert checks.check_side_by_side(record).wrong == ""
    for number, job_id in enumerate(record.uploads):
        record.entries[job_id] = ran(job_id, number / 2, number / 2 + 0.5)
    assert checks.check_side_by_side(record).wrong == "at most 1 did"


def test_statuses(record: DemoRecord) -> None:
    assert checks.check_statuses(record).wrong == ""
    record.poison = "critical-1"
    assert checks.check_statuses(record).wrong == "critical-1 is complete: no error"
    dead = JobStatusResponse(job_id="critical-1", status=Status.QUEUED).failed(START, Reason.MAX_RETRIES, "bad luck")
    record.entries["critical-1"] = dead
    assert checks.check_statuses(record).wrong == ""
    record.poison = ""
    assert checks.check_statuses(record).wrong == "critical-1 is failed: bad luck"


def test_a_flaky_job_that_succeeds_at_once_is_not_flaky(record: DemoRecord) -> None:
    record.flaky = "critical-1"
    assert checks.check_flaky(record).wrong == "its history is processing, complete"


@pytest.mark.parametrize(
    ("inside", "wrong"),
    [
        ({"a": "a", "b": "b"}, ""),
        ({"a": "a", "b": "B"}, "b is not what it was"),
        ({"a": "a"}, "it does not hold just the 2 files chosen"),
        ({"a": "a", "b": "b", "c": "c"}, "it does not hold just the 2 files chosen"),
    ],
)
def test_archive(tmp_path: Path, record: DemoRecord, inside: dict[str, str], wrong: str) -> None:
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        for name, text in inside.items():
            archive.writestr(name, text)
    found = checks.check_archive(choose_files(tmp_path / "folder"), record, tmp_path / "archive.zip").wrong
    assert found.startswith(wrong)
    assert bool(found) == bool(wrong)


def test_measures() -> None:
    entries = [ran("critical-1", 0.001, 0.003), ran("critical-2", 0.5, 2)]
    assert waits(entries) == [1, 500]
    assert totals(entries) == [3, 2000]
    assert [percentile(range(1, 101), percent) for percent in (50, 99, 100)] == [50, 99, 100]
    assert percentile([7], 50) == percentile([7], 99) == 7


@pytest.mark.parametrize(
    ("answers", "problem"),
    [
        (b'INFO {}\r\nPING\r\nMSG _INBOX.a-socket 1 16\r\n{"error":"full"}\r\n', "did not take"),
        (b"INFO {}\r\n-ERR 'Authorization Violation'\r\n", "refused"),
        (b"INFO {}\r\n", "closed the connection"),
    ],
)
async def test_the_bare_socket_says_what_the_server_said(answers: bytes, problem: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"{}\r\n")
        writer.write(answers)
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1") as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(ConnectionError, match=problem):
            await raw_client.publish(f"nats://127.0.0.1:{port}", "jobs.low.x.y", b"{}")


class NoSchedules:
    """Stands in for the service: its schedules are gone, as they should be."""

    @property
    def schedules(self) -> "NoSchedules":
        return self

    async def list(self) -> list[str]:
        return []


async def test_scheduled_jobs(record: DemoRecord) -> None:
    def add(job_id: str, due: float, start: float) -> str:
        record.entries[job_id] = ran(job_id, start, start + 1, scheduled_for=at(due))
        return job_id

    record.delayed = add("at-1", 5, 5.1)
    record.firings = [add("at-demo-20260101T000007Z", 7, 7.25), add("at-demo-20260101T000008Z", 8, 8)]
    good = await checks.check_scheduled(record, NoSchedules())
    assert good.wrong == ""
    assert good.text.endswith("none before it was due, at most 250 ms after")
    add("at-1", 5, 4.9)
    add("at-demo-20260101T000008Z", 9, 9)
    wrong = (await checks.check_scheduled(record, NoSchedules())).wrong
    assert wrong == "at-1 began 100 ms before it was due; at-demo-20260101T000008Z was due at 00:00:09"
    record.firings.pop()
    assert "the periodic job had 1 firing" in (await checks.check_scheduled(record, NoSchedules())).wrong
