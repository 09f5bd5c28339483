"""The process's own side: run one handler at a time, in the main thread, until its worker is gone."""

from __future__ import annotations

import fcntl
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from contextlib import suppress
from contextvars import copy_context
from inspect import isawaitable
from typing import Any, NoReturn

from jsjobs.error_text import in_bounds, text_of
from jsjobs.handlers.context import JobContext
from jsjobs.handlers.failure import MOST_NAME, describe
from jsjobs.handlers.importable import MAX_BODY, load
from jsjobs.handlers.registry import Registration, read_handler
from jsjobs.handlers.result_check import discard
from jsjobs.model.checks import shortened
from jsjobs.model.context import RequestContext, enter_context
from jsjobs.model.errors import JobError, clipped
from jsjobs.model.job import Priority
from jsjobs.model.retry import Snooze
from jsjobs.model.trace import Trace
from jsjobs.worker.processes import frames

_INTERVAL = 0.05
"""Seconds between two progress frames, at least: frequent reports are joined, and the latest counts."""
_LEAVING = 1.0
"""Seconds that an idle process gets to end after its worker has closed the channel."""
_TRACE_CHARACTERS = 16_000


def main() -> None:
    """Serve the worker at the other end of two sockets, channel and lifeline, whose numbers are the arguments."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the worker decides what is to end
    channel, lifeline = (int(number) for number in sys.argv[1:])
    for number in (channel, lifeline):
        os.set_inheritable(number, False)
    sys.argv[1:] = []
    # Nothing is ever sent on the lifeline. When the worker is gone, the kernel ends this process and what its handlers
    # started, even native code that never lets another thread read the channel (on Linux; elsewhere the signal is
    # ignored).
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    try:
        with socket.socket(fileno=channel) as opened:
            Child(opened).serve()
    except OSError:
        os._exit(1)  # the worker is gone, or a handler closed what was not its own: there is nobody to tell


class Child:
    """One process and its channel."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._sending = threading.Lock()
        self._tasks: queue.SimpleQueue[frames.Frame | None] = queue.SimpleQueue()
        self._functions: dict[str, frames.Frame] = {}
        self._loaded: dict[str, Registration] = {}
        self._is_busy = False
        self._in_handler = False

    def serve(self) -> None:
        """Run the jobs that come, until the channel is closed."""
        signal.signal(signal.SIGTERM, self._terminate)
        threading.Thread(target=self._listen, name="jsjobs-channel", daemon=True).start()
        while (task := self._tasks.get()) is not None:
            copy_context().run(self._run, *task)

    def send(self, data: bytes) -> None:
        """Send a frame; any thread may call it."""
        with self._sending:
            self._channel.sendall(data)

    def _terminate(self, *_: object) -> None:
        if not self._in_handler:
            os._exit(128 + signal.SIGTERM)
        self._in_handler = False  # asked twice: at once
        raise SystemExit(128 + signal.SIGTERM)  # the handler's `finally` runs, for as long as the worker lets it

    # -- the thread that listens

    def _listen(self) -> None:
        with suppress(OSError, EOFError, ValueError):
            while True:
                head, body = self._receive()
                if head["kind"] == frames.FUNCTION:
                    self._functions[head["type"]] = (head, body)
                else:
                    self._is_busy = True
                    self._tasks.put((head, body))
        if not self._is_busy:
            self._tasks.put(None)
            time.sleep(_LEAVING)
        # The worker is gone, so another one gets its job soon. What the handler started ends too: they are one group.
        os.killpg(0, signal.SIGKILL)

    def _receive(self) -> frames.Frame:
        head, body = frames.lengths(self._exactly(frames.LENGTHS.size))
        return frames.parse_head(self._exactly(head)), self._exactly(body)

    def _exactly(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._channel.recv(min(count - len(parts), 2**20))
            if not part:
                raise EOFError
            parts += part
        return bytes(parts)

    # -- running

    def _run(self, head: dict[str, Any], payload: bytes) -> None:
        reports = Reports(self)
        try:
            registration = self._registration(head["type"])
            self.send(frames.frame(frames.BEGUN))
            answer = self._handle(registration, head, payload, reports)
        except SystemExit as error:
            _leave(error)
        except BaseException as error:  # noqa: BLE001 - a handler may raise anything, and costs only its own job
            answer = _failure(error)
        self._in_handler = False
        reports.close()
        _flush()
        self._is_busy = False
        self.send(answer)

    def _registration(self, job_type: str) -> Registration:
        if job_type not in self._loaded:
            head, data = self._functions[job_type]
            try:
                self._loaded[job_type] = read_handler(job_type, load(data, head["main"]))
            except Exception as error:
                raise JobError.from_processing(
                    f"the handler of {job_type} cannot be loaded in a new process: {describe(error)}"
                ) from error
        return self._loaded[job_type]

    def _handle(self, registration: Registration, head: dict[str, Any], payload: bytes, reports: Reports) -> bytes:
        told = head["context"]
        context = JobContext(**{**told, "priority": Priority(told["priority"])}, reporter=reports.report)
        request = head["request"]
        enter_context(RequestContext(**{**request, "trace": Trace(*request["trace"])}))
        self._in_handler = True
        value = registration.read_payload(payload)
        self.send(frames.frame(frames.CALLED))
        arguments = (value, context) if registration.takes_context else (value,)
        result = registration.write_result(_finished(registration.call(*arguments), registration.type))
        self._in_handler = False
        if result is not None and len(result) > MAX_BODY:
            raise JobError.from_validation(
                f"the result of {len(result)} bytes cannot be kept: no server takes a message of that size"
            )
        return frames.frame(frames.DONE, result or b"", has_result=result is not None)


def _finished(value: Any, job_type: str) -> Any:
    if isawaitable(value):
        discard(value)
        raise JobError.from_validation(
            f"the handler of {job_type} returned something to be awaited ({type(value).__name__}), and no event loop "
            "runs in its process: call asyncio.run in the handler, or leave out run_in"
        )
    return value


def _failure(error: BaseException) -> bytes:
    if isinstance(error, Snooze):
        return frames.frame(frames.SNOOZED, seconds=error.seconds)
    if isinstance(error, JobError):
        cause = describe(error.cause) if isinstance(error.cause, BaseException) else _text(error.cause)
        text, job_id = _text(error.message), _text(error.job_id)
        return frames.frame(frames.FAILED, reason=error.reason, text=text, job_id=job_id, cause=cause)
    # Without the frames of this module.
    place = error.__traceback__ and error.__traceback__.tb_next and error.__traceback__.tb_next.tb_next
    trace = "".join(traceback.format_exception(in_bounds(error.with_traceback(place))))[-_TRACE_CHARACTERS:]
    return frames.frame(
        frames.FAILED,
        error_type=shortened(type(error).__qualname__, MOST_NAME),
        text=describe(error),
        trace=trace.encode("utf-8", "backslashreplace").decode(),  # for a log, which no lone surrogate may break
    )


def _text(value: object) -> str | None:
    return None if value is None else clipped(str(value))


def _leave(asked: SystemExit) -> NoReturn:
    """Exit at once, as the handler asked: a thread that it left must not keep the process, and its job, alive."""
    if not isinstance(asked.code, int | None):
        print(text_of(asked), file=sys.stderr)  # noqa: T201 - as Python does it
    _flush()
    os._exit((asked.code or 0) & 0xFF if isinstance(asked.code, int | None) else 1)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(Exception):
            stream.flush()


class Reports:
    """Join the reports of one attempt to at most 20 a second; the handler never waits for the channel."""

    def __init__(self, child: Child) -> None:
        self._child = child
        self._latest: deque[tuple[float, str | None]] = deque(maxlen=1)
        self._is_closed = False
        self._is_new = threading.Event()
        self._sending = threading.Lock()
        self._thread: threading.Thread | None = None

    def report(self, pct: float, message: str | None) -> None:
        """Report progress; any thread of the handler may call it."""
        self._latest.append((pct, None if message is None else clipped(str(message))))
        if self._thread is None:
            self._thread = threading.Thread(target=self._pass_on, name="jsjobs-progress", daemon=True)
            self._thread.start()
        if not self._is_new.is_set():
            self._is_new.set()

    def _pass_on(self) -> None:
        with suppress(OSError):
            while not self._is_closed:
                self._is_new.wait()
                self._is_new.clear()
                self._send()
                time.sleep(_INTERVAL)

    def _send(self) -> None:
        with self._sending:
            if self._latest and not self._is_closed:
                pct, message = self._latest.popleft()
                self._child.send(frames.frame(frames.PROGRESS, pct=pct, message=message))

    def close(self) -> None:
        """Send the waiting report, if any, and no more: the attempt has ended, and its end is sent after this."""
        with suppress(OSError):
            self._send()
        with self._sending:
            self._is_closed = True
        self._is_new.set()
