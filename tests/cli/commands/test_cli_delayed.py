"""Delayed jobs at the command line: submitted, moved, cancelled, run now."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cli_process import Cli
from test_cli_use import NOWHERE, run

from facts import eventually


async def status(cli: Cli, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((await cli.run("status", job_id, "--json")).out)
    return found


async def delayed(cli: Cli, *arguments: str) -> str:
    """The id of a job that is due in an hour."""
    done = await cli.run("submit", "echo", "1", "--delay", "1h", *arguments)
    assert (done.code, done.err) == (0, "")
    return done.out.strip()


async def test_a_delayed_job_is_known_at_once_and_runs_when_it_is_due(cli: Cli) -> None:
    before = datetime.now(UTC)
    receipt = json.loads((await cli.run("submit", "echo", '{"n": 1}', "--delay", "1500ms", "--json")).out)
    assert set(receipt) == {"job_id", "duplicate"}
    assert receipt["job_id"].startswith("at-")
    waiting = await status(cli, receipt["job_id"])
    due = datetime.fromisoformat(waiting["scheduled_for"])
    assert waiting["status"] == "queued"
    assert before + timedelta(seconds=1.5) <= due <= before + timedelta(seconds=10)
    assert "scheduled for" in (await cli.run("status", receipt["job_id"])).out
    await cli.worker("--no-router")
    result = await cli.run("result", receipt["job_id"])
    assert (result.code, json.loads(result.out)) == (0, {"n": 1})
    history = (await status(cli, receipt["job_id"]))["history"]
    assert [item["status"] for item in history] == ["queued", "processing", "complete"]
    assert datetime.fromisoformat(history[1]["timestamp"]) >= due


async def test_a_time_of_day_is_taken_with_and_without_a_zone(cli: Cli) -> None:
    for text in ("2099-12-24T18:00:00Z", "2099-12-24T20:00+02:00"):
        job_id = (await cli.run("submit", "echo", "1", "--at", text)).out.strip()
        assert (await status(cli, job_id))["scheduled_for"] == "2099-12-24T18:00:00Z"
    submitted = await cli.run("submit", "echo", "1", "--at", "2099-12-24T18:00", TZ="Asia/Tokyo")
    assert (await status(cli, submitted.out.strip()))["scheduled_for"] == "2099-12-24T09:00:00Z"
    past = await cli.run("submit", "echo", "1", "--at", "2020-01-01T00:00:00Z")
    assert past.out.startswith("normal-")


async def test_waiting_for_a_delayed_job_and_for_a_batch(cli: Cli) -> None:
    await cli.worker("--no-router")
    one = await cli.run("submit", "echo", "[7]", "--delay", "300ms", "--wait")
    assert (one.code, json.loads(one.out)) == (0, [7])
    batch = await cli.run("submit", "echo", "-", "--delay", "300ms", "--wait", "--json", stdin="1\n2\n")
    ended = json.loads(batch.out)
    assert [(one["status"], one["result"], one["job_id"][:3]) for one in ended] == [
        ("complete", 1, "at-"),
        ("complete", 2, "at-"),
    ]


async def test_the_same_dedupe_key_is_the_same_job_and_a_debounce_key_the_last_one(cli: Cli) -> None:
    first = await delayed(cli, "--dedupe-key", "order-7")
    again = await cli.run("submit", "echo", "2", "--delay", "2h", "--dedupe-key", "order-7", "--json")
    assert json.loads(again.out) == {"job_id": first, "duplicate": True}
    await cli.worker("--no-router")
    saved = [await cli.run("submit", "echo", f"{n}", "--delay", "1h", "--debounce-key", "doc-1") for n in range(2)]
    assert saved[0].out == saved[1].out
    last = await cli.run("submit", "echo", "2", "--delay", "200ms", "--debounce-key", "doc-1", "--wait")
    assert last.err == saved[0].out
    assert last.out == "2\n"


async def test_a_job_is_put_off_brought_forward_and_run_now(cli: Cli) -> None:
    job_id = await delayed(cli)
    moved = json.loads((await cli.run("reschedule", job_id, "--delay", "2d", "--json")).out)
    assert set(moved) == set(await status(cli, job_id))
    assert (moved["job_id"], moved["status"]) == (job_id, "queued")
    assert datetime.fromisoformat(moved["scheduled_for"]) > datetime.now(UTC) + timedelta(days=1.9)
    told = await cli.run("reschedule", job_id, "--at", "2099-12-24T18:00:00Z", TZ="UTC")
    assert (told.code, told.out, told.err) == (0, "", f"{job_id}: due at 2099-12-24 18:00:00\n")
    assert (await status(cli, job_id))["scheduled_for"] == "2099-12-24T18:00:00Z"
    now = await cli.run("reschedule", job_id, "--now")
    assert (now.code, now.err) == (0, f"{job_id}: due now\n")
    await cli.worker("--no-router")
    assert (await cli.run("result", job_id)).out == "1\n"


async def test_a_job_that_backs_off_is_run_now(cli: Cli) -> None:
    await cli.worker("--no-router")
    job_id = (await cli.run("submit", "back-off", "1")).out.strip()

    async def has_failed() -> bool:
        return (await status(cli, job_id))["last_error"] is not None

    await eventually(has_failed)
    now = await cli.run("reschedule", job_id, "--now")
    assert (now.code, now.err) == (0, f"{job_id}: due now\n")
    assert (await cli.run("result", job_id)).out == "2\n"
    ordered = (await cli.run("submit", "back-off", "1", "--entity", "e")).out.strip()
    job_id = ordered
    await eventually(has_failed)
    refused = await cli.run("reschedule", ordered, "--now")
    assert refused.code == 1
    assert "a job of an entity waits it out" in refused.err


async def test_a_job_that_waits_no_more_is_not_moved(cli: Cli) -> None:
    cancelled = await delayed(cli)
    assert (await cli.run("cancel", cancelled)).code == 0
    assert await cli.refusal("reschedule", cancelled, "--now") == (1, f"job {cancelled} was cancelled")
    undelayed = (await cli.run("submit", "echo", "1")).out.strip()
    for unknown in (undelayed, "at-0123456789abcdef", "normal-17"):
        assert await cli.refusal("reschedule", unknown, "--now") == (1, f"delayed job {unknown} is not known")
    running = (await cli.run("submit", "sleep", "60", "--delay", "100ms", "--duration", "long")).out.strip()

    async def fired() -> bool:
        return "cannot be moved: it is due already, and queued" in (await cli.run("reschedule", running, "--now")).err

    await eventually(fired)
    await cli.worker("--no-router")

    async def runs() -> bool:
        return bool((await status(cli, running))["status"] == "processing")

    await eventually(runs)
    assert await cli.refusal("reschedule", running, "--now") == (
        1,
        f"job {running} cannot be moved: it is due already, and processing",
    )
    await cli.run("cancel", running)
    ended = (await cli.run("submit", "echo", "1", "--delay", "100ms", "--wait")).err.strip()
    assert await cli.refusal("reschedule", ended, "--now") == (
        1,
        f"job {ended} cannot be moved: it has ended, as complete",
    )
    for nonsense in ("at-a.b", "no such"):
        code, said = await cli.refusal("reschedule", nonsense, "--now")
        assert code == 1
        assert said.startswith(f"'{nonsense}' is not a job id: ids look like ")
    expires = await delayed(cli, "--expires", "1h")
    code, said = await cli.refusal("reschedule", expires, "--delay", "9h")
    assert code == 2
    assert said.startswith(f"job {expires} expires at ")
    assert await cli.refusal("reschedule", expires, "--at", "2500-01-01T00:00:00Z") == (
        2,
        "at: the job would be due at 2500-01-01T00:00:00Z, later than 2200-01-01T00:00:00Z",
    )


async def test_what_cannot_be_submitted_so_is_one_line(cli: Cli) -> None:
    for arguments, told in (
        (("--at", "2500-01-01T00:00:00Z"), "the job would be due at 2500-01-01T00:00:00Z, later than 2200"),
        (("--delay", "999999999h"), "delay: it must be above 0 seconds and at most 1,000,000,000"),
        (("--delay", "1h", "--debounce-key", ""), "debounce_key: "),
    ):
        code, said = await cli.refusal("submit", "echo", "1", *arguments)
        assert code == 2
        assert told in said
        assert "Value error" not in said
    (cli.folder / "large.json").write_text(f'"{"x" * (892 * 1024)}"')
    code, said = await cli.refusal("submit", "echo", "@large.json", "--delay", "1h")
    assert (code, "too large for a schedule" in said) == (2, True)
    batch = await cli.run("submit", "echo", "-", "--delay", "1h", "--debounce-key", "k", stdin="1\n2\n")
    assert batch.code == 2
    assert batch.err.splitlines()[:2] == [
        "error: nothing was queued:",
        "line 1: debounce_key is for single jobs: each job of a list would replace the one before",
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["submit", "echo", "1", "--at", "tomorrow"], "'tomorrow' is not a time: write 2026-12-24T18:00:00Z, or"),
        (["submit", "echo", "1", "--at", "2026-13-01"], "'2026-13-01' is not a time: write"),
        (["submit", "echo", "1", "--delay", "10"], "invalid duration '10'"),
        (["submit", "echo", "1", "--delay", "0s"], "a number above zero and its unit"),
        (["submit", "echo", "1", "--delay", "1h", "--at", "2099-01-01"], "give either --delay or --at"),
        (["submit", "echo", "1", "--debounce-key", "k"], "--debounce-key needs --delay or --at"),
        (
            ["submit", "echo", "1", "--delay", "1h", "--debounce-key", "k", "--dedupe-key", "k"],
            "either --dedupe-key, which keeps the first job, or --debounce-key",
        ),
        (["submit", "echo", "hello", "--delay", "1h"], "the payload is not JSON"),
        (["reschedule", "at-0123456789abcdef"], "give one of --delay, --at and --now"),
        (["reschedule", "at-0123456789abcdef", "--now", "--delay", "1h"], "one of --delay, --at and --now"),
        (["reschedule", "at-0123456789abcdef", "--at", "nonsense"], "'nonsense' is not a time: write"),
        (["reschedule", "at-0123456789abcdef", "--delay", "soon"], "invalid duration 'soon'"),
        (["reschedule", "--now"], "Missing argument"),
    ],
)
def test_a_time_that_is_none_is_wrong_use(
    alone: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], told: str
) -> None:
    code, out, err = run(capsys, *arguments)
    assert (code, out) == (2, "")
    assert told in " ".join(err.replace("│", " ").split())
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "arguments", [["submit", "echo", "1", "--delay", "1h"], ["reschedule", "at-0123456789abcdef", "--now"]]
)
def test_without_a_server_nothing_is_scheduled(
    alone: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, arguments: list[str]
) -> None:
    monkeypatch.setenv("JSJOBS_TIMEOUT", "0.3")
    code, out, err = run(capsys, *arguments, "--nats-url", NOWHERE)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith("error: cannot reach NATS at nats://127.0.0.1:9: ")
