"""What is installed is whole, and what users import is typed."""

import json
import subprocess
import sys
import zipfile
from collections import Counter
from pathlib import Path

import pytest

import jsjobs
from jsjobs.resources import shipped
from type_checkers import basedpyright_says, mypy_says

ROOT = Path(__file__).parents[1]

USER_CODE = """
from typing import assert_type
from jsjobs import JobService

config: JobService.Config = JobService.Config(namespace="shop")
jobs = JobService(config)

@jobs.handler("t", retry=JobService.Retry(initial=1))
async def handler(payload: dict[str, int], ctx: JobService.Context) -> int:
    priority: JobService.Priority = ctx.priority
    ctx.report_progress(1, priority)
    await ctx.report_progress(2, "two")
    return payload["n"] + ctx.attempt

async def main() -> None:
    one = await jobs.submit("t", {"n": 1}, priority="high", max_attempts=2)
    assert_type(one.duplicate, bool)
    many = await jobs.submit("t", [{"n": 1}])
    many.append(one)
    status: JobService.Response.Status = await jobs.status(one)
    state: JobService.Status = status.status
    error: JobService.Error = JobService.Error("Timeout", "late")
    payload: JobService.Payload = JobService.Payload(type="t")
    function: JobService.Handler = handler
    ids: list[JobService.JobId] = many
    async for ended in jobs.as_ended(ids):
        assert_type(ended, JobService.Response.Status)
    async for ended in jobs.as_ended({"normal-1": 1}):
        assert_type(ended.attempts, int)
    async for update in jobs.progress(one):
        progress: JobService.ProgressUpdate = update
        print(progress.pct, state, error, payload, function)
    batch: JobService.BatchStatus = await jobs.batch(ids[0].batch_id or "")
    assert_type(batch.counts["complete"] + batch.counts[JobService.Status.FAILED], int)
    await jobs.submit("t", 1, priority=JobService.Priority.LOW, duration="long")
    await jobs.pause("low")
    queues: list[JobService.QueueStatus] = await jobs.queues.list()
    low: JobService.Response.Queue = await jobs.queues.show("low")
    shard: JobService.ShardStatus = low.shards[0]
    assert_type(queues[0].waiting + shard.running, int)
    assert_type((await jobs.queues.overview()).running_not_listed, int)
    await jobs.submit("t", 1, prority="high")  # wrong: a misspelt option
    await jobs.submit("t", 1, priority="urgent")  # wrong: none of the four
    await jobs.submit("t", 1, duration="medium")  # wrong: none of the two
    await jobs.pause("urgent")  # wrong: none of the four
    await jobs.queues.show("urgent")  # wrong: none of the four
    print(batch.counts["done"])  # wrong: none of the five
    await jobs.results([5])  # wrong: no id
"""
WRONG = {number for number, line in enumerate(USER_CODE.split("\n"), 1) if "# wrong" in line}


def test_the_wheel_holds_streams_example_and_sql(tmp_path: Path) -> None:
    code = "import sys; from hatchling.build import build_wheel; print(build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    names = set(zipfile.ZipFile(tmp_path / done.stdout.split()[-1]).namelist())
    for folder in ("streams", "examples/files"):
        files = {
            path.relative_to(ROOT) for path in (ROOT / folder).rglob("*") if path.suffix in {".json", ".py", ".conf"}
        }
        assert files
        assert {f"jsjobs/_shipped/{path}" for path in files} <= names
    assert any(name.startswith("jsjobs/postgres/migrations/") and name.endswith(".sql") for name in names)
    assert "jsjobs/py.typed" in names


def test_shipped_files_are_found_in_a_checkout() -> None:
    assert json.loads((shipped("streams") / "JOBS_CRITICAL.json").read_text())["retention"] == "workqueue"
    with pytest.raises(FileNotFoundError, match="install it again"):
        shipped("no such folder")


def test_the_package_exports_one_name() -> None:
    assert jsjobs.__all__ == ["JobService"]


@pytest.mark.long
def test_users_code_is_checked_by_mypy_and_pyright(tmp_path: Path) -> None:
    folder = tmp_path / "user"
    folder.mkdir()
    (folder / "user.py").write_text(USER_CODE)
    for said in (mypy_says(folder, tmp_path / "cache"), basedpyright_says(folder)):
        assert {line for _, line, _ in said} == WRONG, said


def test_every_file_of_the_tests_has_a_name_of_its_own() -> None:
    """They are imported by their names alone, but in packages: of two, one would be taken for the other."""
    files = [path for path in (ROOT / "tests").rglob("*.py") if "node_modules" not in path.parts]
    alone = [path for path in files if not (path.parent / "__init__.py").exists() or path.name.startswith("test_")]
    names = Counter(path.name for path in alone if path.name != "conftest.py")
    assert names["test_packaging.py"] == 1
    assert [name for name, count in names.items() if count > 1] == []


def test_no_file_names_a_package_index() -> None:
    tracked = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert {"pyproject.toml", "constraints.txt"} <= set(tracked)
    for name in tracked:
        if "constraints" in name or name.endswith((".toml", ".yml", ".lock")):
            text = (ROOT / name).read_text()
            assert "index-url" not in text
            assert name != "uv.lock"
