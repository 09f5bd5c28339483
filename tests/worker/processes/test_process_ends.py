"""Every way for a process to be ended, and that nothing is left of it; without any server."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import process_handlers as handlers
from jsjobs.worker.result import Cancelled, Complete, Lost, Release, RetryAfter, Verdict
from jsjobs.worker.run_state import Stop
from process_runs import Runs, all_ended, is_running, new_handling, number_in, processes

PROMPT = 5.0
"""Seconds that what should be prompt may take on a busy machine."""


@pytest.mark.parametrize(
    ("function", "reason", "expected"),
    [
        (handlers.write_and_spin, Stop.CANCEL, Cancelled()),
        (handlers.write_and_spin, Stop.RELEASE, Release()),
        (handlers.write_and_spin, Stop.LOST, Lost("gone")),
        (handlers.ignore_and_spin, Stop.CANCEL, Cancelled()),
        (handlers.hold_everything, Stop.CANCEL, Cancelled()),
    ],
)
async def test_an_interruption_ends_the_process(
    run: Runs, function, reason: Stop, expected: Verdict, tmp_path: Path
) -> None:
    path, at_work = tmp_path / "pid", new_handling()
    task = asyncio.ensure_future(run(function, f'"{path}"'.encode(), on=at_work))
    pid = await number_in(path)
    asked_at = time.monotonic()
    at_work.stop(reason, "gone")
    at_work.stop(reason, "gone")  # asked again meanwhile
    assert await task == expected
    assert time.monotonic() - asked_at < PROMPT
    assert not is_running(pid)
    assert await run(handlers.add, b'{"a":1}') == Complete(b'{"a":2,"b":1}')


async def test_an_interrupted_handlers_finally_has_its_turn(run: Runs, tmp_path: Path) -> None:
    for attempt in range(20):  # a busy machine may be too slow for the moment that it has
        path, at_work = tmp_path / f"pid{attempt}", new_handling()
        task = asyncio.ensure_future(run(handlers.write_and_spin, f'"{path}"'.encode(), on=at_work))
        await number_in(path)
        at_work.stop(Stop.CANCEL)
        assert await task == Cancelled()
        if await asyncio.to_thread(Path(f"{path}.ended").exists):
            return
    raise AssertionError("no `finally` ever ran")


async def test_a_process_past_the_time_limit_is_ended(run: Runs, tmp_path: Path) -> None:
    path = tmp_path / "pid"
    verdict = await run(handlers.write_and_spin, f'"{path}"'.encode(), limit=0.2)
    assert isinstance(verdict, RetryAfter)
    assert verdict.error == "Timeout: the handler ran longer than 0.2 s"
    assert not is_running(int(path.read_text()))


async def test_waiting_for_a_process_and_its_start_take_none_of_the_time(run: Runs) -> None:
    # Each takes 0.3 s of the 2 s that it has, the last begins after some 3 s.
    verdicts = await asyncio.gather(*(run(handlers.spin, b"0.3", limit=2) for _ in range(16)))
    assert all(isinstance(verdict, Complete) for verdict in verdicts)
    assert len({verdict.result for verdict in verdicts}) == 2


async def test_a_job_that_waits_for_a_process_can_be_stopped(run: Runs, tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    holding = [new_handling() for _ in paths]
    tasks = [
        asyncio.ensure_future(run(handlers.write_and_spin, f'"{path}"'.encode(), on=at_work))
        for path, at_work in zip(paths, holding, strict=True)
    ]
    for path in paths:
        await number_in(path)
    at_work = new_handling()
    waiting = asyncio.ensure_future(run(handlers.pid, on=at_work))
    await asyncio.sleep(0)
    at_work.stop(Stop.CANCEL)
    assert await asyncio.wait_for(waiting, PROMPT) == Cancelled()
    for one in holding:
        one.stop(Stop.RELEASE)
    assert await asyncio.gather(*tasks) == [Release(), Release()]
    assert isinstance(await run(handlers.pid), Complete)


async def test_a_stop_at_any_moment_leaves_no_process_and_no_place_behind(run: Runs) -> None:
    for tenth in range(0, 60, 4):
        at_work = new_handling()
        task = asyncio.ensure_future(run(handlers.spin, b"30", on=at_work))
        asyncio.get_running_loop().call_later(tenth / 100, at_work.stop, Stop.CANCEL)
        assert await asyncio.wait_for(task, 20) == Cancelled()
    assert await asyncio.gather(*(run(handlers.add, b'{"a":1}') for _ in range(4))) == [
        Complete(b'{"a":2,"b":1}') for _ in range(4)
    ]
    assert len(processes()) <= 2


@pytest.mark.parametrize("ends", ["by itself", "cancelled"])
async def test_what_a_handler_started_ends_with_its_process(run: Runs, ends: str, tmp_path: Path) -> None:
    path, at_work = tmp_path / "pid", new_handling()
    function = handlers.start_and_die if ends == "by itself" else handlers.start_and_spin
    task = asyncio.ensure_future(run(function, f'"{path}"'.encode(), on=at_work))
    started = await number_in(path)
    if ends == "cancelled":
        at_work.stop(Stop.CANCEL)
        assert await task == Cancelled()
    else:
        verdict = await task
        assert isinstance(verdict, RetryAfter)
        assert "exit code 5" in verdict.error
    await all_ended(started)


async def test_closing_ends_busy_and_idle_processes_and_refuses_more(tmp_path: Path) -> None:
    run = Runs(2)
    path = tmp_path / "pid"
    idle = await run(handlers.pid)
    busy = asyncio.ensure_future(run(handlers.write_and_spin, f'"{path}"'.encode()))
    pids = {int(idle.result), await number_in(path)}  # type: ignore[union-attr,arg-type]
    await run.processes.close()
    assert not any(is_running(pid) for pid in pids)
    assert isinstance(await busy, RetryAfter)
    refused = await run(handlers.pid)
    assert isinstance(refused, RetryAfter)
    assert "the worker has stopped" in refused.error


async def test_ctrl_c_is_the_workers_business(run: Runs) -> None:
    before = await run(handlers.pid)
    assert isinstance(before, Complete)
    pid = int(before.result or b"")
    assert os.getpgid(pid) != os.getpgid(0)
    os.kill(pid, signal.SIGINT)
    assert await run(handlers.pid) == before


SCRIPT = """
import asyncio, sys
sys.path.insert(0, {folder!r})
import process_handlers as handlers
from jsjobs.handlers.context import JobContext
from jsjobs.worker.processes.pool import Processes

def here(payload: int) -> int:
    return payload + 1

async def main(path):
    processes = Processes(3)
    def job(kind):
        return JobContext("normal-1", kind, "normal", shard=0, attempt=1, fence=7)
    nop = lambda: None
    print(await processes.run(here, b"1", job("here"), begun=nop, called=nop), flush=True)
    await asyncio.gather(
        processes.run(handlers.write_and_spin, ('"%s.a"' % path).encode(), job("a"), begun=nop, called=nop),
        processes.run(handlers.hold_everything, ('"%s.b"' % path).encode(), job("b"), begun=nop, called=nop),
    )

{guard}
    asyncio.run(main(sys.argv[1]))
"""


@contextlib.contextmanager
def script(tmp_path: Path, guard: str):
    file = tmp_path / "script.py"
    file.write_text(SCRIPT.format(folder=str(Path(handlers.__file__).parent), guard=guard))
    process = subprocess.Popen(
        [sys.executable, str(file), str(tmp_path / "pid")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


async def test_processes_do_not_survive_a_parent_that_is_killed(tmp_path: Path) -> None:
    with script(tmp_path, 'if __name__ == "__main__":') as process:
        assert process.stdout is not None
        assert await asyncio.to_thread(process.stdout.readline) == "b'2'\n"  # a handler of the script itself
        pids = [await number_in(tmp_path / f"pid.{name}") for name in "ab"]
        process.send_signal(signal.SIGKILL)
        for pid in pids:
            await all_ended(pid)


async def test_a_script_that_starts_its_worker_when_it_is_imported_is_told_so(tmp_path: Path) -> None:
    with script(tmp_path, "if True:") as process:
        said = (await asyncio.to_thread(process.communicate))[1]
    assert 'put what starts the worker below `if __name__ == "__main__":`' in said
