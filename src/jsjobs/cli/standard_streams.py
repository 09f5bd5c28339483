"""Standard streams that are closed, that nobody reads any more, or not now."""

import os
import queue
import sys
import threading
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast

from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.cli")

NOBODY_READS = (OSError, ValueError)
"""What writing to them raises once the reader has gone, or they are closed."""
_MOST_WAITING = 10_000
"""Writes that wait for a slow reader, at most; more are dropped, and counted."""
_DRAINED_WITHIN = 1.0
"""Seconds that the end of a command waits for its reader."""


class Relay:
    """A stream that a thread writes: a reader that lives and does not read holds up nobody else.

    Args:
        stream: The one that has the file descriptor; all but writing is left to it.
    """

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._stream = stream
        self._pid = os.getpid()
        self._waiting: queue.Queue[bytes] = queue.Queue(_MOST_WAITING)
        self._dropped = 0
        threading.Thread(target=self._write_on, name="jsjobs-output", daemon=True).start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Have it written soon, or drop it where too much waits already."""
        data = text.encode(self._stream.encoding, "backslashreplace")
        if os.getpid() != self._pid:  # a fork has no thread that writes
            os.write(self._stream.fileno(), data)
            return len(text)
        try:
            self._waiting.put_nowait(data)
        except queue.Full:
            self._dropped += 1
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Return at once: it is on its way."""

    def drain(self) -> None:
        """Wait until all is written, for a moment at most."""
        all_done, waiting = self._waiting.all_tasks_done, self._waiting
        if os.getpid() == self._pid:
            with all_done:
                all_done.wait_for(lambda: not waiting.unfinished_tasks, _DRAINED_WITHIN)

    def _write_on(self) -> None:
        # Not through the stream's own buffer: Python's end would wait for its lock.
        number, has_reader = self._stream.fileno(), True
        while True:
            data = self._waiting.get()
            try:
                while data and has_reader:
                    data = data[os.write(number, data) :]
            except OSError:
                has_reader = False  # what comes is dropped from now on
            self._waiting.task_done()
            if self._dropped and self._waiting.qsize() < _MOST_WAITING // 2:
                dropped, self._dropped = self._dropped, 0
                logger.warning("the output was not read in time: %d writes to it were dropped", dropped)


def relay_output() -> None:
    """Hold up nothing in this process, from now on, for a reader that does not read."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, Relay):
            with suppress(*NOBODY_READS):  # as it is, then
                setattr(sys, name, cast("TextIO", Relay(stream)))


def open_missing() -> None:
    """Let each standard stream that is closed lead nowhere.

    Else the next file or socket gets its number: what is printed goes there, and uvloop aborts when it closes it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
            os.set_inheritable(number, True)
            stream = os.fdopen(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def flush_output() -> OSError | None:
    """Write what waits to be written; what cannot be is dropped, since Python would try again at its end, and fail.

    Returns:
        Why standard output could not be written.
    """
    failed: OSError | None = None
    for stream in (sys.stderr, sys.stdout):
        try:
            if isinstance(stream, Relay):
                stream.drain()
            elif stream is not None:
                stream.flush()
        except ValueError:  # it is closed
            continue
        except OSError as error:
            failed = error if stream is sys.stdout else failed
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return failed
