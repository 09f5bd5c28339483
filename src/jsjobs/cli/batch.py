"""`jsjobs batch`."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.table import Table

from jsjobs import JobService
from jsjobs.cli.bars import bar
from jsjobs.cli.connect import run, service
from jsjobs.cli.job_view import status_text
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import display, local_time, plain, print_json
from jsjobs.model.batch import BatchStatus
from jsjobs.model.errors import JobError
from jsjobs.model.job import Status
from jsjobs.model.words import things

app = typer.Typer()
_EXAMPLES = examples(
    "jsjobs batch 5f0c3a9be1d24c77",
    "jsjobs batch 5f0c3a9be1d24c77 --watch",
    "jsjobs batch 5f0c3a9be1d24c77 --json | jq -r '.ids[]'",
)
_LOOK_EVERY = 0.5
_SHARE = 4
"""A long list takes its time to count: of the time that goes by, one part in five is spent so."""


@app.command(epilog=_EXAMPLES)
@with_servers
def batch(
    *,
    batch_id: Annotated[str, typer.Argument(metavar="BATCH_ID", help="As `jsjobs submit TYPE -` said it.")],
    watch: Annotated[bool, typer.Option("--watch", help="Wait until all its jobs have ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show how far the jobs of a list are: how many have which status; --json tells their ids too."""

    async def go() -> None:
        async with service() as jobs:
            now = await jobs.batch(batch_id)
            if watch:
                now = await _watch(jobs, now, as_json=as_json)
            elif as_json:
                print_json(_as_data(now) | {"ids": now.ids})
            if not as_json:
                display(_table(now))

    run(go())


async def _watch(jobs: JobService, now: BatchStatus, *, as_json: bool) -> BatchStatus:
    """Each change as a line of JSON, or a bar; how it is in the end."""
    with bar(max(now.total, 1), "", shown=not as_json) as shown:
        async for seen in _changes(jobs, now):
            now = seen
            shown.show(done=now.ended, text=f"{now.ended:,} of {things(now.total, 'job')} ended")
            if as_json:
                print_json(_as_data(now))
    return now


async def _changes(jobs: JobService, now: BatchStatus) -> AsyncIterator[BatchStatus]:
    yield now
    took = 0.0
    while now.ended < now.total:
        await asyncio.sleep(max(_LOOK_EVERY, _SHARE * took))
        begun = time.monotonic()
        try:
            last, now = now, await jobs.batch(now.batch_id)
        except JobError as error:
            if not error.is_transient:
                raise
            continue  # an outage: the next look may succeed
        took = time.monotonic() - begun
        if now != last:
            yield now


def _as_data(now: BatchStatus) -> dict[str, Any]:
    return now.model_dump(mode="json", exclude={"ids"})


def _table(now: BatchStatus) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style="dim", no_wrap=True)
    facts.add_column()
    facts.add_row("batch", plain(now.batch_id, "bold"))
    facts.add_row("created", plain(local_time(now.created_at)))
    facts.add_row("jobs", f"{now.total}")
    for status in Status:
        if now.counts[status]:
            facts.add_row(status_text(status), f"{now.counts[status]}")
    if now.expired:
        facts.add_row("expired", f"{now.expired}")
    return facts
