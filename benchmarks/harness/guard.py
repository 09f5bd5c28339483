"""Remove what the harness left over when it was killed: its servers, and its folder.

It reads `+ PID` and `- PID` from its standard input, and acts when that ends.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

GONE_WITHIN = 10.0
"""Seconds in which a killed server has ended for sure."""


def remove(folder: Path) -> None:
    """Remove a folder in which a process that is just ending may still write."""
    until = time.monotonic() + GONE_WITHIN
    while folder.exists() and time.monotonic() < until:
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.05 if folder.exists() else 0)


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
    remove(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
