"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil

from harness import catalogue, taking_part
from harness.servers import Servers, missing, redis_version

_ROOT = Path(__file__).parents[2]


def describe(servers: Servers, names: list[str]) -> dict[str, str]:
    """Machine, system and versions, by what they are of."""
    brokers = {catalogue.side(name).broker for name in names}
    found = {
        "Date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "Sources": _commit(),
        "Processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores{_virtual()}",
        "Memory": f"{psutil.virtual_memory().total / 2**30:.0f} GB",
        "System": f"{platform.system()} {platform.release()}, {_distribution()}",
        "Python": platform.python_version(),
        "nats-server": _said("nats-server", "--version").rsplit("v", 1)[-1],
    }
    if "redis" in brokers and not missing("redis"):
        found["redis-server"] = redis_version()
    if servers.postgres_version:
        found["PostgreSQL"] = servers.postgres_version
    return found | taking_part.versions(names)


def _commit() -> str:
    return _said("git", "-C", str(_ROOT), "describe", "--always", "--dirty") or "unknown"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _virtual() -> str:
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return ""
    return " of a virtual machine" if " hypervisor" in flags else ""


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.platform()


def _said(*command: str) -> str:
    beside = Path(sys.executable).with_name(command[0])  # servers from packages are there
    try:
        program = str(beside) if beside.exists() else command[0]
        done = subprocess.run([program, *command[1:]], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return done.stdout.strip()
