"""The processes of a worker: started when they are needed, kept for the next job, replaced when they die."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from jsjobs.model.context import current_context
from jsjobs.model.errors import JobError
from jsjobs.worker.context import JobContext
from jsjobs.worker.processes.loading import check_not_importing, pickled
from jsjobs.worker.processes.process import Process, ProcessDied

_OURS = {"cancelled", "_report"}
"""What of a context stays here: a process has its own."""
_Function = Callable[..., Any]


class Processes:
    """Runs handlers in processes, one at a time in each."""

    def __init__(self, limit: int, functions: Mapping[str, bytes] | None = None) -> None:
        """No process yet.

        Args:
            limit: How many there may be at once.
            functions: Handlers that are pickled already, by type; another is at its first job, once for all processes.

        Raises:
            JobError: `Validation`, in a process that is just importing the script of its worker.
        """
        check_not_importing()
        self._functions = dict(functions or {})
        self._places = asyncio.Semaphore(limit)
        self._all: set[Process] = set()
        self._idle: list[Process] = []
        self._is_closed = False

    async def run(
        self,
        function: _Function,
        payload: bytes,
        context: JobContext,
        *,
        begun: Callable[[], None],
        called: Callable[[], None],
    ) -> bytes | None:
        """Run a handler on a payload; an interruption ends its process first.

        Args:
            function: The handler.
            payload: JSON, not looked at here.
            context: What the handler is told; takes its progress.
            begun: Called when the handler's time begins, after the wait for a process and its start.
            called: Called when the payload is read, and the handler called.

        Returns:
            The result as JSON; None where there is none.

        Raises:
            HandlerFailed: If the handler raised something.
            Snooze: If the handler raised that.
            JobError: If the handler raised one, or its process died, which costs only this attempt.
        """
        known = {field.name: getattr(context, field.name) for field in fields(context) if field.name not in _OURS}
        told = {"context": known, "request": current_context()._asdict()}
        data = self._functions.get(context.type)
        if data is None:
            data = self._functions[context.type] = pickled(context.type, function)
        async with self._places:
            while True:
                process, is_new = await self._take()
                try:
                    return await process.run(
                        context.type,
                        data,
                        payload,
                        told,
                        begun=begun,
                        called=called,
                        report=context._report,  # noqa: SLF001 - the same as the handler's own reports
                    )
                except ProcessDied as death:
                    if is_new or death.begun:
                        raise
                    # It had died while it was idle, and this is how it shows: the job never began there, and begins
                    # nowhere else if it is interrupted meanwhile.
                    await process.end()
                finally:
                    if process.is_idle and process.is_alive and not self._is_closed:
                        self._idle.append(process)
                    else:
                        with suppress(asyncio.CancelledError):  # what the handler came to stands
                            await process.end()

    async def _take(self) -> tuple[Process, bool]:
        if self._is_closed:
            raise JobError.from_runner_unavailable("the worker has stopped")
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process, False
        process = Process(self._forget)
        try:
            await process.start()
        except (OSError, RuntimeError) as error:  # no sockets, or no threads, are left
            text = f"no process could be started for the handler: {error}"
            raise JobError.from_runner_unavailable(text, cause=error) from None
        self._all.add(process)
        return process, True

    def _forget(self, process: Process) -> None:
        self._all.discard(process)
        if process in self._idle:
            self._idle.remove(process)

    async def close(self) -> None:
        """End all processes, idle ones in good order."""
        self._is_closed = True
        await asyncio.gather(*(process.leave() for process in self._all))
