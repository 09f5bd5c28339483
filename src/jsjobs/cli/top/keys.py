"""Read single keys as they are pressed."""

import asyncio
import os
import re
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_CHUNK = 64
_SEQUENCE = re.compile(r"\x1b(?:[\[O][0-9;]*[A-Za-z~])?")
"""The sequences that arrows and similar keys send: several characters, none of which was meant by itself."""
_NO_CHARACTER = b"\0"


@contextmanager
def each_key(on_key: Callable[[str], None]) -> Iterator[None]:
    """Call a function with each key while the block runs in the event loop, then restore the terminal.

    Without a terminal on standard input there are no keys. Ctrl-C stays a signal. Ctrl-Z does nothing, since it would
    leave the shell with the picture of the stopped program.
    """
    if not sys.stdin.isatty():
        yield
        return
    terminal, loop = sys.stdin.fileno(), asyncio.get_running_loop()

    def read() -> None:
        pressed = os.read(terminal, _CHUNK)
        if not pressed:
            loop.remove_reader(terminal)
        for key in _SEQUENCE.sub("", pressed.decode("utf-8", "ignore")):
            on_key(key)

    before = termios.tcgetattr(terminal)
    tty.setcbreak(terminal)
    now = termios.tcgetattr(terminal)
    now[6][termios.VSUSP] = _NO_CHARACTER  # the seventh item holds the control characters
    termios.tcsetattr(terminal, termios.TCSANOW, now)
    loop.add_reader(terminal, read)
    try:
        yield
    finally:
        loop.remove_reader(terminal)
        termios.tcsetattr(terminal, termios.TCSAFLUSH, before)
