"""Looks whether letters reach a router: whether the consumer that delivers them is there."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.declared import router_faults
from jsjobs.jetstream.subjects import Names
from jsjobs.model.errors import JobError
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.router")

_INTERVAL = 5.0
_FAST = 0.5  # while something is missing


class Lookout:
    """Asks the server for the router's consumer, now and then, and keeps the answer."""

    def __init__(self, connection: Connection, names: Names) -> None:
        self._connection = connection
        self._names = names
        self._consumer = f"CONSUMER.INFO.{names.dead_stream}.{names.router}"
        self._missing = f"{names.dead_stream} has no consumer {names.router}: run `jsjobs streams apply`"
        self._soon = asyncio.Event()
        self._stopped = False
        self._task: asyncio.Task[None] | None = None
        self.why_not_ready = "the router has not started"
        """Why letters do not reach the router, in words; empty while they do."""

    async def start(self) -> None:
        """Look, then go on looking.

        Raises:
            JobError: If the server refuses the question; one that does not answer now is asked again later.
        """
        try:
            self._say(await self._look())
        except JobError as error:
            if not error.is_transient:
                raise
            self._say(_unanswered(error))
        self._stopped = False
        self._connection.on_reconnect.append(self._soon.set)
        self._task = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is None:
            return
        self._stopped = True
        self.why_not_ready = "the router has stopped"
        self._connection.on_reconnect.remove(self._soon.set)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._task = None

    async def _watch(self) -> None:
        while not self._stopped:  # a cancellation alone can be lost: Python 3.11's `wait_for` swallows some
            with suppress(TimeoutError):
                async with asyncio.timeout(_FAST if self.why_not_ready else _INTERVAL):
                    await self._soon.wait()
            self._soon.clear()
            try:
                self._say(await self._look())
            except JobError as error:
                self._say(_unanswered(error))
            except Exception:
                logger.exception("the lookout failed; it looks again")
                self._say("the lookout failed")

    async def _look(self) -> str:
        info = await find(self._connection, self._consumer)
        if info is None:
            return self._missing
        faults = router_faults(self._names, info["config"])
        if not faults:
            return ""
        consumer = f"consumer {self._names.router} of {self._names.dead_stream}"
        return f"the {consumer} is not as declared ({', '.join(faults)}): run `jsjobs streams apply`"

    def _say(self, why_not_ready: str) -> None:
        if why_not_ready and why_not_ready != self.why_not_ready:
            logger.warning("letters do not reach this router: %s", why_not_ready)
        elif self._task is not None and self.why_not_ready and not why_not_ready:
            logger.info("letters reach this router again")
        self.why_not_ready = why_not_ready


def _unanswered(error: JobError) -> str:
    return f"the server cannot be asked: {error.message}"
