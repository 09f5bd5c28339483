"""What the tests ask real servers and processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import nats
import psutil

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from nats.js import JetStreamContext


@asynccontextmanager
async def jetstream(url: str) -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(url, connect_timeout=5, allow_reconnect=False)
    try:
        yield client.jetstream()
    finally:
        await client.close()


async def store(url: str, text: str) -> None:
    async with jetstream(url) as js:
        await js.add_stream(name="kept", subjects=["kept"])
        await js.publish("kept", text.encode())


async def stored(url: str) -> str:
    async with jetstream(url) as js:
        return ((await js.get_msg("kept", 1)).data or b"").decode()


async def ask(url: str, sql: str) -> Any:
    connection = await asyncpg.connect(url)
    try:
        return await connection.fetchval(sql)
    finally:
        await connection.close()


def family(pid: int | None) -> list[psutil.Process]:
    assert pid is not None
    process = psutil.Process(pid)
    return [process, *process.children(recursive=True)]


def has_ended(process: psutil.Process) -> bool:
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def all_ended(processes: list[psutil.Process]) -> bool:
    return all(has_ended(process) for process in processes)


def wait_until(fact: Callable[[], bool], within: float = 20) -> None:
    deadline = time.monotonic() + within
    while not fact():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


_KILL_GUARDS = "[p.kill() for p in psutil.Process().children() if 'jsjobs-guard' in p.cmdline()]"


def crash_owner(script: str, home: Path, *, guarded: bool = False) -> str:
    """Run the script in a process of its own, kill that by SIGKILL at the end, and return what it printed.

    Its guards are killed before, unless it is to be guarded: what it owned is left over.
    """
    owner = f"import os, sys, pathlib, psutil; home = pathlib.Path(sys.argv[1]); {script}; "
    owner += f"{'' if guarded else _KILL_GUARDS + '; '}os.kill(os.getpid(), 9)"
    run = subprocess.run([sys.executable, "-c", owner, str(home)], check=False, stdout=subprocess.PIPE, text=True)
    assert run.returncode == -signal.SIGKILL
    return run.stdout
