"""Periodic schedules that an application's code declares, and keeping the server's in line with them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from jsjobs.composing import Composer
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.errors import ConnectionClosed
from jsjobs.jetstream.periodic import Definition, Periodic, definition_of, is_paused, is_there
from jsjobs.jetstream.schedule import Schedule
from jsjobs.jetstream.schedules import ScheduleChanged
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError
from jsjobs.model.timetable import Timetable
from jsjobs.safe_log import get_logger
from jsjobs.scheduling import PeriodicOptions, compose_definition, schedule_form
from jsjobs.worker.registry import Registry

logger = get_logger("jsjobs.scheduling")

_TRY_AGAIN = 5.0
"""Seconds between two attempts to bring the server in line, while it cannot be reached or has no streams yet."""
_LOOK_AGAIN = 0.02


@dataclass(frozen=True, slots=True)
class Declaration:
    """One schedule, as code declares it."""

    timetable: Timetable
    function: Callable[..., Any] | None
    """The handler whose job it submits, where the type is not named."""
    job_type: str | None
    name: str | None
    """None: the job's type, its dots as dashes."""
    payload: Any
    options: PeriodicOptions


def definitions(
    declared: Iterable[Declaration], names: Names, composer: Composer, registry: Registry, owner: str
) -> dict[str, Definition]:
    """What an application's declarations mean, by name.

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
    what = f"handles {', '.join(types)}" if types else "is no handler"
    raise JobError.from_validation(
        f"the periodic function {name} {what}: say which job is meant, periodic(…, job_type='…')"
    )


async def keep_in_line(
    connection: Connection, names: Names, wanted: Mapping[str, Definition], owner: str, *, timeout: float
) -> None:
    """Bring the server's schedules in line with what is declared, as soon as that can be done; then it is done.

    Args:
        connection: To the server.
        names: The namespace.
        wanted: The declared schedules, by name.
        owner: The application; schedules that are nobody's, or another's, are left alone.
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
                logger.warning("the periodic schedules are not in line with the code yet: %s", error.message)
            was_told = True
            await asyncio.sleep(_TRY_AGAIN)
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
            # One that the server refuses, for a time zone that it does not know say, keeps no other back.
            logger.error("schedule %s is not what the code declares: %s", name, error.message)  # noqa: TRY400
    for name, schedule in there.items():
        if name not in wanted and definition_of(schedule).owner == owner:
            try:
                await periodic.remove(schedule)
                logger.info("schedule %s removed: no code declares it any more", name)
            except ScheduleChanged:
                logger.debug("schedule %s is being changed by another", name)


async def _put(periodic: Periodic, found: Schedule | None, wanted: Definition) -> None:
    """Add or change one schedule; of many who do so at once, one is first, and the others find it done."""
    while True:
        paused = False
        if found is not None and is_there(found):
            actual, paused = definition_of(found), is_paused(found)
            if actual == wanted:
                return
            if actual.owner != wanted.owner:
                owner = f"{actual.owner!r}" if actual.owner else "no application: it was added by hand"
                logger.warning(
                    "schedule %s differs from the code, and is left alone: its owner is %s", wanted.name, owner
                )
                return
        try:
            await periodic.store(wanted, expected=found.sequence if found is not None else 0, paused=paused)
        except ScheduleChanged:
            await asyncio.sleep(_LOOK_AGAIN)
            found = await periodic.find(wanted.name)
        else:
            logger.info("schedule %s %s", wanted.name, "added" if found is None else "changed")
            return
