"""Standard streams that are closed, or that nobody reads any more."""

import os
import sys

NOBODY_READS = (OSError, ValueError)
"""What writing to them raises once the reader has gone, or they are closed."""


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
            if stream is not None:
                stream.flush()
        except ValueError:  # it is closed
            continue
        except OSError as error:
            failed = error if stream is sys.stdout else failed
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return failed
