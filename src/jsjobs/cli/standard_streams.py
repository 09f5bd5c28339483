"""Standard output and standard error where nobody reads them any more."""

import os
import sys

NOBODY_READS = (OSError, ValueError)
"""What writing to them raises once the reader has gone, or they are closed."""


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
