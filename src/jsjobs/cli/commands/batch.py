"""`jsjobs batch`."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Annotated, Any

import typer
from rich.table import Table

from jsjobs import JobService
from jsjobs.cli.commands.job_view import status_text
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import display, local_time, plain, print_json
from jsjobs.cli.progress import bar
from jsjobs.cli.runtime import run, service
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
"""The pause after a count, as a multiple of the count's own time: a long list takes a while to count, and so at most a
fifth of the time goes into counting."""


@app.command(epilog=_EXAMPLES)
@with_servers
def batch(
    *,
    batch_id: Annotated[
        str, typer.Argument(metavar="BATCH_ID", help="The batch id that `jsjobs submit TYPE -` printed.")
    ],
    watch: Annotated[bool, typer.Option("--watch", help="Wait until all its jobs have ended.")] = False,
    as_json: Json = False,
) -> None:
    """Show how many jobs of a batch have which status; --json lists their ids too."""

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
    """Show each change of a batch as a line of JSON, or in a bar, and return its last status."""
    with bar(max(now.total, 1), "", shown=not as_json) as shown:
        async for seen in follow_changes(jobs, now):
            now = seen
            shown.show(done=now.ended, text=f"{now.ended:,} of {things(now.total, 'job')} ended")
            if as_json:
                print_json(_as_data(now))
    return now


async def follow_changes(jobs: JobService, now: BatchStatus) -> AsyncIterator[BatchStatus]:
    """Yield the status of a batch as it is now, then each one that differs, until all of its jobs have ended."""
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
