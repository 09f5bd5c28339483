"""`jsjobs dlq`: list, show and export dead letters; the commands that decide on them are in modules of their own."""

import sys
from typing import Annotated

import typer

from jsjobs.cli.commands.payload_argument import PayloadCommand
from jsjobs.cli.dlq.decide import DISCARD_EXAMPLES, REPLAY_EXAMPLES, discard, replay
from jsjobs.cli.dlq.edit import EXAMPLES as EDIT_EXAMPLES
from jsjobs.cli.dlq.edit import edit
from jsjobs.cli.dlq.letters import (
    AN_ID,
    ID_HELP,
    BatchOption,
    JobType,
    Limit,
    ReasonOption,
    Since,
    Tenant,
    as_data,
    letters_of,
)
from jsjobs.cli.dlq.view import print_letter, print_letters
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import print_json, talk
from jsjobs.cli.progress import bar
from jsjobs.cli.runtime import run, service_with_database
from jsjobs.postgres.dead_letters import DeadLetter
from jsjobs.postgres.letter_search import LetterFilter

app = typer.Typer(
    no_args_is_help=True, help="Manage dead letters: the jobs that failed for good.", rich_markup_mode="rich"
)

Decided = Annotated[bool, typer.Option("--all", help="Include letters that were replayed or discarded.")]


@app.command(
    "list", epilog=examples("jsjobs dlq list --type email.send --since 2h", "jsjobs dlq list --tenant acme --json")
)
@with_servers
def list_letters(
    *,
    tenant: Tenant = None,
    job_type: JobType = None,
    reason: ReasonOption = None,
    since: Since = None,
    batch: BatchOption = None,
    limit: Annotated[int, typer.Option(min=1, help="List at most this many.")] = 50,
    everything: Decided = False,
    as_json: Json = False,
) -> None:
    """List dead letters, newest first: those neither replayed nor discarded."""
    wanted = LetterFilter(tenant=tenant, type=job_type, reason=reason, since=since, batch=batch)

    async def go() -> int:
        async with letters_of(service_with_database()) as letters:
            if as_json:
                found = await letters.list(
                    limit=limit, include_replayed=everything, include_discarded=everything, **wanted
                )
                print_json([as_data(letter) for letter in found])
                return len(found)
            headings = await letters.headings(
                limit=limit, include_replayed=everything, include_discarded=everything, **wanted
            )
        if headings:
            print_letters(headings, with_decisions=everything)
        else:
            talk("no dead letters", style="dim")
        return len(headings)

    if run(go()) == limit:
        talk(f"these are the newest {limit}; --limit shows more", style="dim")


@app.command(epilog=examples(f"jsjobs dlq show {AN_ID}", "jsjobs dlq show critical-1795318823879006 --json"))
@with_servers
def show(
    *,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)],
    as_json: Json = False,
) -> None:
    """Show a dead letter: its payload, its headers and every error."""

    async def go() -> DeadLetter:
        async with letters_of(service_with_database()) as letters:
            return await letters.find(letter_id)

    letter = run(go())
    print_json(as_data(letter)) if as_json else print_letter(letter)


app.command(epilog=REPLAY_EXAMPLES)(replay)
app.command(cls=PayloadCommand, epilog=EDIT_EXAMPLES)(edit)
app.command(epilog=DISCARD_EXAMPLES)(discard)


@app.command(
    epilog=examples("jsjobs dlq export > letters.jsonl", "jsjobs dlq export --all --since 2026-01-01T00:00:00Z")
)
@with_servers
def export(
    *,
    tenant: Tenant = None,
    job_type: JobType = None,
    reason: ReasonOption = None,
    since: Since = None,
    batch: BatchOption = None,
    limit: Limit = None,
    everything: Decided = False,
) -> None:
    """Write dead letters to standard output, one JSON object a line, newest first, as `list --json` has them."""
    wanted = LetterFilter(tenant=tenant, type=job_type, reason=reason, since=since, batch=batch)

    async def go() -> None:
        async with letters_of(service_with_database()) as letters:
            shown = sys.stderr.isatty() and not sys.stdout.isatty()
            total = 0
            if shown:
                total = await letters.count(include_replayed=everything, include_discarded=everything, **wanted)
            total = total if limit is None else min(total, limit)
            pages = letters.pages(limit=limit, include_replayed=everything, include_discarded=everything, **wanted)
            with bar(total, "exported", shown=shown, counted=True) as exported:
                async for page in pages:
                    for letter in page:
                        print_json(as_data(letter))
                        exported.advance()

    run(go())
