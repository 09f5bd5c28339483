"""Find the local servers of a project folder that another process runs."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HOME = ".jsjobs"
SERVERS_FILE = "servers.json"


@dataclass(frozen=True)
class Endpoints:
    """The addresses of the local servers.

    Attributes:
        nats_url: The NATS server's address; None when it was not asked for.
        database_url: The PostgreSQL server's address; None when it was not asked for.
        settings: The settings that the application on these servers has shared, keyed by name.
    """

    nats_url: str | None
    database_url: str | None
    settings: dict[str, Any] = field(default_factory=dict)


def discover(start: Path) -> Endpoints | None:
    """Find the running servers of this folder, or else of the nearest folder above it that has any.

    Servers whose owner died do not count: the next start in their folder ends them.
    """
    folder = start.resolve()
    for candidate in (folder, *folder.parents):
        if (found := _read(candidate / HOME / SERVERS_FILE)) is not None:
            return found
    return None


def share_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Store these settings with the servers of this folder for whoever finds them, replacing earlier settings."""
    file = folder / HOME / SERVERS_FILE
    text = json.dumps({**_state(file), "settings": settings}, indent=1)
    new = file.with_name(f"{SERVERS_FILE}.settings")
    new.write_text(text, encoding="utf-8")
    new.replace(file)


def _state(file: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return state


def _read(file: Path) -> Endpoints | None:
    try:
        if file.stat().st_uid != os.geteuid():  # anybody may leave one in /tmp, and jobs would be sent there
            return None
        state = _state(file)
        from jsjobs.embedded.processes import is_alive  # most folders have no servers

        processes = [(int(process["pid"]), float(process["born"])) for process in state["processes"]]
        running = all(is_alive(pid, born) for pid, born in processes)
        return Endpoints(state["nats_url"], state["database_url"], dict(state["settings"])) if running else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
