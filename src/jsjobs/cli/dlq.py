"""`jsjobs dlq`: the jobs that died, and what to do with them."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer

from jsjobs import JobService
from jsjobs.cli.connect import run, service_with_database
from jsjobs.cli.dlq_view import print_letter, print_letters
from jsjobs.cli.durations import parse_duration
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import complain, print_json, talk
from jsjobs.cli.problems import judge
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Priority, utc_now
from jsjobs.postgres.dead_letters import DeadLetter
from jsjobs.postgres.errors import DatabaseError, LetterError

app = typer.Typer(no_args_is_help=True, help="The jobs that died: the dead letters.", rich_markup_mode="rich")

_ID_HELP = "A letter's id, 6 or more digits of it, or the dead job's id."
Ids = Annotated[list[str], typer.Argument(metavar="ID...", help=_ID_HELP)]
_ID = "3f2a9c"


def _moment(text: str) -> datetime:
    try:
        return utc_now() - timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        problem = f"{text[:40]!r} is neither a duration such as 2h nor a time such as 2026-01-31T12:00:00Z"
        raise typer.BadParameter(problem) from None
    return moment if moment.tzinfo is not None else moment.astimezone()


@app.command(
    "list", epilog=examples("jsjobs dlq list --type email.send --since 2h", "jsjobs dlq list --tenant acme --json")
)
@with_servers
def list_letters(
    *,
    tenant: Annotated[str | None, typer.Option(help="Only of this tenant.")] = None,
    job_type: Annotated[str | None, typer.Option("--type", help="Only of this job type.")] = None,
    reason: Annotated[str | None, typer.Option(help="Only those that died of this, such as MaxRetries.")] = None,
    since: Annotated[
        datetime | None,
        typer.Option(parser=_moment, metavar="WHEN", help="Only those that died since: 2h, or an RFC 3339 time."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 50,
    everything: Annotated[bool, typer.Option("--all", help="Also those that were replayed or discarded.")] = False,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first: those neither replayed nor discarded."""

    async def go() -> list[DeadLetter]:
        async with _letters_of(service_with_database()) as service:
            return await service.letters().list(
                tenant=tenant,
                type=job_type,
                reason=reason,
                since=since,
                limit=limit,
                include_replayed=everything,
                include_discarded=everything,
            )

    found = run(go())
    if as_json:
        print_json([_as_data(letter) for letter in found])
    elif found:
        print_letters(found, with_decisions=everything)
        if len(found) == limit:
            talk(f"these are the newest {limit}; --limit shows more", style="dim")
    else:
        talk("no dead letters", style="dim")


@app.command(epilog=examples(f"jsjobs dlq show {_ID}", "jsjobs dlq show critical-1795318823879006 --json"))
@with_servers
def show(
    *,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help=_ID_HELP)],
    as_json: Json = False,
) -> None:
    """Show a dead letter: its payload, its headers and every error."""

    async def go() -> DeadLetter:
        async with _letters_of(service_with_database()) as service:
            return await service.letters().find(letter_id)

    letter = run(go())
    print_json(_as_data(letter)) if as_json else print_letter(letter)


@app.command(epilog=examples(f"jsjobs dlq replay {_ID}", f"jsjobs dlq replay {_ID} 81bd03 --priority low --json"))
@with_servers
def replay(
    *,
    ids: Ids,
    priority: Annotated[Priority | None, typer.Option(help="Another priority than its own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Though it was replayed or discarded before.")] = False,
    as_json: Json = False,
) -> None:
    """Put dead jobs back into their queue, each once, however often this is done."""

    async def go() -> bool:
        service = service_with_database()
        async with service:

            async def replay_one(reference: str) -> dict[str, Any]:
                job_id = await service.replay(reference, priority=priority, force=force)
                return {"id": job_id.split("-", 2)[2], "replayed_job_id": job_id}

            return await _each(ids, replay_one, "replayed as job {replayed_job_id}", as_json=as_json)

    _fail_unless(run(go()))


@app.command(epilog=examples(f"jsjobs dlq discard {_ID}", f"jsjobs dlq discard {_ID} 81bd03"))
@with_servers
def discard(*, ids: Ids, as_json: Json = False) -> None:
    """Set dead letters aside as decided; they stay in the table."""

    async def go() -> bool:
        async with _letters_of(service_with_database()) as service:

            async def discard_one(reference: str) -> dict[str, Any]:
                letters = service.letters()
                letter = await letters.find(reference)
                new = await letters.discard(letter.id)
                return {"id": str(letter.id), "discarded": new}

            return await _each(ids, discard_one, "discarded", as_json=as_json)

    _fail_unless(run(go()))


@asynccontextmanager
async def _letters_of(service: JobService) -> AsyncIterator[JobService]:
    """The service for its database alone: NATS is not asked."""
    try:
        yield service
    finally:
        await service.close()


async def _each(
    references: Sequence[str], do: Callable[[str], Awaitable[dict[str, Any]]], said: str, *, as_json: bool
) -> bool:
    """Do it to each letter; one that cannot be done does not keep back the others."""
    done, good = [], True
    for reference in references:
        try:
            outcome = await do(reference)
        except (JobError, LetterError, DatabaseError) as error:
            complain(judge(error)[0])
            good = False
            done.append({"id": reference, "error": judge(error)[0]})
            if isinstance(error, JobError) and error.reason is Reason.RUNNER_UNAVAILABLE:
                break
        else:
            done.append(outcome)
            if not as_json:
                talk(f"{reference}: {said.format(**outcome)}")
    if as_json:
        print_json(done)
    return good


def _fail_unless(good: bool) -> None:
    if not good:
        raise typer.Exit(1)


def _as_data(letter: DeadLetter) -> dict[str, Any]:
    data = asdict(letter)
    for name in ("payload", "headers_raw"):
        if data[name] is not None:
            data[name] = base64.b64encode(data[name]).decode()
    moments = ("created_at", "dead_at", "replayed_at", "discarded_at")
    return data | {name: data[name].isoformat() for name in moments if data[name] is not None}
