"""`jsjobs demo`: the whole story on real input and real servers, in under a minute, and nothing left behind."""

import asyncio
import signal
import time
from pathlib import Path
from typing import Annotated

import typer

import jsjobs
from jsjobs import JobService
from jsjobs.cli.connect import run
from jsjobs.cli.demo_story.checks import Check, check
from jsjobs.cli.demo_story.choice import Choice, choose
from jsjobs.cli.demo_story.screen import Screen, counted
from jsjobs.cli.demo_story.stage import Stage, StageError
from jsjobs.cli.demo_story.story import Story
from jsjobs.cli.demo_story.summary import next_steps, summarise
from jsjobs.cli.output import talk
from jsjobs.cli.problems import Failed
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
        typer.Argument(help="Whose files to pack; without it, jsjobs' own sources. Nothing is written to it."),
    ] = None,
) -> None:
    """Show the whole story on real files and real servers, in under a minute; nothing to install, nothing left behind.

    Every file of the folder is packed by a job; one job fails and succeeds, one dies and is replayed, one hangs and is
    cancelled, one is delayed, one comes every second, a long one builds an archive. Everything is verified at the end:
    exit code 0 only if all of it ended so.
    """
    began = time.monotonic()
    choice = choose(folder or Path(jsjobs.__file__).parent)
    screen = Screen()
    show = _Show(screen, choice)
    run(show.run())
    if show.stopped_by is not None:
        talk("stopped: all processes have ended, and nothing is left on disk")
        raise typer.Exit(128 + show.stopped_by)
    if show.trouble:
        raise Failed(f"the demo did not end as it should: {show.trouble}")
    screen.show()
    screen.good(f"done in {time.monotonic() - began:.1f} s: all processes have ended, and nothing is left on disk")


class _Show:
    """One performance, from the first server's start to the last file's removal."""

    def __init__(self, screen: Screen, choice: Choice) -> None:
        self._screen = screen
        self._choice = choice
        self._closing = False
        self.stopped_by: int | None = None
        """The signal that ended it."""
        self.trouble = ""
        """What did not end as it should."""

    async def run(self) -> None:
        """Perform, and clear the stage whatever happens."""
        self._hear_signals()
        stage = Stage()
        try:
            checks = await self._perform(stage)
            self.trouble = "; ".join(f"{check.text}: {check.wrong}" for check in checks if check.wrong)
        except asyncio.CancelledError:
            if self.stopped_by is None:
                raise
        except Exception as error:  # noqa: BLE001 - whatever it is, it is said in one line, and nothing stays behind
            self.trouble = _text(error)
            talk(stage.tail(), style="dim")
        finally:
            self._closing = True
            await stage.close()

    def _hear_signals(self) -> None:
        task, loop = asyncio.current_task(), asyncio.get_running_loop()
        assert task is not None

        def stop(number: int) -> None:
            if self.stopped_by is None and not self._closing:  # clearing up is not interrupted
                self.stopped_by = number
                task.cancel()

        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
                loop.add_signal_handler(number, stop, number)

    async def _perform(self, stage: Stage) -> list[Check]:
        screen = self._screen
        screen.act("Servers and processes")
        screen.say(f"starting NATS, Postgres, a worker and a router of its own in {stage.folder}")
        await stage.start_servers()
        streams = await stage.apply_streams()
        await stage.start_processes()
        screen.good(", ".join(f"{name} {pid}" for name, pid in stage.pids.items()))
        screen.say(f"{streams} streams and the dead-letter table were made; everything is in {stage.folder}")
        keeper = asyncio.create_task(stage.keep(screen.bad))
        story = asyncio.create_task(self._tell(stage))
        try:
            await asyncio.wait({keeper, story}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
            if keeper.done():
                keeper.result()
            if not story.done():
                raise StageError(f"it had not ended after {DEADLINE_S:g} s")
            return story.result()
        finally:
            for task in (keeper, story):
                task.cancel()
            await asyncio.wait({keeper, story})

    async def _tell(self, stage: Stage) -> list[Check]:
        screen, choice = self._screen, self._choice
        async with JobService(stage.config) as jobs:
            story = Story(stage, screen, choice, jobs)
            screen.act(f"{counted(len(choice.files), 'file')} of {choice.folder}, one job each")
            for what in choice.left_out:
                screen.say(f"left out: {what}")
            await story.files()
            await story.quiet()
            screen.act("One job is dead: it failed three times")
            await story.letter()
            screen.act("One job hangs, and is cancelled")
            await story.cancelled()
            screen.act("One job is delayed, and one comes every second")
            await story.in_time()
            screen.act("One long job, with progress")
            await story.archived()
            checks = await check(stage, choice, story.told, jobs, story.archive)
        summarise(screen, story.told, checks)
        next_steps(screen, stage.app)
        return checks


def _text(error: Exception) -> str:
    known = isinstance(error, JobError | DatabaseError | EmbeddedError | StageError | OSError) and str(error)
    return str(error) if known else f"{type(error).__name__}: {error}"
