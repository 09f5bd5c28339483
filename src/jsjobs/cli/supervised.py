"""One of a supervisor's processes: started again whenever it dies, ended in good order when the supervisor is."""

import asyncio
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import NamedTuple

from jsjobs.cli.serving import Stop
from jsjobs.cli.worker_child import PATIENCE
from jsjobs.health import LIVE_WITHIN, stalled
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.cli")

_SOON = 0.5
"""Seconds until a process that died is started again; doubled each time that it dies young."""
_LATEST = 15.0
_GROWN_UP = 20.0
_HURRIED = 6.0
"""Seconds to end after the second signal."""


class Ended(NamedTuple):
    """How a process ended; its text says so in words."""

    pid: int
    code: int
    """Its exit code, the number of a signal below 0."""
    age: float
    """Seconds since its start."""
    trouble: str = ""
    """Why it could not be started at all."""

    def __str__(self) -> str:
        if self.trouble:
            return f"could not be started: {self.trouble}"
        if self.code >= 0:
            return f"(pid {self.pid}) ended by itself with exit code {self.code}"
        known = {number.value: number.name for number in signal.Signals}
        return f"(pid {self.pid}) was killed by {known.get(-self.code, f'signal {-self.code}')}"


class Supervised:
    """A process by its number, in whichever incarnation.

    It has a session of its own: Ctrl-C in the terminal reaches the supervisor alone, who passes it on.
    """

    def __init__(self, number: int, target: str, flags: list[str]) -> None:
        self.number = number
        # -P: the current folder must not stand before Python's own modules.
        self._command = [sys.executable, "-P", "-m", "jsjobs.cli.worker_child", target]
        self._flags = flags
        self._told: dict[str, object] = {}
        self._told_at = 0.0
        self._grace = 0.0
        self.has_been_up = False
        """Whether any incarnation came so far as to run jobs."""

    # -- how it is, for another thread than the event loop's too

    @property
    def is_up(self) -> bool:
        """Whether it has come so far as to run jobs."""
        return bool(self._told.get("up"))

    @property
    def reasons(self) -> list[str]:
        """Why no work reaches it, in words."""
        told = self._told
        if not told:
            return [f"process {self.number}: " + ("being started again" if self.has_been_up else "starting")]
        return self._named("reasons", told)

    @property
    def notes(self) -> list[str]:
        """What else an operator should know."""
        return self._named("notes", self._told)

    @property
    def trouble(self) -> list[str]:
        """Why it does not live, in words: it is stalled. One that has died is started again, which is no trouble."""
        silent = time.monotonic() - self._told_at if self._told else 0.0
        return [f"process {self.number}: {stalled(silent)}"] if silent >= LIVE_WITHIN else []

    def _named(self, what: str, told: dict[str, object]) -> list[str]:
        values = told.get(what)
        return [f"process {self.number}: {value}" for value in values] if isinstance(values, list) else []

    # -- life

    async def keep(self, stop: Stop, ended: Ended | None = None) -> None:
        """Run it, again whenever it dies, until the stop.

        Args:
            stop: What signals ask for.
            ended: How it has ended just now, if it ran already.
        """
        delay = _SOON
        while not stop.asked.is_set():
            if ended is None:
                ended = await self.once(stop)
            if stop.asked.is_set():
                return
            delay = _SOON if ended.age > _GROWN_UP else delay
            logger.warning("process %d %s; starting it again in %g s", self.number, ended, delay)
            await pause(stop, delay)
            delay, ended = min(delay * 2, _LATEST), None

    async def once(self, stop: Stop) -> Ended:
        """Run it once."""
        begin = time.monotonic()
        line, theirs = socket.socketpair()  # when our end is gone, it ends too
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
        """Pass signals on, and kill it where it takes no notice of them."""
        await stop.asked.wait()
        with suppress(ProcessLookupError):  # it has just ended
            process.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._grace + PATIENCE):
                    await stop.at_once.wait()
                    process.terminate()
                    await asyncio.sleep(_HURRIED)
            logger.warning("process %d does not end and is killed; its jobs come back after ack_wait", self.number)
            os.killpg(process.pid, signal.SIGKILL)


async def pause(stop: Stop, seconds: float) -> None:
    """Wait, but not beyond the stop."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await stop.asked.wait()
