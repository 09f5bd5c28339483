"""The process that `jsjobs dev` runs an application in, as `jsjobs dev` sees it."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from jsjobs.cli.output import talk

_PATIENCE = 15.0
"""Seconds after the grace time in which a responsive process has given its jobs back and ended."""
_HURRIED = 6.0
_SILENT = 3.0
"""Seconds to wait silently."""
_LOOK = 0.05


class DevProcess:
    """One run of an application in a process of its own, which runs `child`.

    The process has a session of its own: Ctrl-C in the terminal reaches only `jsjobs dev`, which then stops it
    gracefully.
    """

    def __init__(self, target: str, *, verbose: bool) -> None:
        self._line, theirs = socket.socketpair()  # the process ends when our end is gone
        self._line.setblocking(False)
        self._heard = b""
        self._grace: float | None = None
        self._imported: set[Path] | None = None
        self._started_at = time.monotonic()
        # -P: the current folder must not come before Python's own modules.
        command = [sys.executable, "-P", "-m", "jsjobs.cli.dev.child", target, str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [*command, *(["-v"] if verbose else [])], pass_fds=[theirs.fileno()], start_new_session=True
            )

    @property
    def prepared(self) -> bool:
        """Return whether the process got as far as running jobs."""
        self._listen()
        return self._grace is not None

    def uses(self, files: set[Path]) -> set[Path]:
        """Return which of these files it has imported; all of them while it is still importing."""
        self._listen()
        imported = self._imported
        return files if imported is None else {file for file in files if imported & {file, file.resolve()}}

    def _listen(self) -> None:
        """Read the messages of the process, each a line of JSON."""
        with suppress(OSError):  # there is no further message yet, or the process has gone
            while data := self._line.recv(65536):
                self._heard += data
        *lines, self._heard = self._heard.split(b"\n")
        for said in map(json.loads, lines):
            self._grace = said.get("grace", self._grace)
            if "imported" in said:
                self._imported = (self._imported or set()) | set(map(Path, said["imported"]))

    @property
    def code(self) -> int | None:
        """Return the exit code, negative for the number of a signal; None while the process runs."""
        return self._process.poll()

    @property
    def age(self) -> float:
        """Return the seconds since the start of the process."""
        return time.monotonic() - self._started_at

    def stop(self, hurry: Callable[[], bool]) -> None:
        """Stop the process gracefully, or kill it when that takes too long.

        Args:
            hurry: Asked repeatedly: whether to stop waiting for running jobs.
        """
        grace = self._grace if self.prepared and self._grace is not None else 0.0
        begin = time.monotonic()
        deadline = begin + grace + _PATIENCE
        self._process.terminate()
        hurried = told = False
        while self.code is None:
            if hurry() and not hurried:
                hurried = True
                self._process.terminate()
                deadline = min(deadline, time.monotonic() + _HURRIED)
            if time.monotonic() > begin + _SILENT and not (told or hurried):
                told = True
                left = deadline - time.monotonic()
                talk(f"the application has not stopped yet; it will be killed in {left:.0f} s", style="dim")
            if time.monotonic() > deadline:
                talk(
                    "the application did not stop and is killed; its jobs are delivered again after ack_wait",
                    style="yellow",
                )
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK)
        self.close()

    def close(self) -> None:
        """Release the socket of a process that has ended."""
        self._line.close()
