"""One process as its worker sees it: start it, talk to it, end it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

from jsjobs.handlers.failure import HandlerFailed
from jsjobs.handlers.importable import main_module, search_path
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.retry import Snooze
from jsjobs.safe_log import get_logger
from jsjobs.worker.processes import frames

logger = get_logger("jsjobs.worker")

_CODE = (
    "import sys; sys.path[:] = sys.argv[3:]; sys.argv[3:] = [];from jsjobs.worker.processes.child import main; main()"
)
KILL_AFTER = 0.05
"""Seconds from the request to end until the process is killed; whoever cancels a job waits for this."""
_LAST_WORDS = 1.0
"""Seconds between the end of a process and the end of its channel, at most, whichever comes first."""
LOADING = 120.0
"""Seconds that a process gets to start and import the handler: a module that hangs must not hold its job for ever."""
_CHUNK = 2**20


class ProcessDied(JobError):  # noqa: N818 - reads as what happened
    """The process ended before the handler did."""

    def __init__(self, message: str, *, begun: bool, cause: Exception) -> None:
        super().__init__(Reason.PROCESSING, message, cause=cause)
        self.begun = begun
        """Whether the handler had begun."""


class Process:
    """A process of this worker. It starts fresh: it is no fork of a program with threads, locks and connections.

    It gets a session of its own: Ctrl-C in the terminal reaches only the worker, and whatever a handler starts ends
    with its process. A thread of ours starts the process and waits for its end, so the event loop does neither.
    """

    def __init__(self, on_exit: Callable[[Process], None]) -> None:
        """Prepare a process without starting it.

        Args:
            on_exit: Called in the event loop once the process has ended, in whatever way.
        """
        self.is_idle = True
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._exit: asyncio.Future[int | Exception] = self._loop.create_future()
        self._popen: subprocess.Popen[bytes] | None = None
        self._asked: signal.Signals | None = None
        self._known: set[str] = set()

    async def start(self) -> None:
        """Open the channel and start the process; frames sent meanwhile wait in the channel."""
        with ExitStack() as opened:
            ours, theirs = map(opened.enter_context, socket.socketpair())
            self._lifeline, lifeline = map(opened.enter_context, socket.socketpair())
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_CHUNK)
            threading.Thread(target=self._live, args=(theirs, lifeline), name="jsjobs-process", daemon=True).start()
            opened.pop_all()

    @property
    def is_alive(self) -> bool:
        """Return whether it has not ended, as far as is known."""
        return not self._exit.done()

    # -- the thread that starts it and waits for its end

    def _live(self, *theirs: socket.socket) -> None:
        numbers = [one.fileno() for one in theirs]
        flags = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001 - as multiprocessing does
        command = [sys.executable, *flags, "-c", _CODE, *map(str, numbers), *search_path()]
        try:
            popen = subprocess.Popen(  # noqa: S603 - this interpreter
                command, stdin=subprocess.DEVNULL, pass_fds=numbers, start_new_session=True
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits to be told
            self._tell(self._exited, error)
            return
        finally:
            for one in theirs:
                one.close()
        self._tell(self._born, popen)
        self._tell(self._exited, popen.wait())

    def _tell(self, what: Callable[[Any], None], value: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(what, value)

    def _born(self, popen: subprocess.Popen[bytes]) -> None:
        self._popen = popen
        if self._asked is not None:
            self._reach(self._asked)

    def _exited(self, code: int | Exception) -> None:
        self._reach(signal.SIGKILL)  # what its handlers started ends too
        self._exit.set_result(code)
        self._lifeline.close()
        # What it had sent by then is still read, unless something that it started keeps the channel open.
        self._loop.call_later(0 if self.is_idle or self._asked else _LAST_WORDS, self._hang_up)
        self._on_exit(self)

    def _hang_up(self) -> None:
        self._writer.transport.abort()

    def _signal(self, number: signal.Signals) -> None:
        self._asked = number
        self._reach(number)

    def _reach(self, number: signal.Signals) -> None:
        if self._popen is not None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._popen.pid, number)

    # -- talking

    async def run(
        self,
        job_type: str,
        function: bytes,
        payload: bytes,
        told: dict[str, Any],
        *,
        begun: Callable[[], None],
        called: Callable[[], None],
        report: Callable[[float, str | None], None],
    ) -> bytes | None:
        """Run a handler; the caller must end the process unless `is_idle` is set afterwards.

        Args:
            job_type: The job's type.
            function: The pickled handler, for a process that does not have it yet.
            payload: The job's payload, as it came.
            told: The job's context and the request context.
            begun: Called when the handler's time begins.
            called: Called when the payload is read and the handler is called.
            report: Takes progress reports.

        Returns:
            The result as JSON; None if there is none.

        Raises:
            HandlerFailed: If the handler raised another exception.
            Snooze: If the handler raised it.
            JobError: If the handler raised one, or the process died or cannot load the handler.
        """
        has_begun = False
        if job_type not in self._known:
            self._writer.write(frames.frame(frames.FUNCTION, function, type=job_type, main=main_module()))
            self._known.add(job_type)
        self.is_idle = False
        self._writer.write(frames.frame(frames.RUN, payload, type=job_type, **told))
        try:
            async with asyncio.timeout(LOADING) as loading:
                while True:
                    head, body = await self._receive()
                    match head["kind"]:
                        case frames.BEGUN:
                            loading.reschedule(None)
                            has_begun = True
                            begun()
                        case frames.CALLED:
                            called()
                        case frames.PROGRESS:
                            report(head["pct"], head["message"])
                        case frames.DONE:
                            self.is_idle = True
                            return body if head["has_result"] else None
                        case _:
                            self.is_idle = True
                            raise _raised(head)
        except TimeoutError as error:
            text = f"the handler of {job_type} was not loaded by a new process within {LOADING:g} s"
            raise JobError.from_timeout(text, cause=error) from None
        except (asyncio.IncompleteReadError, OSError, ValueError, KeyError) as error:
            raise ProcessDied(await self._how_it_died(), begun=has_begun, cause=error) from None

    async def _receive(self) -> frames.Frame:
        head, body = frames.lengths(await self._reader.readexactly(frames.LENGTHS.size))
        return frames.parse_head(await self._reader.readexactly(head)), await self._reader.readexactly(body)

    async def _how_it_died(self) -> str:
        await asyncio.wait({self._exit}, timeout=_LAST_WORDS)
        if not self._exit.done():
            return "the handler broke the channel to its process, which was ended"
        code = self._exit.result()
        if isinstance(code, Exception):
            return f"no process could be started for the handler: {code}"
        if code >= 0:
            return f"the process of the handler died: exit code {code}"
        name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
        hint = ", as the system does where memory runs out" if name == "SIGKILL" else ""
        return f"the process of the handler died: killed by {name}{hint}"

    # -- ending

    async def end(self) -> None:
        """Terminate the process, and kill it soon after; it has ended when this returns or raises.

        Raises:
            CancelledError: If this was interrupted; the process has ended even then.
        """
        interrupted = False
        if self.is_alive:
            self._signal(signal.SIGTERM)
        timer = self._loop.call_later(KILL_AFTER, self._signal, signal.SIGKILL)
        while self.is_alive:
            try:
                await asyncio.wait({self._exit})
            except asyncio.CancelledError:
                interrupted = True
        timer.cancel()
        self._writer.close()
        if interrupted:
            raise asyncio.CancelledError

    async def leave(self) -> None:
        """End the process; let it exit by itself if it is idle."""
        if self.is_idle:
            self._writer.close()
            await asyncio.wait({self._exit}, timeout=_LAST_WORDS / 2)
        await self.end()


def _raised(head: dict[str, Any]) -> Exception:
    if head["kind"] == frames.SNOOZED:
        return Snooze(head["seconds"])
    if "reason" in head:
        return JobError(head["reason"], head["text"], job_id=head["job_id"], cause=head["cause"])
    return HandlerFailed(head["text"], head["error_type"], head["trace"])
