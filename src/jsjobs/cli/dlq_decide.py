"""`jsjobs dlq replay` and `discard`: letters by their ids, or all that filters let through."""

from typing import Annotated, Any

import typer

from jsjobs.cli.asking import Yes, ask_first
from jsjobs.cli.connect import run, service_with_database
from jsjobs.cli.dlq_bulk import Bulk
from jsjobs.cli.dlq_letters import (
    AN_ID,
    ID_HELP,
    BatchOption,
    Choice,
    JobType,
    Limit,
    ReasonOption,
    Since,
    Tenant,
    letters_of,
)
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.problems import WrongUse
from jsjobs.model.job import Priority
from jsjobs.model.words import things
from jsjobs.postgres.letter_search import LetterFilter

Ids = Annotated[list[str] | None, typer.Argument(metavar="ID", help=ID_HELP)]
All = Annotated[bool, typer.Option("--all", help="Every letter that is neither replayed nor discarded.")]

REPLAY_EXAMPLES = examples(
    f"jsjobs dlq replay {AN_ID}",
    f"jsjobs dlq replay {AN_ID} 81bd03 --priority low --json",
    "jsjobs dlq replay --type email.send --since 2h",
    "jsjobs dlq replay --all --yes",
)
DISCARD_EXAMPLES = examples(
    f"jsjobs dlq discard {AN_ID}", f"jsjobs dlq discard {AN_ID} 81bd03", "jsjobs dlq discard --tenant acme"
)


@with_servers
def replay(
    *,
    ids: Ids = None,
    tenant: Tenant = None,
    job_type: JobType = None,
    reason: ReasonOption = None,
    since: Since = None,
    batch: BatchOption = None,
    limit: Limit = None,
    everything: All = False,
    priority: Annotated[Priority | None, typer.Option(help="Another priority than its own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Though it was replayed or discarded before.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Put dead jobs back into their queue, each once, however often this is done.

    Give ids, or filters: they take the letters that are neither replayed nor discarded, those that died first first.
    More than one is asked about first, unless --yes is given. It may be stopped at any moment, and repeated.
    """
    wanted = LetterFilter(tenant=tenant, type=job_type, reason=reason, since=since, batch=batch)
    choice = Choice(ids, wanted, limit=limit, everything=everything)
    if force and not choice.ids:
        raise WrongUse("--force goes with the ids of letters: filters take only those that need none")
    lanes = _chosen(choice, "replay", yes=yes)

    async def go() -> bool:
        async with service_with_database() as service:

            async def replay_one(reference: str) -> dict[str, Any]:
                job_id = await service.replay(reference, priority=priority, force=force)
                return {"id": job_id.split("-", 2)[2], "replayed_job_id": job_id}

            bulk = Bulk(replay_one, "replayed", "replayed as job {replayed_job_id}", as_json=as_json)
            if choice.ids:
                return await bulk.each(choice.ids)
            return await bulk.all(lanes)

    _fail_unless(run(go()))


@with_servers
def discard(
    *,
    ids: Ids = None,
    tenant: Tenant = None,
    job_type: JobType = None,
    reason: ReasonOption = None,
    since: Since = None,
    batch: BatchOption = None,
    limit: Limit = None,
    everything: All = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Set dead letters aside as decided; they stay in the table. Ids or filters, as for `dlq replay`."""
    wanted = LetterFilter(tenant=tenant, type=job_type, reason=reason, since=since, batch=batch)
    choice = Choice(ids, wanted, limit=limit, everything=everything)
    lanes = _chosen(choice, "discard", yes=yes)

    async def go() -> bool:
        async with letters_of(service_with_database()) as letters:

            async def discard_one(reference: str) -> dict[str, Any]:
                letter = await letters.find(reference)
                new = await letters.discard(letter.id)
                return {"id": str(letter.id), "discarded": new}

            bulk = Bulk(discard_one, "discarded", "discarded", as_json=as_json)
            if choice.ids:
                return await bulk.each(choice.ids)
            return await bulk.all(lanes)

    _fail_unless(run(go()))


def _chosen(choice: Choice, what: str, *, yes: bool) -> list[list[str]]:
    """What the filters let through, none where ids were given; more than one letter is asked about."""

    async def find() -> list[list[str]]:
        async with letters_of(service_with_database()) as letters:
            return await choice.lanes(letters)

    lanes = [] if choice.ids else run(find())
    count = len(choice.ids) or sum(map(len, lanes))
    if count > 1:
        ask_first(f"{what} {things(count, 'letter')}", yes=yes, named=bool(choice.ids))
    return lanes


def _fail_unless(good: bool) -> None:
    if not good:
        raise typer.Exit(1)
