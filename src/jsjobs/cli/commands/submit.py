"""`jsjobs submit`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any

import typer

from jsjobs import JobService
from jsjobs.cli.commands.job_view import change_line, failed_as
from jsjobs.cli.commands.payload_argument import PayloadCommand
from jsjobs.cli.commands.payloads import Lines, read_lines, read_one
from jsjobs.cli.errors import Failed, WrongUse
from jsjobs.cli.options import Json, duration_option, examples, moment_option, with_servers
from jsjobs.cli.output import display, dumps, print_json, print_value, talk
from jsjobs.cli.progress import bar, wait_for_all, wait_for_one
from jsjobs.cli.runtime import run, service
from jsjobs.model.errors import InvalidBatch
from jsjobs.model.job import Duration, JobId, Priority, Status, failure
from jsjobs.model.retry import ATTEMPTS_LIMIT
from jsjobs.model.words import things

app = typer.Typer()
_EXAMPLES = examples(
    """jsjobs submit email.send '{"to": "a@example.org"}' --entity customer-42""",
    """jsjobs submit report '"2026-01"' --priority high --duration long --wait""",
    "jsjobs submit import @order.json --dedupe-key order-7 --json",
    """jsjobs submit reminder '{"user": 42}' --delay 1h30m --debounce-key user-42""",
    "jq -c '.orders[]' all.json | jsjobs submit import -",
)


@app.command(cls=PayloadCommand, epilog=_EXAMPLES)
@with_servers
def submit(
    *,
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="The job type, such as email.send.")],
    payload: Annotated[
        str, typer.Argument(metavar="PAYLOAD|-|@FILE", help="JSON; [cyan]-[/] reads JSON lines, one job each.")
    ],
    priority: Annotated[Priority, typer.Option(help="The queue it waits in.")] = Priority.NORMAL,
    entity: Annotated[str | None, typer.Option(help="Jobs of one entity run one at a time, in order.")] = None,
    dedupe_key: Annotated[
        str | None,
        typer.Option(help="Within 2 minutes, the same key (of one tenant, type and priority) queues no second job."),
    ] = None,
    max_attempts: Annotated[
        int | None,
        typer.Option(
            min=1, max=ATTEMPTS_LIMIT, help="Attempts before the job is dead [dim](default: its handler's, else 3)[/]"
        ),
    ] = None,
    duration: Annotated[Duration | None, typer.Option(help="long: may run for more than half a minute.")] = None,
    timeout: Annotated[
        float | None, duration_option("Longest time for one attempt, such as 10s; above 25s the job is long.")
    ] = None,
    delay: Annotated[float | None, duration_option("Run it after this time, such as 1h30m.")] = None,
    at: Annotated[datetime | None, moment_option("Run it at this time, such as 2026-12-24T18:00:00Z.")] = None,
    debounce_key: Annotated[
        str | None, typer.Option(help="With a delay: the same key again replaces the job while it is not due yet.")
    ] = None,
    batch: Annotated[
        str | None, typer.Option(help="The id of its batch; for lines, one is generated if you give none.")
    ] = None,
    expires: Annotated[
        float | None, duration_option("Do not run the job if it has not started within this time, such as 10m.")
    ] = None,
    drop_expired: Annotated[bool, typer.Option("--drop-expired", help="If it expires, leave no dead letter.")] = False,
    tenant: Annotated[str | None, typer.Option(help="The tenant that the job belongs to.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the job to end, and print its result.")] = False,
    as_json: Json = False,
) -> None:
    """Submit a job, or a batch with one job for each line of standard input."""
    if drop_expired and expires is None:
        raise typer.BadParameter("it needs --expires, without which no job expires", param_hint="--drop-expired")
    content = read_lines() if payload == "-" else read_one(payload)
    options: dict[str, Any] = {
        "priority": priority,
        "entity": entity,
        "dedupe_key": dedupe_key,
        "max_attempts": max_attempts,
        "duration": duration,
        "timeout": timeout,
        "delay": delay,
        "at": at,
        "debounce_key": debounce_key,
        "batch_id": batch,
        "expires": expires,
        "expired": "drop" if drop_expired else "dead_letter",
    }
    _check(options)

    run(_submit(job_type, content, options, tenant, wait=wait, as_json=as_json))


async def _submit(
    job_type: str, content: Any, options: dict[str, Any], tenant: str | None, *, wait: bool, as_json: bool
) -> None:
    async with service() as jobs:
        with jobs.request_context(tenant_id=tenant):
            if isinstance(content, Lines):
                ids = await _queue(jobs, job_type, content, options)
                await _after_batch(jobs, ids, wait=wait, as_json=as_json)
                return
            # As a list it would be a batch.
            one = tuple(content) if isinstance(content, list) else content
            job_id: JobId = await jobs.submit(job_type, one, **options)
        await _after_one(jobs, job_id, wait=wait, as_json=as_json)


def _check(options: dict[str, Any]) -> None:
    """Refuse options that cannot go together, naming them."""
    if options["delay"] is not None and options["at"] is not None:
        raise WrongUse("give either --delay or --at")
    if options["debounce_key"] is not None and options["delay"] is None and options["at"] is None:
        raise WrongUse("--debounce-key needs --delay or --at: it replaces a job that is not due yet")
    if options["debounce_key"] is not None and options["dedupe_key"] is not None:
        raise WrongUse("give either --dedupe-key, which keeps the first job, or --debounce-key, which keeps the last")


async def _queue(jobs: JobService, job_type: str, lines: Lines, options: dict[str, Any]) -> list[JobId]:
    total = len(lines.payloads)
    with bar(max(total, 1), f"0 of {things(total, 'job')} queued") as shown:

        def on_queued(count: int) -> None:
            shown.show(done=count, text=f"{count:,} of {things(total, 'job')} queued")

        try:
            ids: list[JobId] = await jobs.submit(job_type, lines.payloads, on_queued=on_queued, **options)
        except InvalidBatch as error:
            raise lines.refusal({index: item.message for index, item in error.errors.items()}) from None
    return ids


async def _after_one(jobs: JobService, job_id: JobId, *, wait: bool, as_json: bool) -> None:
    if not wait:
        if as_json:
            print_json({name: value for name, value in _receipt(job_id).items() if value is not None})
            return
        print(job_id)  # noqa: T201 - the id alone, for $(jsjobs submit ...)
        if job_id.duplicate:
            talk("it was already submitted: nothing new was queued", style="dim")
        return
    if not as_json:
        talk(job_id, style="dim")
    ended = await wait_for_one(jobs, job_id, shown=not as_json)
    if as_json:
        print_json(ended.model_dump(mode="json"))
    elif ended.status is Status.COMPLETE:
        print_value(ended.result)
    if ended.status is not Status.COMPLETE:
        raise failed_as(failure(ended))


async def _after_batch(jobs: JobService, job_ids: Sequence[JobId], *, wait: bool, as_json: bool) -> None:
    if not job_ids:
        talk("standard input had no lines: nothing was queued", style="dim")
    elif not as_json:
        # If a part of the list was submitted before, the new jobs have a batch of their own.
        new = next((job_id for job_id in job_ids if not job_id.duplicate), job_ids[0])
        talk(f"batch {new.batch_id}: {things(len(job_ids), 'job')}", style="dim")
    if not wait:
        if as_json:
            print_json([_receipt(job_id) for job_id in job_ids])
        else:
            print(*job_ids, sep="\n", end="\n" if job_ids else "")  # noqa: T201 - the ids alone
        return
    ended = await wait_for_all(jobs, job_ids, shown=not as_json)
    if as_json:
        print_json([status.model_dump(mode="json") for status in ended])
    else:
        for status in ended:
            outcome = dumps(status.result) if status.status is Status.COMPLETE else status.last_error or ""
            display(change_line(status, outcome), soft_wrap=True)
    failed = sum(status.status is not Status.COMPLETE for status in ended)
    if failed:
        raise Failed(f"{failed:,} of {things(len(ended), 'job')} failed")


def _receipt(job_id: JobId) -> dict[str, Any]:
    return {"job_id": job_id, "duplicate": job_id.duplicate, "batch_id": job_id.batch_id}
