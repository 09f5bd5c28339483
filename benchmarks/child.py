"""Run one process of a benchmark: a worker or a submitter. The harness starts it; `harness/processes.py` says how.

    python benchmarks/child.py SIDE ACTION PLACE

It says `ready` once it has imported what it needs, begins at the first line on its standard input, prints its findings as
JSON, and ends at once when that input ends: with the harness, whatever becomes of that.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any

import uvloop
from harness import catalogue
from harness.meter import Bell, Meter
from harness.side import WINDOW, Client, Handle, Place, Side


async def prepare(side: Side, place: Place) -> dict[str, Any]:
    await side.prepare(place)
    return {}


async def fill(side: Side, place: Place) -> dict[str, Any]:
    await side.fill(place)
    return {}


async def drain(side: Side, place: Place, *, alone: bool = True) -> dict[str, Any]:
    """Run a worker until every job was handled."""
    meter = Meter(place.jobs)
    await _beside_worker(side, place, meter.tick, meter.wait(alone=alone))
    return meter.report()


async def share(side: Side, place: Place) -> dict[str, Any]:
    """Run a worker beside other processes until no more jobs come."""
    return await drain(side, place, alone=False)


async def serve(side: Side, place: Place) -> dict[str, Any]:
    """Run a worker that tells the submitter of each job."""
    await _beside_worker(side, place, Bell(place.home).ring, asyncio.Event().wait())
    return {}


async def send(side: Side, place: Place) -> dict[str, Any]:
    """Submit one job at a time, each once the one before has started; seconds to the start, then of others to the result.

    Who waits for a result asks the server for it meanwhile, which a side that keeps none never does: starts are of jobs
    that are only submitted.
    """
    bell = Bell(place.home)
    await bell.listen()
    async with side.client(place) as client:
        starts = [(await _timed(client.submit, bell))[1] for _ in range(place.jobs)]
        results = [(await _timed(client.call, bell))[0] for _ in range(place.jobs if side.results else 0)]
    return {"starts": starts, "results": results}


async def _timed(send: Callable[[Any], Awaitable[Any]], bell: Bell) -> tuple[float, float]:
    """Return the seconds it takes to submit a job, or to submit it and get its result, and until its handler is called."""
    begin = time.time()
    await send({"sent": begin})
    return time.time() - begin, await bell.next()


async def calls(_: Side, place: Place) -> dict[str, float]:
    """Count what a job costs jsjobs."""
    from harness.counting import count  # noqa: PLC0415 - it is for jsjobs alone

    return await count(place)


async def enqueue(side: Side, place: Place, way: str) -> dict[str, Any]:
    """Submit jobs that nobody runs, and return how many per second, and the CPU that each takes."""
    payloads = [place.payload] * place.jobs
    await side.prepare(place)
    async with side.client(place) as client:
        await _submit(client, way, payloads[: place.jobs // 10])
        begin, cpu = time.perf_counter(), time.process_time()
        await _submit(client, way, payloads)
        took = time.perf_counter() - begin
        return {"rate": place.jobs / took, "cpu": (time.process_time() - cpu) / place.jobs}


async def _submit(client: Client, way: str, payloads: list[Any]) -> None:
    if way == "one by one":
        for payload in payloads:
            await client.submit(payload)
        return
    send = client.submit_many if way == "batches" else client.pipeline
    for start in range(0, len(payloads), WINDOW):
        await send(payloads[start : start + WINDOW])


async def _beside_worker(side: Side, place: Place, handle: Handle, until: Any) -> None:
    """Run a worker until something else has ended; a worker that ends first has failed."""
    worker, ending = asyncio.ensure_future(side.work(place, handle)), asyncio.ensure_future(until)
    await asyncio.wait((worker, ending), return_when=asyncio.FIRST_COMPLETED)
    if not ending.done():
        worker.result()
        sys.exit("the worker ended too early")


def _watch_input() -> None:
    sys.stdin.read()
    os._exit(1)


def _log(place: Place) -> str | None:
    return f"{place.home}/worker.log" if place.failing else None


def _keep_output() -> Callable[[str], None]:
    """Keep standard output for findings: what libraries print there goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    return lambda text: print(text, file=out, flush=True)


async def _run(found: Any, say: Callable[[str], None]) -> None:
    say(json.dumps(await found))
    if "OTEL_EXPORTER_OTLP_ENDPOINT" in os.environ:
        atexit._run_exitfuncs()  # noqa: SLF001 - sends the last spans
    # Before the loop's end, which would wait for what the libraries left running.
    os._exit(0)


def main() -> None:
    """Get ready, wait for the word, run and report."""
    name, action, text = sys.argv[1:]
    asked = json.loads(text)
    way = asked.pop("way", "")
    place = Place(**asked)
    # Failing jobs are logged, as a worker's are; they are too many for a terminal.
    logging.basicConfig(level=logging.WARNING if place.failing else logging.ERROR, filename=_log(place))
    say = _keep_output()
    side = catalogue.side(name)
    say("ready")
    sys.stdin.readline()
    threading.Thread(target=_watch_input, daemon=True).start()
    uvloop.run(_run(enqueue(side, place, way) if action == "enqueue" else _ACTIONS[action](side, place), say))


_ACTIONS = {
    "prepare": prepare,
    "fill": fill,
    "drain": drain,
    "share": share,
    "serve": serve,
    "send": send,
    "calls": calls,
}


if __name__ == "__main__":
    main()
