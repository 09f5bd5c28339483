"""Cope with standard streams that are closed, that nobody reads, now or ever, or that cannot write every character."""

import codecs
import errno
import io
import os
import queue
import select
import sys
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, TextIO, cast

from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.cli")

NOBODY_READS = (OSError, ValueError)
"""The exceptions of a write to a stream whose reader has gone, or which is closed."""
_NO_READER = {errno.EPIPE, errno.EBADF}
_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_IN_ASCII = {"…": "...", "→": "->", "━": "=", "─": "-", "╸": "-", "╺": "-", "✓": "+", "✗": "!"}
"""The replacements of our own signs where the encoding lacks them."""
_SPINNER = range(0x2800, 0x2900)
_ERRORS = "jsjobs-shown"
"""The name of our error handler for codecs, which replaces what an encoding cannot write."""
_MOST_WAITING = 10_000
"""The most writes that wait for a slow reader; further ones are dropped, and counted."""
_DRAINED_WITHIN = 1.0
"""Seconds that a command waits for its reader when it ends."""


class Relay:
    """A stream that a thread writes, so that a reader that is there but does not read holds up nothing else.

    Args:
        stream: The stream that has the file descriptor; everything except writing is left to it.
    """

    def __init__(self, stream: TextIO) -> None:
        stream.flush()
        self._stream = stream
        self._number = stream.fileno()
        self._pid = os.getpid()
        # A `put` may happen in the middle of another one, from a finalizer or a signal handler that logs.
        self._waiting: queue.SimpleQueue[bytes | threading.Event] = queue.SimpleQueue()
        self._dropped = 0
        threading.Thread(target=self._write_on, name="jsjobs-output", daemon=True).start()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Queue a text to be written soon, or drop it if too much waits already."""
        data = text.encode(self._stream.encoding, _ERRORS)
        if os.getpid() != self._pid:  # a fork has no thread that writes
            with suppress(OSError):
                _write_all(self._number, data)
        elif self._waiting.qsize() < _MOST_WAITING:
            self._waiting.put(data)
        else:
            self._dropped += 1
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write each of the lines."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what went to `buffer`; the rest is already on its way, and is not waited for."""
        self._stream.flush()

    def drain(self, seconds: float) -> None:
        """Wait until everything is written, for this many seconds at most."""
        if os.getpid() == self._pid:
            is_written = threading.Event()
            self._waiting.put(is_written)
            is_written.wait(seconds)

    def _write_on(self) -> None:
        has_reader = True
        while True:
            data = self._waiting.get()
            if isinstance(data, threading.Event):
                data.set()
                continue
            try:
                if has_reader:
                    _write_all(self._number, data)
            except OSError as error:
                has_reader = error.errno not in _NO_READER  # after a full disk, later data may be written again
                self._dropped += has_reader
            if self._dropped and self._waiting.qsize() < _MOST_WAITING // 2:
                dropped, self._dropped = self._dropped, 0
                logger.warning("the output could not be written in time: %d writes to it were dropped", dropped)


def _write_all(number: int, data: bytes) -> None:
    """Write past the stream's own buffer, for whose lock Python would wait at its end."""
    while data:
        try:
            data = data[os.write(number, data) :]
        except BlockingIOError:  # another process has made the descriptor non-blocking
            select.select((), (number,), ())


def relay_output() -> None:
    """Keep readers that do not read from holding up anything in this process, from now on."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream is getattr(sys, f"__{name}__"):  # an application's own stream is left alone
            with suppress(*NOBODY_READS):  # then the stream stays as it is
                setattr(sys, name, cast("TextIO", Relay(stream)))


def open_missing() -> None:
    """Open each standard stream that is closed on the null device.

    Otherwise the next file or socket would get its number: what is printed would go there, and uvloop aborts when it
    closes it.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # it gets the lowest free number, which is this one
            os.set_inheritable(number, True)
            stream = os.fdopen(number, mode, encoding="utf-8", closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def write_every_character() -> None:
    """Make standard output and error replace characters that their encoding lacks, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_ERRORS)


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)  # no decoder is given this handler
    return "".join(map(_sign_in_ascii, error.object[error.start : error.end])), error.end


def _sign_in_ascii(char: str) -> str:
    if ord(char) in _SPINNER:
        return "*"
    return _IN_ASCII.get(char) or char.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error(_ERRORS, _in_ascii)


def why_unwritable(error: OSError) -> str | None:
    """Return the message for an error of a stream that cannot be written, as on a full disk; None for other errors.

    Args:
        error: The error. One that names a file does not come from a standard stream.
    """
    if error.errno not in _UNWRITABLE or error.filename is not None:
        return None
    return f"the output cannot be written: {error.strerror}"


def flush_output() -> OSError | None:
    """Write what waits to be written, and drop what cannot be: Python would try again at its end, and fail.

    Returns:
        The error for which standard output could not be written; None if it was.
    """
    failed: OSError | None = None
    until = time.monotonic() + _DRAINED_WITHIN
    for stream in (sys.stderr, sys.stdout):
        try:
            if isinstance(stream, Relay):
                stream.drain(max(0.0, until - time.monotonic()))
            elif stream is not None:
                stream.flush()
        except ValueError:  # it is closed
            continue
        except OSError as error:
            failed = error if stream is sys.stdout else failed
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return failed
