"""The command line in processes of its own, forked from one that has imported it: a start costs no imports.

A process forked here is as any other: its own environment, folder, streams and signals. What only a cold start shows
(that a command imports what it needs) is for the tests that start the real executable.
"""

import array
import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

_PRELOADED = (
    "asyncpg.protocol",
    "jsjobs.cli.app",
    "nats.js.client",
    "rich.progress",
    "rich.traceback",
    "typer._adapters",
    "typer.rich_utils",
    "uvloop",
)


class ForkServer:
    """The process that forks; one for a whole test session."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="jsjobs-fork-")
        self._path = str(Path(self._folder.name, "socket"))
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(self._path)
            listener.listen(64)
            self._process = subprocess.Popen(
                [sys.executable, __file__, str(listener.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    async def start(
        self,
        *arguments: str,
        env: Mapping[str, str],
        cwd: Path | str,
        stdin: int = subprocess.DEVNULL,
        stdout: int = subprocess.PIPE,
        stderr: int = subprocess.PIPE,
        terminal: bool = False,
    ) -> "Forked":
        """Run `jsjobs` with these arguments; streams as `asyncio.create_subprocess_exec` takes them.

        `terminal`: its standard input becomes the terminal that controls it.
        """
        with contextlib.ExitStack() as given_away:
            ends = [_ends(number, given) for number, given in enumerate((stdin, stdout, stderr))]
            for theirs, _, is_new in ends:
                if is_new:
                    given_away.callback(os.close, theirs)
            line = socket.socket(socket.AF_UNIX)
            line.setblocking(False)
            loop = asyncio.get_running_loop()
            await loop.sock_connect(line, self._path)
            asked = {"arguments": arguments, "env": dict(env), "cwd": str(cwd), "terminal": terminal}
            files = array.array("i", [theirs for theirs, _, _ in ends])
            line.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, files)])
            reader, writer = await asyncio.open_unix_connection(sock=line)
            writer.write(json.dumps(asked).encode() + b"\n")
            pid = int(await reader.readline())
        streams = [
            None if own is None else await _stream(own, writes=number == 0) for number, (_, own, _) in enumerate(ends)
        ]
        return Forked(pid, reader, writer, *streams)


@dataclass
class Forked:
    """A process, with what tests use of `asyncio.subprocess.Process`."""

    pid: int
    _line: asyncio.StreamReader
    _keeps: asyncio.StreamWriter
    stdin: asyncio.StreamWriter | None
    stdout: asyncio.StreamReader | None
    stderr: asyncio.StreamReader | None
    returncode: int | None = None

    async def wait(self) -> int:
        if self.returncode is None:
            told = await self._line.read()
            if self.returncode is None:  # another may have waited too
                self.returncode = int(told)
                self._keeps.close()
        return self.returncode

    async def communicate(self, data: bytes | None = None) -> tuple[bytes, bytes]:
        if self.stdin is not None:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                self.stdin.write(data or b"")
                await self.stdin.drain()
            self.stdin.close()
        out, err = await asyncio.gather(*(_all_of(stream) for stream in (self.stdout, self.stderr)))
        await self.wait()
        return out, err

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _ends(number: int, given: int) -> tuple[int, int | None, bool]:
    """What the process gets for one stream, what we keep of it, and whether the first is to be closed here."""
    if given == subprocess.DEVNULL:
        return os.open(os.devnull, os.O_RDWR), None, True
    if given != subprocess.PIPE:
        return given, None, False
    read, write = os.pipe()
    return (read, write, True) if number == 0 else (write, read, True)


async def _stream(end: int, *, writes: bool) -> Any:
    loop, file = asyncio.get_running_loop(), os.fdopen(end, "wb" if writes else "rb", buffering=0)
    if writes:
        transport, protocol = await loop.connect_write_pipe(asyncio.streams.FlowControlMixin, file)
        return asyncio.StreamWriter(transport, protocol, None, loop)
    reader = asyncio.StreamReader(limit=2**20)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), file)
    return reader


async def _all_of(stream: asyncio.StreamReader | None) -> bytes:
    return b"" if stream is None else await stream.read()


# -- in the process that forks


def _serve(listener: socket.socket) -> NoReturn:
    import gc  # noqa: PLC0415 - of the server alone
    import importlib  # noqa: PLC0415 - as above

    for name in _PRELOADED:
        importlib.import_module(name)
    from jsjobs.cli.command_table import COMMANDS, imported  # noqa: PLC0415 - as above

    for name in COMMANDS:
        imported(name)
    sys.path[0] = str(Path(sys.executable).parent)  # as for the executable: nothing of the tests is found
    gc.freeze()  # what is here now stays shared
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for those that watch
    while True:
        line, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            _watch(line)
        line.close()


def _watch(line: socket.socket) -> NoReturn:
    """Start the process, tell its pid, and then how it ended."""
    _, files, _, _ = socket.recv_fds(line, 1, 3)
    with line.makefile("rb") as reader:
        asked = json.loads(reader.readline())
    child = os.fork()
    if child == 0:
        line.close()
        _become(asked, files)
    for file in files:
        os.close(file)
    line.sendall(f"{child}\n".encode())
    _, status = os.waitpid(child, 0)
    with contextlib.suppress(BrokenPipeError):
        line.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def _become(asked: dict[str, Any], files: list[int]) -> NoReturn:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    if asked["terminal"]:
        import fcntl  # noqa: PLC0415 - as above
        import termios  # noqa: PLC0415 - as above

        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    encoding = asked["env"].get("PYTHONIOENCODING")
    for number, mode in ((0, "r"), (1, "w"), (2, "w")):  # made anew: whether it is a terminal was asked at the start
        lines = 1 if number == 2 or os.isatty(number) else -1
        stream = os.fdopen(number, mode, buffering=lines, encoding=encoding, closefd=False)
        setattr(sys, ("stdin", "stdout", "stderr")[number], stream)
        setattr(sys, ("__stdin__", "__stdout__", "__stderr__")[number], stream)
    os.environ.clear()
    os.environ.update(asked["env"])
    time.tzset()
    os.chdir(asked["cwd"])
    from jsjobs.cli.app import main  # noqa: PLC0415 - as above

    sys.argv = ["jsjobs", *asked["arguments"]]
    main()
    raise AssertionError("main ends the process")


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
