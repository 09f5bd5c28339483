"""The processes of a worker: started when they are needed, kept for the next job, replaced when they die.

jsjobs has its own pool because a process must be able to die at any moment without harm to the others.
`ProcessPoolExecutor` breaks as a whole, and the processes of pebble (5.2.3, tried) share two pipes and their locks. A
process that is killed while it sends its result leaves the lock locked; all others stand still for a minute, then die
too. Here each process has a socket of its own; nothing is shared and nothing is polled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import Any

from jsjobs.handlers.context import JobContext
from jsjobs.handlers.importable import check_not_importing, pickled
from jsjobs.model.context import current_context
from jsjobs.model.errors import JobError
from jsjobs.worker.processes.process import Process, ProcessDied

_OURS = {"cancelled", "reporter"}
"""Fields of a context that are not sent: a process has its own."""
_Function = Callable[..., Any]


class Processes:
    """Run handlers in processes, one at a time in each."""

    def __init__(self, limit: int, functions: Mapping[str, bytes] | None = None) -> None:
        """Start without any process.

        Args:
            limit: How many processes there may be at once.
            functions: Handlers that are pickled already, by type; others are pickled once, at their first job.

        Raises:
            JobError: `Validation`, in a process that is importing its worker's script at the moment.
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
            payload: The payload as JSON, which is not read here.
            context: The context of the handler, whose reporter takes its progress.
            begun: Called when the handler's time begins, after the wait for a process and its start.
            called: Called when the payload is read and the handler is called.

        Returns:
            The result as JSON; None if there is none.

        Raises:
            HandlerFailed: If the handler raised another exception.
            Snooze: If the handler raised it.
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
                        report=context.reporter,
                    )
                except ProcessDied as death:
                    if is_new or death.begun:
                        raise
                    # The process had died while idle, which shows only now. The job never began there, and begins in no
                    # other process if it is interrupted meanwhile.
                    await process.end()
                finally:
                    if process.is_idle and process.is_alive and not self._is_closed:
                        self._idle.append(process)
                    else:
                        with suppress(asyncio.CancelledError):  # the handler's outcome stands
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
        """End all processes; let idle ones exit by themselves."""
        self._is_closed = True
        await asyncio.gather(*(process.leave() for process in self._all))
