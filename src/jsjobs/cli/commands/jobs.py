"""Commands that follow single jobs: status, result, progress."""

import sys
from contextlib import aclosing
from typing import Annotated

import typer

from jsjobs.cli.commands.job_view import change_line, failed_as, print_status, progress_line
from jsjobs.cli.options import Json, duration_option, examples, with_servers
from jsjobs.cli.output import display, print_json, print_value
from jsjobs.cli.progress import bar
from jsjobs.cli.runtime import run, service
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, Status, failure

JobIdArgument = Annotated[
    str, typer.Argument(metavar="JOB_ID", help="The job's id, such as critical-1795318823879006.")
]
_ONE = "normal-1795318823879006"

app = typer.Typer()


@app.command(epilog=examples(f"jsjobs status {_ONE}", f"jsjobs status {_ONE} --watch --json"))
@with_servers
def status(
    *,
    job_id: JobIdArgument,
    watch: Annotated[bool, typer.Option("--watch", help="Print each change until the job has ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show everything that is known about a job."""

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
                        display(change_line(now, now.last_error or ""), soft_wrap=True)

    run(go())


@app.command(epilog=examples(f"jsjobs result {_ONE} --timeout 30s", f"jsjobs result {_ONE} | jq .total"))
@with_servers
def result(
    *,
    job_id: JobIdArgument,
    timeout: Annotated[float | None, duration_option("How long to wait [dim](default: for ever)[/]")] = None,
    as_json: Json = False,
) -> None:
    """Wait for a job to end, and print its result as JSON."""

    async def go() -> None:
        async with service() as jobs:
            try:
                value = await jobs.result(job_id, timeout)
            except JobError as error:
                raise failed_as(error) if error.reason not in _OWN_REASONS else error from None
            print_json(value) if as_json else print_value(value)

    run(go(), f"the end of job {job_id}")


_OWN_REASONS = {Reason.NOT_FOUND, Reason.RUNNER_UNAVAILABLE}
"""The reasons for which the waiting itself fails; every other reason is the job's own."""


@app.command(epilog=examples(f"jsjobs progress {_ONE}", f"jsjobs progress {_ONE} --json | jq .pct"))
@with_servers
def progress(*, job_id: JobIdArgument, as_json: Json = False) -> None:
    """Follow a job's progress until it ends: a bar on a terminal, a line for each update in a pipe.

    If the job fails or is cancelled, it prints the error and ends with exit code 1.
    """

    async def go() -> JobStatusResponse:
        async with service() as jobs:
            with bar(100, "no progress yet", shown=sys.stdout.isatty() and not as_json, stays=True) as shown:
                async with aclosing(jobs.progress(job_id)) as updates:
                    async for update in updates:
                        if as_json:
                            print_json(update.model_dump(mode="json"))
                        elif shown.is_shown:
                            shown.show(done=update.pct, text=update.message)
                        else:
                            display(progress_line(update), soft_wrap=True)
            return await jobs.status(job_id)

    ended = run(go(), f"progress of job {job_id}")
    if not as_json:
        display(change_line(ended, ""), soft_wrap=True)
    if ended.status is not Status.COMPLETE:
        raise failed_as(failure(ended))
