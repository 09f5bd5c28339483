"""One of a supervisor's processes: restarted whenever it dies, and stopped gracefully with the supervisor."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NamedTuple

from jsjobs.cli.run.serving import Stop
from jsjobs.cli.run.worker_child import PATIENCE
from jsjobs.health import LIVE_WITHIN, stalled
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.cli")

_SOON = 0.5
"""Seconds until a process that died is started again; doubled each time it dies soon after its start."""
_LATEST = 15.0
_GROWN_UP = 20.0
_HURRIED = 6.0
"""Seconds to end after the second signal."""


class Ended(NamedTuple):
    """The end of a process; as a string, it describes how the process ended."""

    pid: int
    code: int
    """The exit code, negative for the number of a signal."""
    age: float
    """Seconds since the start of the process."""
    trouble: str = ""
    """The reason why the process could not be started at all."""

    def __str__(self) -> str:
        if self.trouble:
            return f"could not be started: {self.trouble}"
        if self.code >= 0:
            return f"(pid {self.pid}) ended by itself with exit code {self.code}"
        known = {number.value: number.name for number in signal.Signals}
        return f"(pid {self.pid}) was killed by {known.get(-self.code, f'signal {-self.code}')}"


class Supervised:
    """A process with a number, which keeps it when it is restarted.

    The process has a session of its own: Ctrl-C in the terminal reaches only the supervisor, which passes it on.
    """

    def __init__(self, number: int, target: str, flags: list[str]) -> None:
        self.number = number
        # -P: the current folder must not come before Python's own modules.
        self._command = [sys.executable, "-P", "-m", "jsjobs.cli.run.worker_child", target]
        self._flags = flags
        self._told: dict[str, object] = {}
        self._told_at = 0.0
        self._grace = 0.0
        self.has_been_up = False
        """Whether the process, or one before it with this number, got as far as running jobs."""

    # -- its state, which threads other than the event loop's may read too

    @property
    def is_up(self) -> bool:
        """Return whether the process has got as far as running jobs."""
        return bool(self._told.get("up"))

    @property
    def reasons(self) -> list[str]:
        """Return the reasons why no work reaches the process."""
        told = self._told
        if not told:
            return [f"process {self.number}: " + ("being started again" if self.has_been_up else "starting")]
        return self._named("reasons", told)

    @property
    def notes(self) -> list[str]:
        """Return what else an operator should know."""
        return self._named("notes", self._told)

    @property
    def trouble(self) -> list[str]:
        """Return why the process is not alive: it is stalled. One that has died is restarted, which is no trouble."""
        silent = time.monotonic() - self._told_at if self._told else 0.0
        return [f"process {self.number}: {stalled(silent)}"] if silent >= LIVE_WITHIN else []

    def _named(self, what: str, told: dict[str, object]) -> list[str]:
        values = told.get(what)
        return [f"process {self.number}: {value}" for value in values] if isinstance(values, list) else []

    # -- life

    async def keep(self, stop: Stop, ended: Ended | None = None) -> None:
        """Run the process until the stop, and restart it whenever it dies.

        Args:
            stop: The stop that signals ask for.
            ended: How the process has just ended, if it ran already.
        """
        delay = _SOON
        while not stop.asked.is_set():
            if ended is None:
                ended = await self.once(stop)
            if stop.asked.is_set():
                return
            delay = _SOON if ended.age > _GROWN_UP else delay
            logger.warning("process %d %s; restarting it in %g s", self.number, ended, delay)
            await pause(stop, delay)
            delay, ended = min(delay * 2, _LATEST), None

    async def once(self, stop: Stop) -> Ended:
        """Run the process once, and return how it ended."""
        begin = time.monotonic()
        line, theirs = socket.socketpair()  # the process ends when our end is gone
        with theirs:
            command = [*self._command, str(theirs.fileno()), *self._flags]
            try:
                process = await asyncio.create_subprocess_exec(
                    *command, pass_fds=[theirs.fileno()], stdin=asyncio.subprocess.DEVNULL, start_new_session=True
                )
            except OSError as error:  # no memory, or no more processes
                line.close()
                return Ended(0, 0, 0.0, str(error))
        reader, writer = await asyncio.open_connection(sock=line)
        beside = [asyncio.ensure_future(self._listen(reader)), asyncio.ensure_future(self._end_on(stop, process))]
        try:
            code = await process.wait()
        finally:
            for task in beside:
                task.cancel()
            writer.close()
            self._told = {}
        return Ended(process.pid, code, time.monotonic() - begin)

    async def _listen(self, reader: asyncio.StreamReader) -> None:
        while line := await reader.readline():
            with suppress(ValueError, TypeError, KeyError):
                told = json.loads(line)
                self._grace = float(told["grace"])
                self._told_at, self._told = time.monotonic(), told
                self.has_been_up |= self.is_up

    async def _end_on(self, stop: Stop, process: asyncio.subprocess.Process) -> None:
        """Pass signals on to the process, and kill it if it ignores them."""
        await stop.asked.wait()
        with suppress(ProcessLookupError):  # it has just ended
            process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace + PATIENCE):
                    await stop.at_once.wait()
                    process.terminate()
                    await asyncio.sleep(_HURRIED)
            logger.warning(
                "process %d did not stop and is killed; its jobs are delivered again after ack_wait", self.number
            )
            os.killpg(process.pid, signal.SIGKILL)


async def pause(stop: Stop, seconds: float) -> None:
    """Wait for some seconds, or until the stop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.asked.wait()
