"""Print the demo: live in a terminal, as plain lines everywhere else."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from rich.console import Console, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table
from rich.text import Text

from jsjobs.cli.output import end_silence, plain

LINE_EVERY_S = 2.0
PER_SECOND = 12
STEP_PCT = 25.0
NAME_WIDTH = 30


class Screen:
    """The screen that the story is printed on."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self._marks = "✓✗" if "utf" in self.console.encoding.lower() else "+!"
        self.live = self.console.is_terminal and sys.stdout.isatty() and not self.console.is_dumb_terminal

    def show(self, *what: RenderableType) -> None:
        """Print tables and other renderables, or an empty line."""
        self.console.print(*what)

    def act(self, title: str) -> None:
        """Begin a part of the story."""
        end_silence()
        self.console.print()
        self.console.print(Text(title, style="bold cyan"))

    def say(self, text: str, *, mark: str = " ", style: str = "") -> None:
        """Print one sentence: wrapped with an indent in a terminal, on one line elsewhere."""
        words = plain(text, "" if mark.strip() else style)
        if not self.live:
            self.line(Text.assemble((f"{mark} ", style), words))
            return
        grid = Table.grid(padding=(0, 1, 0, 0))
        grid.add_row(Text(mark, style=style), words)
        self.console.print(grid)

    def line(self, text: Text) -> None:
        """Print one line without breaking it: text to be copied must stay whole."""
        self.console.print(text, soft_wrap=True)

    def good(self, text: str) -> None:
        """Print that something went as it should."""
        self.say(text, mark=self._marks[0], style="green")

    def bad(self, text: str) -> None:
        """Print that something did not go as it should."""
        self.say(text, mark=self._marks[1], style="bold red")

    @asynccontextmanager
    async def board(self, draw: Callable[[], RenderableType], line: Callable[[], str]) -> AsyncIterator[None]:
        """Show something that changes: redrawn in a terminal, elsewhere a line now and then and the last state."""
        if self.live:
            with Live(get_renderable=draw, console=self.console, refresh_per_second=PER_SECOND):
                yield
            return
        lines = asyncio.ensure_future(self._lines(line))
        try:
            yield
        finally:
            lines.cancel()
            await asyncio.wait({lines})
        self.show(draw())

    @contextmanager
    def bar(self, what: str) -> Iterator[Callable[[float, str], None]]:
        """Show progress, and yield a function that updates it with a percentage and a text."""
        if not self.live:
            yield self._steps(what)
            return
        now = TextColumn("{task.fields[now]}", markup=False)
        columns = (TextColumn("  {task.description}"), BarColumn(), TaskProgressColumn(), now)
        with Progress(*columns, console=self.console) as progress:
            task = progress.add_task(what, total=100, now="")
            yield lambda pct, now: progress.update(task, completed=pct, now=plain(now).plain[-NAME_WIDTH:])

    async def _lines(self, line: Callable[[], str]) -> None:
        while True:
            await asyncio.sleep(LINE_EVERY_S)
            self.say(line())

    def _steps(self, what: str) -> Callable[[float, str], None]:
        due = 0.0

        def step(pct: float, now: str) -> None:
            nonlocal due
            if pct >= due:
                due = pct - pct % STEP_PCT + STEP_PCT
                self.say(f"{what} {pct:.0f}% {now}")

        return step


def counted(number: int, what: str) -> str:
    """Return a number with its noun, such as `1 file` or `2 files`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"
