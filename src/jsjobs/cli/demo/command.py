"""`jsjobs demo`: show the whole story on real input and real servers in under a minute, and leave nothing behind."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

import jsjobs
from jsjobs import JobService
from jsjobs.cli.demo.checks import Check, check
from jsjobs.cli.demo.environment import DemoEnvironment, DemoError
from jsjobs.cli.demo.fixtures import DemoFiles, choose_files
from jsjobs.cli.demo.screen import Screen, counted
from jsjobs.cli.demo.story import UPLOADS, Story
from jsjobs.cli.demo.summary import next_steps, summarise
from jsjobs.cli.errors import Failed
from jsjobs.cli.output import talk
from jsjobs.cli.runtime import run
from jsjobs.embedded.errors import EmbeddedError
from jsjobs.model.errors import JobError
from jsjobs.postgres.errors import DatabaseError

DEADLINE_S = 120.0
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


app = typer.Typer()


@app.command()
def demo(
    folder: Annotated[
        Path | None,
        typer.Argument(
            help="The folder whose files are packed; without it, jsjobs' own sources. Nothing is written to it."
        ),
    ] = None,
) -> None:
    """Show jsjobs at work on real files and servers, in under a minute; needs no setup, leaves nothing behind.

    Every file of the folder is packed by a job, those of a subfolder in order; many uploads run side by side; one job
    fails and succeeds, one dies and is replayed, one hangs and is cancelled, one is delayed, one runs every second, a
    long one builds an archive. Everything is verified at the end: exit code 0 means that all of it ended so.
    """
    began = time.monotonic()
    chosen = choose_files(folder or Path(jsjobs.__file__).parent)
    screen = Screen()
    show = _Show(screen, chosen)
    run(show.run())
    if show.stopped_by is not None:
        talk("stopped: all processes have ended, and nothing is left on disk")
        raise typer.Exit(128 + show.stopped_by)
    if show.trouble:
        raise Failed(f"the demo did not end as it should: {show.trouble}")
    screen.show()
    screen.good(f"done in {time.monotonic() - began:.1f} s: all processes have ended, and nothing is left on disk")


class _Show:
    """One run of the demo, from the start of the first server to the removal of the last file."""

    def __init__(self, screen: Screen, chosen: DemoFiles) -> None:
        self._screen = screen
        self._chosen = chosen
        self._closing = False
        self.stopped_by: int | None = None
        """The signal that ended it."""
        self.trouble = ""
        """A description of what did not end as it should."""

    async def run(self) -> None:
        """Run the demo, and clean up whatever happens."""
        self._hear_signals()
        environment = DemoEnvironment()
        try:
            checks = await self._perform(environment)
            self.trouble = "; ".join(f"{check.text}: {check.wrong}" for check in checks if check.wrong)
        except asyncio.CancelledError:
            if self.stopped_by is None:
                raise
        except Exception as error:  # noqa: BLE001 - any error is reported in one line, and nothing is left behind
            self.trouble = _text(error)
            talk(environment.tail(), style="dim")
        finally:
            self._closing = True
            await environment.close()

    def _hear_signals(self) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def stop(number: int) -> None:
            if self.stopped_by is None and not self._closing:  # cleaning up is not interrupted
                self.stopped_by = number
                task.cancel()

        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, stop, number)

    async def _perform(self, environment: DemoEnvironment) -> list[Check]:
        screen = self._screen
        screen.act("Servers and processes")
        screen.say(f"starting NATS, Postgres, a worker and a router of its own in {environment.folder}")
        await environment.start_servers()
        streams = await environment.apply_streams()
        await environment.start_processes()
        screen.good(", ".join(f"{name} {pid}" for name, pid in environment.pids.items()))
        screen.say(f"{streams} streams and the dead-letter table were made; everything is in {environment.folder}")
        keeper = asyncio.create_task(environment.keep(screen.bad))
        story = asyncio.create_task(self._tell(environment))
        try:
            await asyncio.wait({keeper, story}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                keeper.result()
            if not story.done():
                raise DemoError(f"the demo did not end within {DEADLINE_S:g} s")
            return story.result()
        finally:
            for task in (keeper, story):
                task.cancel()
            await asyncio.wait({keeper, story})

    async def _tell(self, environment: DemoEnvironment) -> list[Check]:
        screen, chosen = self._screen, self._chosen
        async with JobService(environment.config) as jobs:
            story = Story(environment, screen, chosen, jobs)
            screen.act(f"{counted(len(chosen.files), 'file')} of {chosen.folder}, one job each")
            for what in chosen.left_out:
                screen.say(f"left out: {what}")
            await story.files()
            screen.act(f"{UPLOADS} uploads, side by side")
            await story.side_by_side()
            await story.quiet()
            screen.act("One job is dead: it failed three times")
            await story.letter()
            screen.act("One job hangs, and is cancelled")
            await story.cancelled()
            screen.act("One job is delayed, and one runs every second")
            await story.scheduled_jobs()
            screen.act("One long job, with progress")
            await story.archived()
            checks = await check(environment, chosen, story.record, jobs, story.archive)
        summarise(screen, story.record, checks)
        next_steps(screen, environment.app)
        return checks


def _text(error: Exception) -> str:
    known = isinstance(error, JobError | DatabaseError | EmbeddedError | DemoError | OSError) and str(error)
    return str(error) if known else f"{type(error).__name__}: {error}"
