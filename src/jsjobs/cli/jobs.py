"""Commands about single jobs: submit, status, result, progress."""

from collections.abc import Sequence
from contextlib import aclosing
from typing import Annotated, Any

import typer

from jsjobs import JobService
from jsjobs.cli.connect import run, service
from jsjobs.cli.job_view import change_line, print_status, progress_line
from jsjobs.cli.options import Json, duration_option, examples, with_servers
from jsjobs.cli.output import dumps, print_json, print_value, screen, talk
from jsjobs.cli.payloads import read_lines, read_one
from jsjobs.cli.problems import Failed
from jsjobs.cli.waiting import wait_for_all, wait_for_one
from jsjobs.jetstream.lookup import failure
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import Duration, JobId, JobStatusResponse, Priority, Status

JobIdArgument = Annotated[str, typer.Argument(help="The job's id, such as critical-1795318823879006.")]
_JOBS = "Jobs"


def add_commands(app: typer.Typer) -> None:
    """Add the commands to the application."""
    submit_examples = examples(
        """jsjobs submit email.send '{"to": "a@example.org"}' --entity customer-42""",
        """jsjobs submit report '"2026-01"' --priority high --duration long --wait""",
        "jsjobs submit import @order.json --dedupe-key order-7 --json",
        "jq -c '.orders[]' all.json | jsjobs submit import -",
    )
    app.command(rich_help_panel=_JOBS, epilog=submit_examples)(submit)
    one = "normal-1795318823879006"
    status_examples = examples(f"jsjobs status {one}", f"jsjobs status {one} --watch --json")
    app.command(rich_help_panel=_JOBS, epilog=status_examples)(status)
    result_examples = examples(f"jsjobs result {one} --timeout 30s", f"jsjobs result {one} | jq .total")
    app.command(rich_help_panel=_JOBS, epilog=result_examples)(result)
    app.command(rich_help_panel=_JOBS, epilog=examples(f"jsjobs progress {one}"))(progress)


@with_servers
def submit(
    *,
    job_type: Annotated[str, typer.Argument(metavar="TYPE", help="Which handler runs it, such as email.send.")],
    payload: Annotated[
        str, typer.Argument(metavar="PAYLOAD|-|@FILE", help="JSON; [cyan]-[/] reads JSON lines, each one a job.")
    ],
    priority: Annotated[Priority, typer.Option(help="The queue it waits in.")] = Priority.NORMAL,
    entity: Annotated[str | None, typer.Option(help="Jobs of one entity run one at a time, in order.")] = None,
    dedupe_key: Annotated[
        str | None, typer.Option(help="The same key again, within 2 minutes, is the same job.")
    ] = None,
    max_attempts: Annotated[int | None, typer.Option(help="Attempts before it is dead [dim](default: 3)[/]")] = None,
    duration: Annotated[Duration, typer.Option(help="long: may run for more than half a minute.")] = Duration.SHORT,
    timeout: Annotated[float | None, duration_option("Longest time for one attempt, such as 10s.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Whose job it is.")] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for its end; print its result.")] = False,
    as_json: Json = False,
) -> None:
    """Queue a job, or one for each line of standard input."""
    content = read_lines() if payload == "-" else read_one(payload)
    if payload != "-" and isinstance(content, list):
        content = tuple(content)  # a list would be a batch
    options: dict[str, Any] = {
        "priority": priority,
        "entity": entity,
        "dedupe_key": dedupe_key,
        "max_attempts": max_attempts,
        "duration": duration,
        "timeout": timeout,
    }

    async def go() -> None:
        async with service() as jobs:
            with jobs.request_context(tenant_id=tenant):
                submitted = await jobs.submit(job_type, content, **options)
            if isinstance(submitted, list):
                await _after_batch(jobs, submitted, wait=wait, as_json=as_json)
            else:
                await _after_one(jobs, submitted, wait=wait, as_json=as_json)

    run(go())


async def _after_one(jobs: JobService, job_id: JobId, *, wait: bool, as_json: bool) -> None:
    if not wait:
        if as_json:
            print_json(_receipt(job_id))
            return
        print(job_id)  # noqa: T201 - the id alone, for $(jsjobs submit ...)
        if job_id.duplicate:
            talk("it was submitted before: nothing new was queued", style="dim")
        return
    if not as_json:
        talk(job_id, style="dim")
    ended = await wait_for_one(jobs, job_id, shown=not as_json)
    if as_json:
        print_json(ended.model_dump(mode="json"))
    elif ended.status is Status.COMPLETE:
        print_value(ended.result)
    _raise_unless_complete(ended)


async def _after_batch(jobs: JobService, job_ids: Sequence[JobId], *, wait: bool, as_json: bool) -> None:
    if not job_ids:
        talk("standard input held no lines: nothing was queued", style="dim")
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
            screen().print(change_line(status, outcome), soft_wrap=True)
    failed = sum(status.status is not Status.COMPLETE for status in ended)
    if failed:
        raise Failed(f"{failed} of {len(ended)} jobs failed")


def _receipt(job_id: JobId) -> dict[str, Any]:
    return {"job_id": job_id, "duplicate": job_id.duplicate}


def _raise_unless_complete(status: JobStatusResponse) -> None:
    if status.status is not Status.COMPLETE:
        raise _failed(failure(status))


def _failed(error: JobError) -> Failed:
    # The job's own Validation is no wrong use of this command. Its text may begin with the reason already.
    return Failed(f"{error.reason}: {error.message.removeprefix(f'{error.reason}: ')}")


@with_servers
def status(
    *,
    job_id: JobIdArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Print each change, until the job has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show all that is known of a job."""

    async def go() -> None:
        async with service() as jobs:
            if not watch:
                now = await jobs.status(job_id)
                print_json(now.model_dump(mode="json")) if as_json else print_status(now)
                return
            async with aclosing(jobs.watch(job_id)) as changes:
                async for now in changes:
                    if as_json:
                        print_json(now.model_dump(mode="json"))
                    else:
                        screen().print(change_line(now, now.last_error or ""), soft_wrap=True)

    run(go())


@with_servers
def result(
    *,
    job_id: JobIdArgument,
    timeout: Annotated[float | None, duration_option("How long to wait [dim](default: for ever)[/]")] = None,
    as_json: Json = False,
) -> None:
    """Wait for a job's end and print its result, as JSON."""

    async def go() -> None:
        async with service() as jobs:
            try:
                value = await jobs.result(job_id, timeout)
            except JobError as error:
                raise _failed(error) if error.reason not in _OWN_REASONS else error from None
            print_json(value) if as_json else print_value(value)

    run(go())


_OWN_REASONS = {Reason.NOT_FOUND, Reason.RUNNER_UNAVAILABLE}
"""What waiting itself may end in; everything else is the job's."""


@with_servers
def progress(*, job_id: JobIdArgument, as_json: Json = False) -> None:
    """Print a job's progress, from what is kept to the job's end."""

    async def go() -> None:
        async with service() as jobs, aclosing(jobs.progress(job_id)) as updates:
            async for update in updates:
                if as_json:
                    print_json(update.model_dump(mode="json"))
                else:
                    screen().print(progress_line(update), soft_wrap=True)

    run(go())
