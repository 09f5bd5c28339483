"""The command line in processes of its own: forked from one that has imported it, see `forked.py`."""

import asyncio
import contextlib
import signal
import sys
from dataclasses import dataclass, field
from pathlib import Path

from forked import Forked, ForkServer
from jsjobs import JobService

JSJOBS = str(Path(sys.executable).with_name("jsjobs"))
APP = """
import asyncio, threading, time
from jsjobs import JobService

jobs = JobService()

@jobs.handler("echo")
async def echo(payload):
    return payload

@jobs.handler("sleep")
async def sleep(seconds: float):
    await asyncio.sleep(seconds)
    return "slept"

@jobs.handler("steps")
async def steps(count: int, ctx: JobService.Context):
    for number in range(1, count + 1):
        await ctx.report_progress(100 * number / count, f"step {number}")
        await asyncio.sleep(0.06)
    return count

@jobs.handler("fail")
async def fail(payload):
    raise ValueError(f"no good: {payload}")

@jobs.handler("back-off", retry=JobService.Retry(initial=3600, max_backoff=7200))
async def back_off(payload, ctx: JobService.Context):
    if ctx.attempt == 1:
        raise ValueError("try in an hour")
    return ctx.attempt

@jobs.handler("stuck")
def stuck(seconds: float):
    time.sleep(seconds)

@jobs.handler("leave-thread")
def leave_thread(seconds: float):
    threading.Thread(target=time.sleep, args=(seconds,)).start()
"""


@dataclass
class Ended:
    code: int
    out: str
    err: str


@dataclass
class Process:
    """A command that stays."""

    child: Forked
    said: str = field(default="")

    async def says(self, text: str) -> None:
        """Wait until it has said this on standard error."""
        assert self.child.stderr is not None
        async with asyncio.timeout(20):
            while text not in self.said:
                line = await self.child.stderr.readline()
                assert line, f"it ended without saying {text!r}: {self.said}"
                self.said += line.decode()

    def signal(self, number: signal.Signals) -> None:
        self.child.send_signal(number)

    def interrupt(self) -> None:
        self.signal(signal.SIGINT)

    async def ends(self, within: float = 15) -> Ended:
        async with asyncio.timeout(within):
            out, err = await self.child.communicate()
        return Ended(self.child.returncode or 0, out.decode(), self.said + err.decode())


@dataclass
class Cli:
    executable = JSJOBS
    """For what is started by a shell."""
    folder: Path
    env: dict[str, str]
    fork_server: ForkServer
    processes: list[Process] = field(default_factory=list)

    async def start(
        self,
        *arguments: str,
        folder: Path | None = None,
        stdin: int | None = None,
        stdout: int | None = None,
        **env: str,
    ) -> Process:
        pipe = asyncio.subprocess.PIPE
        child = await self.fork_server.start(
            *arguments,
            cwd=folder or self.folder,
            env={**self.env, **env},
            stdin=stdin or asyncio.subprocess.DEVNULL,
            stdout=stdout or pipe,
            stderr=pipe,
        )
        self.processes.append(Process(child))
        return self.processes[-1]

    async def run(self, *arguments: str, stdin: str | None = None, folder: Path | None = None, **env: str) -> Ended:
        process = await self.start(
            *arguments, folder=folder, stdin=None if stdin is None else asyncio.subprocess.PIPE, **env
        )
        async with asyncio.timeout(30):
            out, err = await process.child.communicate(None if stdin is None else stdin.encode())
        encoding = env.get("PYTHONIOENCODING", "utf-8")
        return Ended(process.child.returncode or 0, out.decode(encoding), err.decode(encoding))

    async def refusal(self, *arguments: str) -> tuple[int, str]:
        """Exit code and text of the one clear line that a command says, and nothing else."""
        done = await self.run(*arguments)
        assert done.out == ""
        assert done.err.startswith("error: ")
        assert done.err.count("\n") == 1, "one clear line"
        return done.code, done.err.removeprefix("error: ").strip()

    async def worker(self, *arguments: str, **env: str) -> Process:
        process = await self.start("worker", "app:jobs", *arguments, **env)
        await process.says("ready: namespace")
        return process

    async def close(self) -> None:
        for process in self.processes:
            if process.child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.child.kill()
                await process.child.communicate()


def environment_of(config: JobService.Config) -> dict[str, str]:
    assert config.database_url is not None
    return {
        "JSJOBS_NATS_URL": config.nats_url,
        "JSJOBS_DATABASE_URL": config.database_url.get_secret_value(),
        "JSJOBS_NAMESPACE": config.namespace,
        "JSJOBS_ACK_WAIT": str(config.ack_wait),
        "JSJOBS_QUEUE_BYTES": str(config.queue_bytes),
        "JSJOBS_LANE_BYTES": str(config.lane_bytes),
        "JSJOBS_GRACE": str(config.grace),
    }
