"""Handlers for tests: a process has to import them."""

import asyncio
import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from pydantic import BaseModel, Field

from jsjobs import JobService
from jsjobs.handlers.context import JobContext


class Add(BaseModel):
    a: int
    b: int = 1


class Named(BaseModel):
    user_id: int = Field(validation_alias="userId")


def named(payload: Named) -> int:
    return payload.user_id


class Adder:
    def __init__(self, number: int) -> None:
        self.number = number

    def add(self, payload: int) -> int:
        return self.number + payload

    def __call__(self, payload: int) -> int:
        return self.add(payload)


def add(payload: Add) -> Add:
    return Add(a=payload.a + payload.b)


def plus(number: int, payload: int) -> int:
    return number + payload


def pid(payload: object) -> int:
    return os.getpid()


def never() -> None:
    time.sleep(600)


class NeverLoaded:
    def __reduce__(self):
        return never, ()

    def __call__(self, payload: object) -> None:
        return None


class ExitsWhenLoaded(NeverLoaded):
    def __reduce__(self):
        return os._exit, (6,)


class FailsWhenLoaded(NeverLoaded):
    def __reduce__(self):
        return int, ("no number",)


class Heavy(NeverLoaded):
    def __reduce__(self):
        return bytes, (b"x" * (65 * 2**20),)


class CountsPickling:
    times = 0

    def __reduce__(self):
        self.times += 1
        return CountsPickling, ()

    def __call__(self, payload: object) -> int:
        return os.getpid()


def nothing(payload: object):
    return None


def spin(payload: float) -> int:
    """Computes for so many seconds."""
    end = time.monotonic() + payload
    while time.monotonic() < end:
        sum(range(1000))
    return os.getpid()


def spin_until(path: str) -> int:
    """Computes until there is such a file."""
    while not Path(path).exists():
        sum(range(1000))
    return os.getpid()


def write_and_spin(path: str) -> None:
    """Writes its process id, then computes for a minute; when it is asked to end, it says so."""
    Path(path).write_text(str(os.getpid()))
    try:
        spin(60)
    finally:
        Path(path + ".ended").touch()


def ignore_and_spin(path: str) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    write_and_spin(path)


def hold_everything(path: str) -> None:
    """Native code that never gives another thread, nor a signal handler, a turn."""
    Path(path).write_text(str(os.getpid()))
    sum(itertools.repeat(1, 10**11))


def start_and_die(path: str) -> None:
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(path).write_text(str(started.pid))
    os._exit(5)


def start_and_spin(path: str) -> None:
    started = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 60; sleep 60"])
    Path(path).write_text(str(started.pid))
    spin(60)


def die(payload: str) -> None:
    if payload == "segfault":
        ctypes.string_at(0)
    if payload == "raise":
        sys.exit(4)
    if payload.isdigit():
        os._exit(int(payload))
    os.kill(os.getpid(), signal.Signals[payload])
    time.sleep(60)


def die_once(path: str) -> str:
    """Dies in its first attempt."""
    if not Path(path).exists():
        Path(path).touch()
        os._exit(9)
    return "second"


def snooze_once(path: str) -> str:
    if not Path(path).exists():
        Path(path).touch()
        raise JobService.Snooze(0.1)
    return "awake"


def snooze(seconds: float) -> None:
    raise JobService.Snooze(seconds)


def close_everything(payload: object) -> None:
    os.closerange(3, 64)


def garbage(payload: object) -> None:
    for number in range(3, 64):
        try:
            os.write(number, b"\xff" * 64)
        except OSError:
            continue
    time.sleep(60)


class UnprintableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def fail(payload: str) -> None:
    if payload == "hostile":
        raise UnprintableError
    if payload == "interrupt":
        raise KeyboardInterrupt
    if payload == "surrogate":
        raise ValueError("\udcff\x00")
    if payload == "value":
        raise ValueError("no such thing")
    raise JobService.Error(payload, "as it was asked to")


def result(payload: str) -> object:
    return {"object": object(), "nan": float("nan"), "huge": "x" * (65 * 2**20), "large": "x" * 2**21}[payload]


def wrong_result(payload: object) -> Add:
    return "no sum"  # type: ignore[return-value]


def chat(payload: int, ctx: JobContext) -> float:
    """Reports so many times, as fast as it can; gives the seconds that it took."""
    began = time.monotonic()
    for number in range(payload):
        ctx.report_progress(100 * number / payload, f"{number}")
    ctx.report_progress(100, "last")
    return time.monotonic() - began


def bad_progress(payload: object, ctx: JobContext) -> None:
    ctx.report_progress(101)


def tell(payload: object, ctx: JobContext) -> dict[str, object]:
    names = ("job_id", "type", "priority", "shard", "attempt", "fence", "entity", "tenant_id", "request_id", "batch_id")
    context = JobService.current_context()
    return {
        "context": {name: getattr(ctx, name) for name in names},
        "request": {
            "tenant_id": context.tenant_id,
            "request_id": context.request_id,
            "entity_id": context.entity_id,
            "job_id": context.job_id,
            "trace": context.trace.traceparent,
            "within_worker": context.within_worker,
        },
    }


def submit_more(payload: dict[str, str]) -> str:
    async def submit() -> str:
        async with JobService(JobService.Config(**payload)) as jobs:
            return await jobs.submit("tell", None)

    return asyncio.run(submit())


def lane(payload: object, ctx: JobContext) -> list[object]:
    return [ctx.lane, ctx.shard, ctx.entity]


def slow(payload: float, ctx: JobContext) -> int:
    ctx.report_progress(10, "begun")
    spin(payload)
    ctx.report_progress(90, "nearly")
    return ctx.attempt


def nap(payload: int) -> int:
    time.sleep(0.2)
    return payload


def refuses(payload: dict[str, str]) -> None:
    try:
        payload["card"]
    except KeyError as error:
        raise JobService.Error.from_not_found("there is no card", job_id="low-7") from error


async def later(payload: object) -> int:
    return 42


class AsyncCaller:
    async def __call__(self, payload: object) -> int:
        return 42

    async def method(self, payload: object) -> int:
        return 42


def returns_a_coroutine(payload: object) -> object:
    return later(payload)


def runs_a_coroutine(payload: object) -> int:
    return asyncio.run(later(payload))


def returns_an_iterator(payload: object) -> object:
    return iter([1])


def context_first(ctx: JobContext, payload: int) -> int:
    return payload + ctx.attempt
