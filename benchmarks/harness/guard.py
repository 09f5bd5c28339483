"""Ends what the harness left over when it was killed: its servers, and its folder.

It reads `+ PID` and `- PID` from its standard input, and acts when that ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys


def main() -> None:
    """Wait for the end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    servers: set[int] = set()
    for line in sys.stdin:
        sign, pid = line.split()
        (servers.add if sign == "+" else servers.discard)(int(pid))
    for pid in servers:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(sys.argv[1], ignore_errors=True)


if __name__ == "__main__":
    main()
