"""`jsjobs dlq replay` and `discard`: decide on letters by their ids, or on all that match the filters."""

from typing import Annotated, Any

import typer

from jsjobs.cli.confirmation import Yes, ask_first
from jsjobs.cli.dlq.bulk import Bulk
from jsjobs.cli.dlq.letters import (
    AN_ID,
    ID_HELP,
    BatchOption,
    JobType,
    LetterSelection,
    Limit,
    ReasonOption,
    Since,
    Tenant,
    letters_of,
)
from jsjobs.cli.errors import WrongUse
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.runtime import run, service_with_database
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
    priority: Annotated[Priority | None, typer.Option(help="Replay at this priority instead of its own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replay even if it was replayed or discarded before.")] = False,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Submit dead jobs again, each once, however often you run this.

    Give ids or filters. Filters match open letters, neither replayed nor discarded, and the oldest are replayed first.
    Before it replays more than one, it asks, unless you give --yes. You can stop it at any moment, and run it again.
    """
    wanted = LetterFilter(tenant=tenant, type=job_type, reason=reason, since=since, batch=batch)
    selection = LetterSelection(ids, wanted, limit=limit, everything=everything)
    if force and not selection.ids:
        raise WrongUse("--force goes with ids of letters: filters match only open letters, which do not need it")
    lanes = _chosen(selection, "replay", yes=yes)

    async def go() -> bool:
        async with service_with_database() as service:

            async def replay_one(reference: str) -> dict[str, Any]:
                job_id = await service.replay(reference, priority=priority, force=force)
                return {"id": job_id.split("-", 2)[2], "replayed_job_id": job_id}

            bulk = Bulk(replay_one, "replayed", "replayed as job {replayed_job_id}", as_json=as_json)
            if selection.ids:
                return await bulk.each(selection.ids)
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
    """Mark dead letters as discarded; they stay in the table. Give ids or filters, as for `dlq replay`."""
    wanted = LetterFilter(tenant=tenant, type=job_type, reason=reason, since=since, batch=batch)
    selection = LetterSelection(ids, wanted, limit=limit, everything=everything)
    lanes = _chosen(selection, "discard", yes=yes)

    async def go() -> bool:
        async with letters_of(service_with_database()) as letters:

            async def discard_one(reference: str) -> dict[str, Any]:
                letter = await letters.find(reference)
                new = await letters.discard(letter.id)
                return {"id": str(letter.id), "discarded": new}

            bulk = Bulk(discard_one, "discarded", "discarded", as_json=as_json)
            if selection.ids:
                return await bulk.each(selection.ids)
            return await bulk.all(lanes)

    _fail_unless(run(go()))


def _chosen(selection: LetterSelection, what: str, *, yes: bool) -> list[list[str]]:
    """Return the letters that match the filters, none where ids were given; ask first if there is more than one."""

    async def find() -> list[list[str]]:
        async with letters_of(service_with_database()) as letters:
            return await selection.lanes(letters)

    lanes = [] if selection.ids else run(find())
    count = len(selection.ids) or sum(map(len, lanes))
    if count > 1:
        ask_first(f"{what} {things(count, 'letter')}", yes=yes, named=bool(selection.ids))
    return lanes


def _fail_unless(good: bool) -> None:
    if not good:
        raise typer.Exit(1)
