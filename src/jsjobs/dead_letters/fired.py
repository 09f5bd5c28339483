"""Clearing away what fired: a delayed job stays in the schedule stream until its queue surely has it.

What a queue can never take is made a dead letter, so that it holds up nothing behind it.
"""

from __future__ import annotations

from typing import Any

from jsjobs.dead_letters.undertaker import Undertaker
from jsjobs.jetstream.api import call, find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.stored import StoredMessage
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.unfit import is_astray, next_due, next_too_large
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority
from jsjobs.safe_log import get_logger

logger = get_logger("jsjobs.router")
_SHOWN = 200
_MOST = 1000
"""Messages that one look reads, or of one priority buries; the next goes on behind them."""
_MOST_BYTES = 16 * 2**20
"""Likewise, as they are stored."""
_MOST_FAILURES = 3
"""Burials that may fail in one look: each takes up to twenty seconds where nothing is stored."""


class Fired:
    """Purges, of each priority, what its queue has acknowledged by the look before."""

    def __init__(self, connection: Connection, names: Names, undertaker: Undertaker) -> None:
        self._connection = connection
        self._names = names
        self._undertaker = undertaker
        self._last = 0
        """Where the stream ended at the look before."""
        self._read_to = 0
        """How far the look before came in what is due; 0 if to its end."""
        self._seen: dict[Priority, int] = {}
        self._cleared: dict[Priority, int] = {}

    async def clear(self) -> None:
        """Look at every priority; call it now and then.

        A queue acknowledges what it has stored. One look later that has also outlived whatever was going on then. What
        cannot be buried now is told of, and stays until a later look.

        Raises:
            JobError: If the server cannot be asked, or refuses a look or a purge.
        """
        for priority in Priority:
            await self._purge(priority)
        for priority in Priority:
            await self._bury_too_large(priority)
        await self._bury_astray()

    async def _purge(self, priority: Priority) -> None:
        info = await self._source(priority)
        floor = 0 if info is None else await self._taken(priority, info)
        before, self._seen[priority] = self._seen.get(priority, 0), floor
        # A lower floor is a consumer's that was made anew: it has yet to find out what its queue has.
        if info is not None and before <= floor and before > self._cleared.get(priority, 0):
            # Up to the message before this one.
            request = {"filter": info["config"]["filter_subject"], "seq": before + 1}
            await call(self._connection, f"STREAM.PURGE.{self._names.schedule_stream}", request)
            self._cleared[priority] = before

    async def _taken(self, priority: Priority, info: dict[str, Any]) -> int:
        """How far its queue has taken what is due. A consumer that was reset claims more than that: up to anywhere."""
        floor: int = info["ack_floor"]["stream_seq"]
        queue = await find(self._connection, f"STREAM.INFO.{self._names.stream(priority)}")
        sources = (queue or {}).get("sources") or [{}]
        return min(floor, int(sources[0].get("seq", 0)))

    async def _source(self, priority: Priority) -> dict[str, Any] | None:
        endpoint = f"CONSUMER.INFO.{self._names.schedule_stream}.{self._names.source(priority)}"
        return await find(self._connection, endpoint)

    async def _bury_too_large(self, priority: Priority) -> None:
        for _ in range(_MOST):
            message = await next_too_large(self._connection, self._names, priority)
            if message is None:
                return
            size = len(message.header) + len(message.data)
            why = f"with {size} bytes, {len(message.header)} of them headers, it is too large for the {priority} queue"
            if not await self._undertaker.bury_due_if_possible(message, JobError.from_validation(why)):
                return

    async def _bury_astray(self) -> None:
        """End what is due where no queue takes it, if it was so at the look before: a schedule may fire it from there.

        Of what queues take, little was there at the look before and is there still, unless they are full.
        """
        info = await find(self._connection, f"STREAM.INFO.{self._names.schedule_stream}")
        until, self._last = self._last, 0 if info is None else info["state"]["last_seq"]
        size = failures = 0
        for _ in range(_MOST):
            message = await next_due(self._connection, self._names, self._read_to)
            if message is None or message.sequence > until:
                self._read_to = 0
                return
            self._read_to = message.sequence
            if is_astray(self._names, message.subject):
                failures += not await self._undertaker.bury_due_if_possible(message, _astray(message))
            size += len(message.header) + len(message.data)
            if size > _MOST_BYTES or failures == _MOST_FAILURES:
                return


def _astray(message: StoredMessage) -> JobError:
    where = message.subject.decode("utf-8", "backslashreplace")[:_SHOWN]
    return JobError.from_validation(
        f"no queue takes what is due on {where!r}: after `due` come a priority, an entity and a type"
    )
