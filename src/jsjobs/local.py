"""Default settings: from the environment, or from the servers of `jsjobs dev` in this folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from jsjobs.embedded.discovery import discover, share_settings
from jsjobs.settings import Config, load

NATS_VARIABLES = ("JSJOBS_NATS_URL", "NATS_URL")
DATABASE_VARIABLES = ("JSJOBS_DATABASE_URL", "DATABASE_URL")

SHARED = {
    *("namespace", "app", "replicas", "scale", "pools", "capacity", "queue_bytes", "ack_wait", "max_deliver"),
    *("duplicate_window", "result_ttl", "retry", "tenant_delayed_jobs", "tenant_delayed_bytes", "tenant_types"),
}
"""Settings that describe a namespace; all others belong to one process, or are secret."""


def is_set(variables: tuple[str, ...]) -> bool:
    """Return whether the environment sets one of these variables."""
    return any(os.environ.get(name) for name in variables)


def local_servers() -> dict[str, Any]:
    """Return settings for the servers of `jsjobs dev` in or above this folder, unless the environment names servers.

    The settings of the application that runs on its NATS server are included, unless the environment sets them.
    """
    own_nats, own_database = is_set(NATS_VARIABLES), is_set(DATABASE_VARIABLES)
    found = None if own_nats and own_database else discover(Path.cwd())
    if found is None:
        return {}
    settings: dict[str, Any] = {}
    if found.nats_url is not None and not own_nats:
        named = {name.upper() for name, value in os.environ.items() if value}
        shared = {name: value for name, value in found.settings.items() if name in SHARED}
        settings = {name: value for name, value in shared.items() if variable(name) not in named}
        settings["nats_url"] = found.nats_url
    # The dead letters of another NATS server do not belong in the local database.
    same_nats = not own_nats or found.nats_url in {None, *(os.environ.get(name) for name in NATS_VARIABLES)}
    if found.database_url is not None and not own_database and same_nats:
        settings["database_url"] = found.database_url
    return settings


def share(config: Config) -> None:
    """Share the settings of an application on the servers of `jsjobs dev` with the other commands in this folder."""
    found = discover(Path.cwd())
    if found is not None and found.nats_url == config.nats_url:
        share_settings(Path.cwd(), config.model_dump(mode="json", include=SHARED, exclude_unset=True))


def variable(setting: str) -> str:
    """Return the name of the environment variable for a setting."""
    return f"JSJOBS_{setting.upper()}"


def here() -> Config:
    """Return the settings for a program that gives none of its own.

    Raises:
        JobError: `Validation`, if a setting in the environment cannot be used.
    """
    return load(**local_servers())
