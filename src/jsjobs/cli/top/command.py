"""`jsjobs top`: show what happens now, updated again and again."""

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing
from typing import Annotated, Any

import typer
from rich.console import Console, ConsoleDimensions
from rich.live import Live

from jsjobs.cli.durations import format_duration
from jsjobs.cli.errors import WrongUse
from jsjobs.cli.options import Json, duration_option, examples, with_servers
from jsjobs.cli.output import display, end_silence, print_json, screen
from jsjobs.cli.runtime import run, settings
from jsjobs.cli.top.keys import each_key
from jsjobs.cli.top.poller import Seen, looks
from jsjobs.cli.top.view import View, lines_of, picture, running_shown
from jsjobs.jetstream.client.errors import without_secrets
from jsjobs.settings import Config

app = typer.Typer()
_EXAMPLES = examples(
    "jsjobs top", "jsjobs top --interval 5s --namespace acme", "jsjobs top --count 1 --json | jq .running"
)

_LISTED = 20
"""Running jobs listed in a look where no screen limits them."""

_WIDTH, _HEIGHT = 80, 24
"""The size of a terminal that does not know its own."""
_INTERVAL = 1.0
_SHORTEST = 0.1

Interval = Annotated[float | None, duration_option("Time between refreshes [dim](default: 1s)[/]")]
Count = Annotated[int | None, typer.Option(help="Exit after this many refreshes.", min=1)]


@app.command(epilog=_EXAMPLES)
@with_servers
def top(*, interval: Interval = None, count: Count = None, as_json: Json = False) -> None:
    """Show queues, rates, running jobs and dead letters live, until you press `q` or Ctrl-C.

    Keys: `q` quits, `s` shows shards or running jobs, `p` partitions or running jobs, `o` puts the fullest first. In a
    pipe, each refresh is printed as lines.
    """
    every = _INTERVAL if interval is None else interval
    if every < _SHORTEST:
        raise WrongUse(f"--interval must be at least {format_duration(_SHORTEST)}")
    config = settings()
    if as_json:
        run(_print(config, every, count, lambda seen: print_json(seen.as_json())))
    elif not sys.stdout.isatty() or Console().is_dumb_terminal:
        run(_print(config, every, count, _print_lines))
    else:
        # A log line would break the picture, which itself shows what is wrong.
        logging.basicConfig(handlers=[logging.NullHandler()])
        run(_show(config, every, count))


async def _print(config: Config, interval: float, count: int | None, tell: Callable[[Seen], None]) -> None:
    async def go() -> None:
        async with aclosing(_some(looks(config, interval, lambda: _LISTED), count)) as every:
            async for seen in every:
                tell(seen)

    await _until_stopped(go(), _on_signals())


def _print_lines(seen: Seen) -> None:
    display(lines_of(seen))
    display()


async def _show(config: Config, interval: float, count: int | None) -> None:
    """Draw the picture on the whole terminal, at each look, key and change of size."""
    # Ctrl-\ is handled too: it would leave the terminal without a cursor and without echo.
    console, stop = screen(), _on_signals(signal.SIGQUIT)
    view = View(f"{without_secrets(config.nats_url)}  every {format_duration(interval)}")
    last: Seen | None = None

    def measured_height() -> int:
        # rich trusts COLUMNS and LINES in the environment, which do not change with the window.
        width, height = os.get_terminal_size(sys.stdout.fileno())
        console.size = ConsoleDimensions(width or _WIDTH, height or _HEIGHT)
        return console.height

    def draw() -> None:
        if last is not None:
            end_silence()
            height = measured_height()
            live.update(picture(last, view, console.width, height), refresh=True)

    def on_key(key: str) -> None:
        if key == "q":
            stop.set()
        else:
            view.press(key)
            draw()

    async def go() -> None:
        nonlocal last
        found = looks(config, interval, lambda: running_shown(measured_height()))
        async with aclosing(_some(found, count)) as every:
            async for seen in every:
                last = seen
                draw()

    with Live(console=console, screen=True, auto_refresh=False) as live, each_key(on_key):
        asyncio.get_running_loop().add_signal_handler(signal.SIGWINCH, draw)
        await _until_stopped(go(), stop)


async def _some(every: AsyncGenerator[Seen, None], count: int | None) -> AsyncGenerator[Seen, None]:
    """Yield the first `count` looks, or all of them."""
    number = 0
    async with aclosing(every):
        async for seen in every:
            yield seen
            number += 1
            if number == count:
                return


def _on_signals(*more: signal.Signals) -> asyncio.Event:
    """Return an event that signals set: they are how this ends, and no failure."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM, *more):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    return stop


async def _until_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Run the work until it ends by itself, or the stop is set.

    Raises:
        Exception: Whatever the work raises.
    """
    tasks = [asyncio.create_task(work), asyncio.create_task(stop.wait())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    ended = (await asyncio.gather(*tasks, return_exceptions=True))[0]
    if isinstance(ended, Exception):
        raise ended
