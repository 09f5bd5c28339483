"""Compare the CPU of starts with that of importing their dependencies, in turns, so that a busy machine affects all alike.

    python benchmarks/startup.py

Measured is what the kernel counts for each process, user and system.
"""

from __future__ import annotations

import os
import statistics
import sys
from pathlib import Path

ROUNDS = 15
PYTHON = sys.executable
JSJOBS = str(Path(sys.executable).with_name("jsjobs"))
NOWHERE = "nats://127.0.0.1:9"
PAIRS = {
    "jsjobs --help": ([JSJOBS, "--help"], [PYTHON, "-c", "import asyncio, typer, rich.table, pydantic"]),
    "jsjobs status X": (
        [JSJOBS, "status", "normal-1", "--nats-url", NOWHERE],
        [PYTHON, "-c", "import asyncio, typer, rich.table, pydantic"],
    ),
    "from jsjobs import JobService": (
        [PYTHON, "-c", "from jsjobs import JobService"],
        [PYTHON, "-c", "import nats, pydantic, pydantic_settings"],
    ),
}


def cpu(command: list[str]) -> float:
    """Return the seconds of one start."""
    quiet = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=quiet)
    used = os.wait4(pid, 0)[2]
    return used.ru_utime + used.ru_stime


def main() -> None:
    for what, (ours, base) in PAIRS.items():
        cpu(ours), cpu(base)
        rounds = [(cpu(ours), cpu(base)) for _ in range(ROUNDS)]
        mine, theirs = (statistics.median(side) for side in zip(*rounds, strict=True))
        ratio = statistics.median(one / other for one, other in rounds)
        print(f"{what:30} {mine:.3f} s, {ratio:.2f} times {theirs:.3f} s of {base[-1]!r}", flush=True)


if __name__ == "__main__":
    main()
