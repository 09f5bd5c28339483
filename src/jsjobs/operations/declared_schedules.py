"""Keep the server's periodic schedules in line with those that an application's code declares."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jsjobs.handlers.registry import Registry
from jsjobs.jetstream.api.lost_race import settled
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.errors import ConnectionClosed
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.schedules.periodic import Definition, Periodic, definition_of, is_paused, is_there
from jsjobs.jetstream.schedules.schedule import Schedule
from jsjobs.jetstream.schedules.store import ScheduleChanged
from jsjobs.model.errors import JobError
from jsjobs.model.timetable import Timetable
from jsjobs.operations.compose import Composer
from jsjobs.operations.periodic_schedules import PeriodicOptions, compose_definition, schedule_form
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.scheduling")

TRY_AGAIN = 5.0
"""Seconds between two attempts to bring the server in line, while it cannot be reached or has no streams yet."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """A schedule as the code declares it."""

    timetable: Timetable
    function: Callable[..., Any] | None
    """The handler whose job it submits, if the type is not named."""
    job_type: str | None
    name: str | None
    """The schedule's name; None for the job's type with dashes for its dots."""
    payload: Any
    options: PeriodicOptions


def definitions(
    declared: Iterable[Declaration], names: Names, composer: Composer, registry: Registry, owner: str
) -> dict[str, Definition]:
    """Return the schedule definitions of an application's declarations, keyed by name.

    Raises:
        JobError: `Validation`, if one cannot be used.
    """
    found: dict[str, Definition] = {}
    for one in declared:
        job_type = one.job_type or _type_of(one, registry)
        name = one.name or job_type.replace(".", "-")
        if name in found:
            raise JobError.from_validation(f"two schedules are named {name!r}: give one of them another name")
        form = schedule_form(job_type, one.payload, one.options)
        found[name] = compose_definition(names, composer, name, one.timetable, form, owner=owner)
    return found


def _type_of(one: Declaration, registry: Registry) -> str:
    types = registry.types_of(one.function)
    if len(types) == 1:
        return types[0]
    name = getattr(one.function, "__qualname__", repr(one.function))
    what = f"handles {', '.join(types)}" if types else "is not a handler"
    raise JobError.from_validation(
        f"the periodic function {name} {what}: say which job is meant, periodic(…, job_type='…')"
    )


async def keep_in_line(
    connection: Connection, names: Names, wanted: Mapping[str, Definition], owner: str, *, timeout: float
) -> None:
    """Bring the server's schedules in line with the declared ones, once, as soon as that is possible.

    Args:
        connection: The connection to the server.
        names: The namespace.
        wanted: The declared schedules, by name.
        owner: The application; schedules with no owner, or another one, are left alone.
        timeout: Seconds to wait for each answer.
    """
    periodic, was_told = Periodic(connection, names, timeout=timeout), False
    while True:
        try:
            await _reconcile(periodic, wanted, owner)
        except ConnectionClosed:
            return
        except JobError as error:
            if not was_told and wanted:
                logger.warning("the periodic schedules do not match the code yet: %s", error.message)
            was_told = True
            await asyncio.sleep(TRY_AGAIN)
        else:
            return


async def _reconcile(periodic: Periodic, wanted: Mapping[str, Definition], owner: str) -> None:
    there = {definition_of(schedule).name: schedule async for schedule in periodic.all()}
    for name, definition in wanted.items():
        try:
            await _put(periodic, there.get(name), definition)
        except JobError as error:
            if error.is_transient:
                raise
            # A schedule that the server refuses, say for an unknown time zone, must not hold back the others.
            logger.error("schedule %s is not what the code declares: %s", name, error.message)  # noqa: TRY400
    for name, schedule in there.items():
        if name not in wanted and definition_of(schedule).owner == owner:
            try:
                await periodic.remove(schedule)
                logger.info("schedule %s removed: no code declares it any more", name)
            except ScheduleChanged:
                logger.debug("schedule %s is being changed by another", name)


async def _put(periodic: Periodic, listed: Schedule | None, wanted: Definition) -> None:
    """Add or change one schedule; if many processes do so at once, one is first, and the others find it done."""
    if not _is_to_change(listed, wanted):
        return

    async def put() -> None:
        found = await periodic.find(wanted.name)
        if _is_to_change(found, wanted):
            paused = found is not None and is_there(found) and is_paused(found)
            await periodic.store(wanted, expected=found.sequence if found is not None else 0, paused=paused)
            logger.info("schedule %s %s", wanted.name, "added" if found is None else "changed")

    await settled(put)


def _is_to_change(found: Schedule | None, wanted: Definition) -> bool:
    """Return whether a schedule is missing, or is its owner's and not as the code declares it."""
    if found is None or not is_there(found):
        return True
    actual = definition_of(found)
    if actual != wanted and actual.owner != wanted.owner:
        owner = f"{actual.owner!r}" if actual.owner else "no application: it was added by hand"
        logger.warning("schedule %s differs from the code, and is left alone: its owner is %s", wanted.name, owner)
        return False
    return actual != wanted
