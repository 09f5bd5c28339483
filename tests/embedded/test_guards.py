"""Servers end soon when the process that owns them is gone, however that ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

import psutil
import pytest
from server_probes import all_ended, ask, crash_owner, family, store, stored, wait_until

from bare_environment import bare_environment
from jsjobs.embedded.processes import Child

if TYPE_CHECKING:
    from pathlib import Path

    from jsjobs.embedded.home import LocalServers

STARTED = "from jsjobs.embedded.home import LocalServers; servers = LocalServers(home); found = servers.start()"
PIDS = "print(servers.nats.pid, servers.postgres.pid, flush=True)"


def guards_of(pid: int) -> set[int]:
    found = set()
    for each in psutil.Process(pid).children():
        with suppress(psutil.Error):
            if "jsjobs-guard" in each.cmdline():
                found.add(each.pid)
    return found


def families(printed: str) -> list[psutil.Process]:
    found = []
    for pid in printed.split():
        with suppress(psutil.NoSuchProcess):
            found += family(int(pid))
    return found


async def test_the_servers_of_a_killed_owner_end_and_the_next_start_has_its_data(
    local_servers: LocalServers, tmp_path: Path
) -> None:
    first = local_servers.start()
    assert first.nats_url is not None
    assert first.database_url is not None
    await store(first.nats_url, "still here")
    await ask(first.database_url, "CREATE TABLE kept AS SELECT 'still here' AS word")
    local_servers.stop()
    printed = crash_owner(f"{STARTED}; {PIDS}", tmp_path, guarded=True)
    wait_until(lambda: all_ended(families(printed)))
    found = local_servers.start()
    assert found == first
    assert found.nats_url is not None
    assert found.database_url is not None
    assert await stored(found.nats_url) == "still here"
    assert await ask(found.database_url, "SELECT word FROM kept") == "still here"


@pytest.mark.long
async def test_the_next_start_waits_for_servers_that_are_just_ending(
    local_servers: LocalServers, tmp_path: Path
) -> None:
    first = local_servers.start()
    assert first.nats_url is not None
    await store(first.nats_url, "still here")
    local_servers.stop()
    for _ in range(5):
        printed = crash_owner(f"{STARTED}; {PIDS}", tmp_path, guarded=True)
        found = local_servers.start()
        assert all_ended(families(printed))
        assert found == first
        assert await stored(first.nats_url) == "still here"
        local_servers.stop()


def test_a_suspended_server_of_a_killed_owner_ends_too(tmp_path: Path) -> None:
    start = "from jsjobs.embedded.nats import NatsServer; server = NatsServer(home); server.start(); server.suspend()"
    pid = crash_owner(f"{start}; print(server.pid, flush=True)", tmp_path, guarded=True)
    wait_until(lambda: all_ended(families(pid)))


def test_a_server_ends_though_its_owner_left_a_forked_process_behind(tmp_path: Path) -> None:
    forked = "child = os.fork(); child or (os.close(1), time.sleep(60)); print(child, flush=True)"
    start = "import time; from jsjobs.embedded.nats import NatsServer; server = NatsServer(home); server.start()"
    pid, child = crash_owner(f"{start}; print(server.pid, flush=True); {forked}", tmp_path, guarded=True).split()
    try:
        wait_until(lambda: all_ended(families(pid)))
        assert psutil.pid_exists(int(child))
    finally:
        os.kill(int(child), signal.SIGKILL)


@pytest.mark.long
def test_what_does_not_end_in_good_order_is_killed(tmp_path: Path) -> None:
    stubborn = "trap '' TERM; while :; do sleep 1; done"
    start = "from jsjobs.embedded.processes import Child; "
    start += f'child = Child(["/bin/sh", "-c", {stubborn!r}], log=home / "log", cwd=home)'
    pid = crash_owner(f"{start}; print(child.pid, flush=True)", tmp_path, guarded=True)
    wait_until(lambda: all_ended(families(pid)), within=40)


@pytest.mark.parametrize("end", ["by itself", "stopped", "killed"])
def test_the_guard_of_a_process_that_has_ended_ends_too(end: str, tmp_path: Path) -> None:
    before = guards_of(os.getpid())
    child = Child(["/bin/sh", "-c", "exit 0" if end == "by itself" else "sleep 60"], log=tmp_path / "log", cwd=tmp_path)
    [guard] = [psutil.Process(each) for each in guards_of(os.getpid()) - before]
    match end:
        case "by itself":
            wait_until(lambda: not child.running)
        case "stopped":
            child.stop(signal.SIGTERM)
        case "killed":
            child.kill()
    assert all_ended([guard])


def test_a_killed_test_session_leaves_no_server_running(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["jsjobs.testing.fixtures"]\n')
    (tmp_path / "test_it.py").write_text(
        "import os, pathlib\n\n\n"
        "def test_it(jsjobs_server):\n"
        "    pathlib.Path('pid').write_text(str(jsjobs_server.pid))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_it.py"]
    ended = subprocess.run(command, check=False, cwd=tmp_path, env=bare_environment(), capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stdout + ended.stderr
    wait_until(lambda: all_ended(families((tmp_path / "pid").read_text())))


def test_who_owns_no_servers_has_no_guards() -> None:
    script = "import jsjobs.embedded.home, os, psutil, json; print(json.dumps(len(psutil.Process().children())))"
    found = subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.PIPE, text=True)
    assert json.loads(found.stdout) == 0
