"""`jsjobs reschedule`."""

from datetime import datetime
from typing import Annotated

import typer

from jsjobs.cli.errors import WrongUse
from jsjobs.cli.options import Json, duration_option, examples, moment_option, with_servers
from jsjobs.cli.output import local_time, print_json, talk
from jsjobs.cli.runtime import run, service
from jsjobs.model.job import JobStatusResponse

app = typer.Typer()
_EXAMPLES = examples(
    "jsjobs reschedule at-3f9c2d71b5e8a604 --delay 2h",
    "jsjobs reschedule at-3f9c2d71b5e8a604 --at 2026-12-24T18:00:00Z --json",
    "jsjobs reschedule at-3f9c2d71b5e8a604 --now",
    "jsjobs reschedule normal-parallel-1795318823879006 --now",
)


@app.command(epilog=_EXAMPLES)
@with_servers
def reschedule(
    *,
    job_id: Annotated[str, typer.Argument(metavar="JOB_ID", help="The id of a delayed job.")],
    delay: Annotated[float | None, duration_option("Run it after this time, such as 2h.")] = None,
    at: Annotated[datetime | None, moment_option("Run it at this time, such as 2026-12-24T18:00:00Z.")] = None,
    now: Annotated[bool, typer.Option("--now", help="Run it now.")] = False,
    as_json: Json = False,
) -> None:
    """Move a delayed job that is not due yet to another time, or run it now.

    --now also wakes a job without an entity that waits for its next attempt: after a failure, or because it snoozed.
    """
    if sum((delay is not None, at is not None, now)) != 1:
        raise WrongUse("give one of --delay, --at and --now")

    async def go() -> JobStatusResponse:
        async with service() as jobs:
            return await (jobs.run_now(job_id) if now else jobs.reschedule(job_id, delay=delay, at=at))

    status = run(go())
    if as_json:
        print_json(status.model_dump(mode="json"))
    else:
        talk(f"{job_id}: due {'now' if now else f'at {local_time(status.scheduled_for)}'}")
