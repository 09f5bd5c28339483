"""Keep an application running while its author works on it: start it again when it changes, and when it dies."""

import signal
import time
from pathlib import Path
from types import FrameType

from jsjobs.cli.app_loader import source_folders
from jsjobs.cli.dev.file_watcher import changes, forget_bytecode
from jsjobs.cli.dev.process import DevProcess
from jsjobs.cli.exit_codes import BROKEN, FAILED, WRONG_USE
from jsjobs.cli.output import talk
from jsjobs.cli.run.signals import may_hurry, stop_signals

_SOON = 0.5
"""Seconds until an application that died is started again; doubled each time it dies soon after its start."""
_LATEST = 15.0
_GROWN_UP = 20.0


class Reloading:
    """Run an application in a process of its own, and restart it when a file changes that it has imported.

    A version that cannot be imported, or that dies during the import, waits for a change of any Python file. If the
    first version cannot be run at all (wrong use, a server that cannot be reached), the run ends.

    Args:
        target: The application.
        verbose: Whether it logs everything.
    """

    def __init__(self, target: str, *, verbose: bool) -> None:
        self._target = target
        self._verbose = verbose
        self._signals = 0
        self._process: DevProcess | None = None
        self._has_run = False
        self._start_at: float | None = 0.0
        self._delay = _SOON

    def run(self) -> int:
        """Serve until a signal, and return the exit code; the second signal interrupts running jobs."""
        for number in stop_signals():
            signal.signal(number, self._take)
        code = None
        try:
            for changed in changes(source_folders(self._target)):
                forget_bytecode(changed)
                used = changed if self._process is None else self._process.uses(changed)
                if used and not self._signals:
                    self._reload(used)
                code = self._look()
                if code is not None or self._signals:
                    break
        finally:
            self._stop()
        return code or 0

    def _take(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self._signals or may_hurry(number):
            self._signals += 1

    def _reload(self, changed: set[Path]) -> None:
        talk(f"{_named(changed)} changed: reloading")
        self._stop()
        self._start_at, self._delay = 0.0, _SOON

    def _stop(self) -> None:
        if self._process is not None:
            self._process.stop(lambda: self._signals > 1)
            self._process = None

    def _look(self) -> int | None:
        """Start the process when it is due, and handle its end; return an exit code to end the run, else None."""
        if self._process is None:
            if self._start_at is not None and time.monotonic() >= self._start_at and not self._signals:
                self._process = DevProcess(self._target, verbose=self._verbose)
            return None
        prepared, code = self._process.prepared, self._process.code
        self._has_run |= prepared
        if code is None:
            return None
        process, self._process = self._process, None
        process.close()
        if not self._has_run and code in {FAILED, WRONG_USE}:
            return code
        if prepared or code == FAILED:
            self._come_back(process.age, code)
        else:
            said = "" if code in {BROKEN, WRONG_USE} else f"the application {_ended(code)} while it was being loaded; "
            talk(f"{said}waiting for a change", style="yellow")
            self._start_at = None
        return None

    def _come_back(self, age: float, code: int) -> None:
        if age > _GROWN_UP:
            self._delay = _SOON
        talk(f"the application {_ended(code)}; restarting it in {self._delay:g} s", style="yellow")
        self._start_at = time.monotonic() + self._delay
        self._delay = min(self._delay * 2, _LATEST)


def _named(files: set[Path]) -> str:
    here = Path.cwd().resolve()
    names = sorted(str(file.relative_to(here)) if file.is_relative_to(here) else str(file) for file in files)
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"


def _ended(code: int) -> str:
    if code >= 0:
        return f"ended by itself with exit code {code}"
    known = {number.value: number.name for number in signal.Signals}
    return f"was killed by {known.get(-code, f'signal {-code}')}"
