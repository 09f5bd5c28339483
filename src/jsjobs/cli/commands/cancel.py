"""`jsjobs cancel`."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.console import Console

from jsjobs import JobService
from jsjobs.cli.confirmation import Yes, ask_first
from jsjobs.cli.errors import judge
from jsjobs.cli.exit_codes import FAILED
from jsjobs.cli.options import Json, duration_option, examples, with_servers
from jsjobs.cli.output import complain, end_silence, print_json, talk
from jsjobs.cli.runtime import run, service
from jsjobs.model.errors import JobError
from jsjobs.model.job import JobStatusResponse
from jsjobs.model.words import things

app = typer.Typer()
_EXAMPLES = examples(
    "jsjobs cancel normal-1795318823879006",
    "jsjobs cancel high-1795318823879006 high-1795318823879007 --timeout 1m --json",
)
_AT_ONCE = 16
"""Jobs that are cancelled concurrently."""

_TIMEOUT = 30.0

Outcome = JobStatusResponse | JobError


@app.command(epilog=_EXAMPLES)
@with_servers
def cancel(
    *,
    job_ids: Annotated[list[str], typer.Argument(metavar="JOB_ID", help="The ids of waiting or running jobs.")],
    timeout: Annotated[
        float | None, duration_option("How long to wait for a running job to stop [dim](default: 30s)[/]")
    ] = None,
    yes: Yes = False,
    as_json: Json = False,
) -> None:
    """Cancel jobs: a waiting one never runs, a running one is interrupted.

    It ends once each job is cancelled, or cannot be cancelled any more, and says why.
    """
    if len(job_ids) > 1:
        ask_first(f"cancel {things(len(job_ids), 'job')}", yes=yes, named=True)
    outcomes = run(_cancel_all(job_ids, timeout or _TIMEOUT))
    if as_json:
        shown = [_as_data(job_id, outcome) for job_id, outcome in zip(job_ids, outcomes, strict=True)]
        print_json(shown if len(shown) > 1 else shown[0])
    for job_id, outcome in zip(job_ids, outcomes, strict=True):
        if isinstance(outcome, JobError):
            complain(judge(outcome)[0])
        elif not as_json:
            talk(f"{job_id}: cancelled, {_when(outcome)}")
    if any(isinstance(outcome, JobError) for outcome in outcomes):
        raise typer.Exit(FAILED)


async def _cancel_all(job_ids: list[str], timeout: float) -> list[Outcome]:
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(jobs: JobService, job_id: str) -> Outcome:
        async with gate:
            try:
                return await jobs.cancel(job_id, timeout)
            except JobError as error:
                return error

    with _waiting():
        async with service() as jobs:
            return list(await asyncio.gather(*(one(jobs, job_id) for job_id in job_ids)))


@contextmanager
def _waiting() -> Iterator[None]:
    if not sys.stderr.isatty():
        yield
        return
    end_silence()
    with Console(stderr=True).status("until the job has stopped; Ctrl-C stops waiting, but not the cancellation"):
        yield


def _when(status: JobStatusResponse) -> str:
    before = [item.status for item in status.history][-2:-1]
    if not status.attempts:
        return "it never ran"
    attempt = f"attempt {status.attempts} of {status.max_attempts}"
    return f"while it waited after {attempt}" if before == ["queued"] else f"in {attempt}"


def _as_data(job_id: str, outcome: Outcome) -> dict[str, Any]:
    if isinstance(outcome, JobError):
        return {"job_id": job_id, "error": outcome.message, "reason": outcome.reason}
    return outcome.model_dump(mode="json")
