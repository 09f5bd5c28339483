"""Handlers in processes: what they get, give and raise, and how they die; without any server."""

import asyncio
import functools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

import process_handlers as handlers
from facts import eventually
from jsjobs.model.context import RequestContext, enter_context
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.model.trace import Trace
from jsjobs.worker.result import Cancelled, Complete, DeadLetter, RetryAfter, SnoozeFor, Verdict
from jsjobs.worker.run_state import Stop
from process_runs import Runs, is_pending, is_running, new_handling, processes


async def test_payload_and_result_of_every_kind_of_handler(run: Runs) -> None:
    assert await run(handlers.add, b'{"a":1,"b":4}') == Complete(b'{"a":5,"b":1}')
    assert await run(handlers.nothing) == Complete(None)
    assert await run(functools.partial(handlers.plus, 2), b"3") == Complete(b"5")
    assert await run(handlers.Adder(5).add, b"3") == Complete(b"8")
    assert await run(handlers.Adder(6), b"3") == Complete(b"9")
    assert await run(handlers.result, b'"large"') == Complete(b'"' + b"x" * 2**21 + b'"')


async def test_a_process_is_kept_for_the_next_job_and_runs_beside_the_others(run: Runs) -> None:
    first = await run(handlers.pid)
    assert await run(handlers.pid) == first
    assert first != Complete(str(os.getpid()).encode())
    both = await asyncio.gather(run(handlers.spin, b"0.5"), run(handlers.spin, b"0.5"))
    assert both[0] != both[1]
    assert first in both


@pytest.mark.parametrize("body", [b"", b"{", b'{"a":"x"}', b'{"a":NaN}', b"[1]", b"\xff"])
async def test_a_payload_that_does_not_fit_is_dead_at_once(run: Runs, body: bytes) -> None:
    verdict = await run(handlers.add, body)
    assert isinstance(verdict, DeadLetter)
    assert verdict.reason == "Validation"
    assert "payload" in verdict.error


@pytest.mark.parametrize("what", ["object", "nan", "huge"])
async def test_a_result_that_cannot_be_kept_says_so(run: Runs, what: str) -> None:
    verdict = await run(handlers.result, f'"{what}"'.encode())
    assert isinstance(verdict, DeadLetter)
    assert (verdict.reason, "the result of" in verdict.error) == ("Validation", True)
    wrong = await run(handlers.wrong_result)
    assert isinstance(wrong, DeadLetter)
    assert "the result of wrong_result is invalid" in wrong.error


async def test_what_an_error_was_raised_from_comes_along_as_a_text(run: Runs) -> None:
    verdict = await run(handlers.refuses, b"{}")
    assert isinstance(verdict, DeadLetter)
    assert isinstance(verdict.cause, JobError)
    assert (verdict.cause.reason, verdict.cause.message, verdict.cause.job_id, verdict.cause.cause) == (
        "NotFound",
        "there is no card",
        "low-7",
        "KeyError: 'card'",
    )


async def test_a_handler_that_snoozes_keeps_its_process(run: Runs) -> None:
    first = await run(handlers.pid)
    assert await run(handlers.snooze, b"2.5") == SnoozeFor(2.5)
    assert await run(handlers.pid) == first
    wrong = await run(handlers.snooze, b"-1")
    assert isinstance(wrong, DeadLetter)
    assert wrong.error == "Validation: a snooze must be above 0 seconds and at most 31,622,400, not -1"


async def test_what_handlers_raise_decides(run: Runs, caplog: pytest.LogCaptureFixture) -> None:
    retried = await run(handlers.fail, b'"value"')
    assert isinstance(retried, RetryAfter)
    assert (retried.error, retried.error_type) == ("ValueError: no such thing", "ValueError")
    assert "Traceback" in caplog.text
    assert "process_handlers.py" in caplog.text
    assert "child.py" not in caplog.text
    assert await run(handlers.fail, b'"Validation"') == DeadLetter("Validation", "Validation: as it was asked to")
    later = await run(handlers.fail, b'"RunnerUnavailable"')
    assert isinstance(later, RetryAfter)
    assert later.error == "RunnerUnavailable: as it was asked to"
    for what, text in (
        ("hostile", "UnprintableError: (its text cannot be read)"),
        ("interrupt", "KeyboardInterrupt"),
        ("surrogate", "ValueError: ??"),
    ):
        verdict = await run(handlers.fail, f'"{what}"'.encode())
        assert isinstance(verdict, RetryAfter)
        assert verdict.error == text
    assert caplog.text.encode()  # the log has what can be written
    assert "\\udcff" in caplog.text


@pytest.mark.parametrize(
    ("how", "text"),
    [
        ("0", "exit code 0"),
        ("3", "exit code 3"),
        ("raise", "exit code 4"),
        ("SIGKILL", "killed by SIGKILL, as the system does where memory runs out"),
        ("SIGABRT", "killed by SIGABRT"),
        ("segfault", "killed by SIGSEGV"),
    ],
)
async def test_a_process_that_dies_fails_its_own_attempt_alone(run: Runs, how: str, text: str, tmp_path: Path) -> None:
    before = await run(handlers.pid)
    path = tmp_path / "now"
    beside = asyncio.ensure_future(run(handlers.spin_until, f'"{path}"'.encode()))
    await asyncio.sleep(0)
    verdict = await run(handlers.die, f'"{how}"'.encode())
    assert isinstance(verdict, RetryAfter)
    assert verdict.error == f"Processing: the process of the handler died: {text}"
    assert not beside.done()
    after = await run(handlers.pid)  # a new process
    path.touch()
    assert await beside == before
    assert after != before


async def test_a_handler_that_breaks_its_channel_costs_only_its_own_process(run: Runs) -> None:
    for function, text in (
        (handlers.close_everything, "exit code 1"),
        (handlers.garbage, "the handler broke the channel"),
    ):
        verdict = await run(function)
        assert isinstance(verdict, RetryAfter)
        assert text in verdict.error
        assert await run(handlers.add, b'{"a":1}') == Complete(b'{"a":2,"b":1}')


async def test_a_handler_that_cannot_be_loaded_fails_its_attempt(run: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    for handler, text in (
        (handlers.FailsWhenLoaded(), "cannot be loaded in a new process: ValueError: invalid literal"),
        (handlers.ExitsWhenLoaded(), "the process of the handler died: exit code 6"),
    ):
        verdict = await run(handler)
        assert isinstance(verdict, RetryAfter)
        assert text in verdict.error
    monkeypatch.setattr("jsjobs.worker.processes.process.LOADING", 0.5)
    verdict = await run(handlers.NeverLoaded())
    assert isinstance(verdict, RetryAfter)
    assert verdict.error == "Timeout: the handler of NeverLoaded was not loaded by a new process within 0.5 s"
    monkeypatch.undo()
    assert await run(handlers.add, b'{"a":1}') == Complete(b'{"a":2,"b":1}')


async def test_a_process_that_dies_while_it_is_idle_costs_no_attempt(run: Runs) -> None:
    for _ in range(3):
        verdict = await run(handlers.pid)
        assert isinstance(verdict, Complete)
        os.kill(int(verdict.result or b""), signal.SIGKILL)
        # At once, while nobody has noticed yet: what is sent reaches no one.
        assert await run(handlers.add, b'{"a":1}') == Complete(b'{"a":2,"b":1}')


async def test_a_job_that_is_stopped_while_a_broken_process_ends_begins_nowhere_else(
    run: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("jsjobs.worker.processes.process.KILL_AFTER", 2.0)
    open_channel, channels = asyncio.open_unix_connection, []

    async def opening(**how: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        channels.append(await open_channel(**how))
        return channels[-1]

    monkeypatch.setattr(asyncio, "open_unix_connection", opening)
    await run(handlers.pid)
    [idle], [(_, writer)] = processes(), channels
    os.kill(idle, signal.SIGSTOP)  # alive, and slow to end
    writer.transport.abort()
    path, at_work = tmp_path / "begun", new_handling()
    task = asyncio.ensure_future(run(handlers.write_and_spin, f'"{path}"'.encode(), on=at_work))
    await eventually(lambda: is_pending(idle, signal.SIGTERM))
    at_work.stop(Stop.CANCEL)
    assert await task == Cancelled()
    assert not is_running(idle)
    assert not path.exists()


async def test_a_handler_is_pickled_once_for_all_processes(run: Runs) -> None:
    counted = handlers.CountsPickling()
    pids = set()
    for _ in range(3):
        verdict = await run(counted)
        assert isinstance(verdict, Complete)
        pids.add(verdict.result)
        os.kill(int(verdict.result or b""), signal.SIGKILL)
        await eventually(lambda: not processes())
    assert len(pids) == 3
    # One more at each registration, of which `Runs` makes one for each job.
    assert counted.times == 3 + 1


async def test_progress_is_joined_and_the_last_report_comes_before_the_end(run: Runs) -> None:
    reports: list[tuple[float, str | None]] = []
    at_work = new_handling()
    at_work.context.reporter = lambda pct, message: reports.append((pct, message))
    verdict = await run(handlers.chat, b"20000", on=at_work)
    assert isinstance(verdict, Complete)
    seconds = float(verdict.result or b"")
    assert reports[-1] == (100, "last")
    assert 1 <= len(reports) <= 20 * seconds + 3
    bad = await run(handlers.bad_progress)
    assert isinstance(bad, RetryAfter)
    assert "101" in bad.error


async def test_a_handler_never_waits_for_its_worker_to_take_progress(run: Runs) -> None:
    await run(handlers.pid)
    at_work = new_handling()
    task = asyncio.ensure_future(run(handlers.chat, b"10000", on=at_work))
    await asyncio.sleep(0.2)
    time.sleep(1)  # noqa: ASYNC251 - an event loop that stands still
    verdict = await task
    assert isinstance(verdict, Complete)


@pytest.mark.long
async def test_the_event_loop_goes_on_while_processes_start_compute_and_die(run: Runs) -> None:
    longest, ended = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal longest
        while not ended.is_set():
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.ensure_future(watch())
    for _ in range(3):
        await asyncio.gather(run(handlers.spin, b"0.3"), run(handlers.die, b'"SIGKILL"'), run(handlers.spin, b"0.3"))
    ended.set()
    await watching
    assert longest < 2.0  # all of it takes much longer


async def test_a_process_is_told_all_about_the_job(run: Runs) -> None:
    told = {
        "job_id": "high-9",
        "priority": Priority.HIGH,
        "shard": 3,
        "attempt": 2,
        "fence": 77,
        "entity": "Köln",
        "tenant_id": "acme",
        "request_id": "r-1",
        "batch_id": "b-1",
    }
    trace = f"00-{'1' * 32}-{'2' * 16}-01"
    outside = RequestContext("acme", "r-1", "Köln", "tell", 3, "high-9", Trace(trace))

    async def inside() -> Verdict:
        enter_context(outside)
        return await run(handlers.tell, on=new_handling(**told))

    verdict = await asyncio.ensure_future(inside())
    assert isinstance(verdict, Complete)
    said = json.loads(verdict.result or b"")
    assert said["context"] == {**told, "priority": "high", "type": "tell"}
    assert said["request"] == {
        "tenant_id": "acme",
        "request_id": "r-1",
        "entity_id": "Köln",
        "job_id": "high-9",
        "trace": trace,
        "within_worker": True,
    }
    # The next job of the same process does not see it.
    after = await run(handlers.tell)
    assert isinstance(after, Complete)
    assert json.loads(after.result or b"")["request"]["tenant_id"] is None
