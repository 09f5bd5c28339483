"""A command at a terminal, as somebody sits before it."""

import asyncio
import fcntl
import os
import pty
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from cli_process import JSJOBS, Cli

from facts import eventually


class Terminal:
    """What the command wrote, and the keys that are pressed."""

    def __init__(self, master: int, child: asyncio.subprocess.Process) -> None:
        self._master = master
        self._child = child
        self.said = ""
        """All of it."""
        self.written = ""
        """What was not waited for yet."""

    async def shows(self, text: str) -> str:
        """Wait until it shows this, after what was waited for before; what it showed until then."""
        await eventually(lambda: text in self.written)
        before, _, self.written = self.written.partition(text)
        return before

    async def next_between(self, begin: str, end: str) -> str:
        """What it shows next between two texts."""
        await self.shows(begin)
        return await self.shows(end)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        termios.tcsetwinsize(self._master, (lines, columns))

    def is_raw(self) -> bool:
        """Whether keys come singly, unseen."""
        return not termios.tcgetattr(self._master)[3] & (termios.ICANON | termios.ECHO)

    async def ends(self) -> int:
        async with asyncio.timeout(20):
            return await self._child.wait()

    def read(self) -> None:
        try:
            text = os.read(self._master, 1 << 16).decode("utf-8", "replace")
        except OSError:  # the other end is closed
            asyncio.get_running_loop().remove_reader(self._master)
        else:
            self.said += text
            self.written += text


@asynccontextmanager
async def at_terminal(
    cli: Cli, *arguments: str, columns: int = 80, lines: int = 24, executable: str = JSJOBS, **env: str
) -> AsyncIterator[Terminal]:
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (lines, columns))
    child = await asyncio.create_subprocess_exec(
        executable,
        *arguments,
        cwd=cli.folder,
        env={**cli.env, "TERM": "xterm-256color", **env},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    terminal = Terminal(master, child)
    loop = asyncio.get_running_loop()
    loop.add_reader(master, terminal.read)
    try:
        yield terminal
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
        loop.remove_reader(master)
        os.close(slave)
        os.close(master)
