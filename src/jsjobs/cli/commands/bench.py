"""`jsjobs bench`: measure the user's own servers."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

import typer

from jsjobs import JobService
from jsjobs.cli.options import Json, examples, with_servers
from jsjobs.cli.output import display, plain, print_json, talk
from jsjobs.cli.progress import Bar, bar
from jsjobs.cli.runtime import run, settings
from jsjobs.cli.tables import headed_table
from jsjobs.jetstream.topology.reconciler import deploy, remove
from jsjobs.model.job import Priority, random_token
from jsjobs.model.words import things
from jsjobs.settings import Config

app = typer.Typer()
_EXAMPLES = examples("jsjobs bench", "jsjobs bench --jobs 20000 --size 1000 --json")

_BATCH = 1000
_PER_ENTITY = 50
"""The jobs of one entity, which are queued in one list: few, so that every shard has its share."""
_OVERHEAD = 2048
"""The most bytes that a queue holds for a job beside its payload."""
_PERCENT = 100

Row = dict[str, Any]


@app.command(epilog=_EXAMPLES)
@with_servers
def bench(
    *,
    jobs: Annotated[
        int, typer.Option(min=100, max=1_000_000, help="How many jobs of each lane to queue and drain.")
    ] = 5000,
    singles: Annotated[int, typer.Option(min=10, max=100_000, help="How many jobs to run one at a time.")] = 500,
    size: Annotated[int, typer.Option(min=1, max=800_000, help="Size of each payload, in bytes.")] = 100,
    as_json: Json = False,
) -> None:
    """Measure your servers: how fast jobs are queued, drained by a worker in this process, and run one at a time.

    Jobs without an entity run side by side, jobs with one in order. It works in a namespace of its own, with as many
    shards and copies as the settings say, and deletes it afterwards.
    """
    own = settings()
    room = max(2**20, (jobs + singles) * (size + _OVERHEAD))
    namespace = f"bench{random_token()}"
    changes = {"namespace": namespace, "queue_bytes": room, "lane_bytes": room, "database_url": None}
    config = own.model_copy(update=changes)

    async def go() -> list[Row]:
        async with _namespace(config):
            with bar(6 * _PERCENT, "") as shown:
                return await _measure(config, "x" * size, jobs, singles, shown)

    rows = run(go())
    if as_json:
        print_json(rows)
        return
    table = headed_table(("", "jobs", "jobs/s", "p50 ms", "p99 ms"), left={""})
    for row in rows:
        numbers = (f"{row['jobs']:,}", _shown(row["jobs_per_second"], ",.0f"), _shown(row["p50_ms"]))
        table.add_row(plain(row["what"]), *map(plain, numbers), plain(_shown(row["p99_ms"])))
    display(table)
    shards = sum(config.shards(priority) for priority in Priority)
    how_many = f"{things(config.concurrency, 'slot')}, {things(shards, 'shard')}, payloads of {things(size, 'byte')}"
    facts = f"one worker process, {how_many}, copies of each stream: {config.replicas}"
    talk(facts, style="dim")


@asynccontextmanager
async def _namespace(config: Config) -> AsyncIterator[None]:
    try:
        await deploy(config)
        yield
    finally:  # also after Ctrl-C
        await remove(config)


async def _measure(config: Config, payload: str, jobs: int, singles: int, shown: Bar) -> list[Row]:
    service, started, ended = JobService(config), list[float](), asyncio.Queue[None]()

    @service.handler("noop")
    async def noop(_payload: str) -> None:
        started.append(time.perf_counter())
        ended.put_nowait(None)

    async with service:
        rows = [
            await _rate(shown, 0, "queued one by one", singles, lambda: service.submit("noop", payload)),
            await _lists(shown, 1, service, payload, jobs),
            await _drain(shown, 2, "drained side by side", service, ended, jobs + singles),
        ]
        ordered = await _queue_ordered(shown, 3, service, payload, _shares(config, jobs))
        rows.append(await _drain(shown, 4, "drained in order", service, ended, ordered))
        async with service.worker():
            rows += await _one_at_a_time(shown, 5, service, payload, singles, started)
    return rows


async def _drain(shown: Bar, part: int, what: str, service: JobService, ended: asyncio.Queue[None], total: int) -> Row:
    begin = time.perf_counter()
    async with service.worker():
        for number in range(total):
            await ended.get()
            _show(shown, part, f"{what}, with history and results", number + 1, total)
        return _row(what, total, time.perf_counter() - begin)


async def _rate(shown: Bar, part: int, what: str, count: int, do: Callable[[], Awaitable[object]]) -> Row:
    begin, times = time.perf_counter(), list[float]()
    for number in range(count):
        before = time.perf_counter()
        await do()
        times.append(time.perf_counter() - before)
        _show(shown, part, what, number + 1, count)
    return _row(what, count, time.perf_counter() - begin, times)


def _shares(config: Config, jobs: int) -> dict[Priority, int]:
    """Return the number of jobs of each priority, such that every shard gets equally many."""
    shards = {priority: config.shards(priority) for priority in Priority}
    return {priority: max(1, jobs * count // sum(shards.values())) for priority, count in shards.items()}


async def _lists(shown: Bar, part: int, service: JobService, payload: str, total: int) -> Row:
    begin, what = time.perf_counter(), f"queued in lists of {_BATCH:,}"
    for start in range(0, total, _BATCH):
        await service.submit("noop", [payload] * min(_BATCH, total - start))
        _show(shown, part, what, start + _BATCH, total)
    return _row(what, total, time.perf_counter() - begin)


async def _queue_ordered(shown: Bar, part: int, service: JobService, payload: str, shares: dict[Priority, int]) -> int:
    """Queue jobs of many entities; return how many."""
    done, total = 0, sum(shares.values())
    for priority, count in shares.items():
        for start in range(0, count, _PER_ENTITY):
            jobs = [payload] * min(_PER_ENTITY, count - start)
            done += len(await service.submit("noop", jobs, priority=priority, entity=f"e{start}"))
            _show(shown, part, "queued, with entities", done, total)
    return total


async def _one_at_a_time(
    shown: Bar, part: int, service: JobService, payload: str, count: int, started: list[float]
) -> list[Row]:
    starts, results = list[float](), list[float]()
    for number in range(count):
        before = time.perf_counter()
        await service.result(await service.submit("noop", payload))
        results.append(time.perf_counter() - before)
        starts.append(started[-1] - before)
        _show(shown, part, "one at a time", number + 1, count)
    return [
        _row("submit to the handler's start", count, None, starts),
        _row("submit to the result", count, None, results),
    ]


def _show(shown: Bar, part: int, what: str, done: int, total: int) -> None:
    shown.show(done=(part + min(1, done / total)) * _PERCENT, text=what)


def _row(what: str, count: int, seconds: float | None, times: list[float] | None = None) -> Row:
    quantiles = statistics.quantiles(times, n=100) if times else None
    return {
        "what": what,
        "jobs": count,
        "jobs_per_second": None if seconds is None else round(count / seconds, 1),
        "p50_ms": None if quantiles is None else round(quantiles[49] * 1000, 3),
        "p99_ms": None if quantiles is None else round(quantiles[98] * 1000, 3),
    }


def _shown(value: float | None, form: str = ".2f") -> str:
    return "" if value is None else format(value, form)
