"""Find the servers that a command talks to, and run its coroutine."""

import asyncio
import json
import logging
import os
import sys
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from jsjobs import JobService
from jsjobs.cli.errors import HOW_TO_DATABASE, WrongUse
from jsjobs.cli.options import start_log
from jsjobs.cli.output import begin_silence, has_spoken, talk
from jsjobs.jetstream.client.errors import without_secrets
from jsjobs.local import DATABASE_VARIABLES, NATS_VARIABLES, is_set, local_servers, variable
from jsjobs.settings import Config, load

T = TypeVar("T")

_SAY_AFTER = 2.0
"""Seconds of silence after which the person at a terminal is told what a command waits for."""


def has_nats() -> bool:
    """Return whether the environment names a NATS server."""
    return is_set(NATS_VARIABLES)


def has_database() -> bool:
    """Return whether the environment names a database."""
    return is_set(DATABASE_VARIABLES)


def find_servers() -> None:
    """Put the servers of `jsjobs dev`, in or above this folder, into the environment where it names none itself.

    The settings of the application that runs there are put there too. Handlers may start processes of their own, and
    these must find the same servers.
    """
    found = local_servers()
    if "nats_url" in found:
        use_nats(found.pop("nats_url"))
    if "database_url" in found:
        use_database(found.pop("database_url"))
    os.environ |= {
        variable(name): value if isinstance(value, str) else json.dumps(value) for name, value in found.items()
    }


def use_nats(url: str) -> None:
    """Make this process, and what it imports, use this NATS server."""
    os.environ[NATS_VARIABLES[0]] = url


def use_database(url: str) -> None:
    """Make this process, and what it imports, use this database."""
    os.environ[DATABASE_VARIABLES[0]] = url


def settings(**given: object) -> Config:
    """Return a command's settings: the arguments, the environment, the servers of `jsjobs dev`, then the defaults.

    Raises:
        JobError: `Validation`, if a setting is invalid.
    """
    find_servers()
    return load(**{name: value for name, value in given.items() if value is not None})


def service() -> JobService:
    """Return a service with the settings of a command."""
    return JobService(settings())


def service_with_database() -> JobService:
    """Return a service as `service` does, for a command that needs the dead-letter table.

    Raises:
        WrongUse: If no database is set.
    """
    made = service()
    if made.config.database_url is None:
        raise WrongUse(f"no database is set: {HOW_TO_DATABASE}")
    return made


def run(main: Coroutine[Any, Any, T], waits_for: str | None = None) -> T:
    """Run a command's coroutine to its end; Ctrl-C cancels it.

    Args:
        main: The coroutine.
        waits_for: What a terminal is told that the command waits for, when it is silent for long; None: its servers.
    """
    start_log(logging.WARNING, "%(levelname)s: %(message)s")
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(_heard(main, waits_for))


async def _heard(main: Coroutine[Any, Any, T], waits_for: str | None) -> T:
    begin_silence()
    saying = asyncio.get_running_loop().call_later(_SAY_AFTER, _say_what_for, waits_for)
    try:
        return await main
    finally:
        saying.cancel()


def _say_what_for(what: str | None) -> None:
    if has_spoken() or not sys.stderr.isatty():
        return
    config = settings()
    servers = f"an answer from NATS at {without_secrets(config.nats_url)}"
    if config.database_url is not None:
        servers += f", or from Postgres at {JobService(config).database().place}"
    talk(f"waiting for {what or servers}", style="dim")


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of event loops: uvloop's, if uvloop is installed, else None."""
    try:
        import uvloop
    except ModuleNotFoundError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
