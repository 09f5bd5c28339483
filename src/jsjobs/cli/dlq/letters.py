"""Find the dead letters that a `dlq` command is about, and turn them into data for programs."""

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from jsjobs import JobService
from jsjobs.cli.durations import parse_duration, parse_moment
from jsjobs.cli.errors import WrongUse
from jsjobs.model.job import utc_now
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters
from jsjobs.postgres.letter_search import LetterFilter, Undecided

ID_HELP = "A letter's id, 6 or more digits of it, or the dead job's id."
AN_ID = "3f2a9c"
"""The id in the examples of help texts."""


def _moment(text: str) -> datetime:
    try:
        return utc_now() - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        return parse_moment(text)
    except ValueError:
        problem = f"{text[:40]!r} is neither a duration such as 2h nor a time such as 2026-01-31T12:00:00Z"
        raise typer.BadParameter(problem) from None


Tenant = Annotated[str | None, typer.Option(help="Only letters of this tenant.")]
JobType = Annotated[str | None, typer.Option("--type", help="Only letters of this job type.")]
ReasonOption = Annotated[str | None, typer.Option(help="Only letters with this reason, such as MaxRetries.")]
Since = Annotated[
    datetime | None,
    typer.Option(parser=_moment, metavar="WHEN", help="Only jobs that died since then: 2h ago, or an RFC 3339 time."),
]
BatchOption = Annotated[str | None, typer.Option("--batch", help="Only letters of this batch.", metavar="BATCH_ID")]
Limit = Annotated[int | None, typer.Option(min=1, help="At most this many, the newest.")]


class LetterSelection:
    """The letters that a command decides on: those with the given ids, or the undecided ones that match the filters.

    Raises:
        WrongUse: If neither is given, or both are.
    """

    def __init__(self, ids: Sequence[str] | None, wanted: LetterFilter, *, limit: int | None, everything: bool) -> None:
        self.ids = list(ids or [])
        self._wanted = wanted
        self._limit = limit
        narrowed = any(value is not None for value in wanted.values())
        filtered = narrowed or limit is not None
        if self.ids and (everything or filtered):
            raise WrongUse("give the ids of letters, or filters, not both")
        if everything and narrowed:
            raise WrongUse("--all means every open letter: leave it out when you give other filters")
        if not (self.ids or everything or filtered):
            raise WrongUse("give the ids of letters, filters such as --type email.send, or --all for every open letter")

    async def lanes(self, letters: DeadLetters) -> list[list[str]]:
        """Return the ids of the letters that match the filters, by lane; those of a lane must be handled one by one.

        Jobs of one entity stay in the order in which they died, which is the order in which they were submitted.
        """
        lanes: dict[Any, list[str]] = {}
        for letter in await letters.undecided(limit=self._limit, **self._wanted):
            lanes.setdefault(_lane(letter), []).append(str(letter.id))
        return list(lanes.values())


def _lane(letter: Undecided) -> Any:
    return (letter.priority, letter.entity) if letter.entity else letter.id


@asynccontextmanager
async def letters_of(service: JobService) -> AsyncIterator[DeadLetters]:
    """Yield the letters of a service without connecting to NATS, and close the service at the end."""
    try:
        yield service.dlq
    finally:
        await service.close()


def as_data(letter: DeadLetter) -> dict[str, Any]:
    """Return a letter for programs, with the columns' names as keys, bytes in Base64 and times in RFC 3339."""
    data = asdict(letter)
    for name in ("payload", "headers_raw", "original_payload"):
        if data[name] is not None:
            data[name] = base64.b64encode(data[name]).decode()
    moments = ("created_at", "dead_at", "replayed_at", "discarded_at", "edited_at")
    return data | {name: data[name].isoformat() for name in moments if data[name] is not None}
