"""Settings of a program that gives none: from the environment, or the servers of `jsjobs dev` in its folder."""

from __future__ import annotations

import os
from pathlib import Path

from jsjobs.embedded.discovery import discover
from jsjobs.settings import Config, load

NATS_VARIABLES = ("JSJOBS_NATS_URL", "NATS_URL")
DATABASE_VARIABLES = ("JSJOBS_DATABASE_URL", "DATABASE_URL")


def is_set(variables: tuple[str, ...]) -> bool:
    """Whether the environment gives one of these."""
    return any(os.environ.get(name) for name in variables)


def local_servers() -> dict[str, str]:
    """Settings that name the servers of `jsjobs dev` in or above this folder, as far as the environment names none."""
    own_nats, own_database = is_set(NATS_VARIABLES), is_set(DATABASE_VARIABLES)
    found = None if own_nats and own_database else discover(Path.cwd())
    if found is None:
        return {}
    settings = {}
    if found.nats_url is not None and not own_nats:
        settings["nats_url"] = found.nats_url
    # The dead letters of another NATS server do not belong into the local database.
    same_nats = not own_nats or found.nats_url in {None, *(os.environ.get(name) for name in NATS_VARIABLES)}
    if found.database_url is not None and not own_database and same_nats:
        settings["database_url"] = found.database_url
    return settings


def here() -> Config:
    """The settings of a program that gives none.

    Raises:
        JobError: `Validation`, if a setting in the environment cannot be used.
    """
    return load(**local_servers())
