"""`jsjobs dlq edit`: change a dead job's payload, in an editor or directly, and replay it."""

from typing import Annotated

import typer

from jsjobs.cli.commands.payloads import read_raw
from jsjobs.cli.dlq.editor import draft, open_editor, readable
from jsjobs.cli.dlq.letters import AN_ID, ID_HELP, letters_of
from jsjobs.cli.errors import Failed, judge
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import print_json, talk
from jsjobs.cli.runtime import run, service_with_database
from jsjobs.dead_letters.replay import edit_letter
from jsjobs.jetstream.protocol.headers import parse_json
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.postgres.dead_letters import DeadLetter

EXAMPLES = examples(
    f"jsjobs dlq edit {AN_ID}",
    f"""jsjobs dlq edit {AN_ID} '{{"to": "ada@example.org"}}'""",
    f"jsjobs dlq edit {AN_ID} @payload.json --no-replay",
)
_PAYLOAD_HELP = "JSON, - for standard input, or @file; without it $VISUAL or $EDITOR opens the payload."


@with_servers
def edit(
    *,
    letter_id: Annotated[str, typer.Argument(metavar="ID", help=ID_HELP)],
    payload: Annotated[str | None, typer.Argument(metavar="[PAYLOAD|-|@FILE]", help=_PAYLOAD_HELP)] = None,
    replays: Annotated[bool, typer.Option("--replay/--no-replay", help="Replay it with the new payload.")] = True,
    priority: Annotated[Priority | None, typer.Option(help="Replay at this priority instead of its own.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Edit even if it was replayed or discarded before.")] = False,
    as_json: Json = False,
) -> None:
    """Change a dead job's payload, then replay it. The payload as it was published is kept beside the new one."""
    if payload is not None:
        new = read_raw(payload)  # an invalid payload is refused before any server is asked
        letter = run(_find(letter_id))
        run(_store(letter, new, instead_of=None, force=force))
    else:
        letter = run(_find(letter_id))
        shown = readable(letter.payload)
        with draft(shown, f"jsjobs dlq edit {letter.id}") as file:
            new = open_editor(file)
            if new != shown.strip():
                parse_json(new, "the edited payload")
                run(_store(letter, new, instead_of=letter.payload, force=force))
        if new == shown.strip():
            talk("nothing was changed, and the letter is not replayed")
            if as_json:
                print_json({"id": str(letter.id), "edited": False, "replayed_job_id": None})
            return
    job_id = run(_replay(letter, priority, force=force)) if replays else None
    if as_json:
        print_json({"id": str(letter.id), "edited": True, "replayed_job_id": job_id})
    else:
        talk(f"{letter_id}: edited" + (f", replayed as job {job_id}" if job_id else ""))


async def _find(letter_id: str) -> DeadLetter:
    async with letters_of(service_with_database()) as letters:
        return await letters.find(letter_id)


async def _store(letter: DeadLetter, payload: bytes, *, instead_of: bytes | None, force: bool) -> None:
    async with letters_of(service_with_database()) as letters:
        await edit_letter(letters, letter, payload, force=force, instead_of=instead_of)


async def _replay(letter: DeadLetter, priority: Priority | None, *, force: bool) -> str:
    try:
        async with service_with_database() as service:
            return await service.replay(str(letter.id), priority=priority, force=force)
    except JobError as error:
        raise Failed(
            f"the new payload is stored, but not replayed: {judge(error)[0]}; run `jsjobs dlq replay {letter.id}`"
        ) from None
