"""Clearing away what fired: a delayed job stays in the schedule stream until its queue surely has it.

What a queue can never take is made a dead letter, so that it holds up nothing behind it.
"""

from __future__ import annotations

import time
from typing import Any

from jsjobs.dead_letters.undertaker import Undertaker
from jsjobs.jetstream import declared
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
_STUCK = 5.0
"""Seconds in which a queue that takes what is due has surely said so: it does every second, or tries again after two."""
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
        self._stuck: dict[Priority, tuple[int, float]] = {}
        """How far the source of what waits had delivered, and since when."""

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
            await self._unstick(priority)
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
        return min(floor, await self._has(priority))

    async def _has(self, priority: Priority) -> int:
        """The last message that a queue has taken of what is due; 0 where it does not know."""
        queue = await find(self._connection, f"STREAM.INFO.{self._names.stream(priority)}")
        sources = (queue or {}).get("sources") or [{}]
        return int(sources[0].get("seq", 0))

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

    async def _unstick(self, priority: Priority) -> None:
        """Let a queue go on behind what it has, where nothing has come to it since the look before.

        A killed server may begin again behind its queue, and then waits for an acknowledgement that it does not take; a
        queue takes nothing from a consumer that somebody reset (nats-server 2.15.1, both measured). From one that is
        made anew it takes what it does not have. A full queue is none the worse for it.
        """
        info = await self._source(priority)
        if info is None:
            return
        delivered, waiting = info["delivered"]["stream_seq"], info["num_pending"] + info["num_ack_pending"]
        now = time.monotonic()
        before, since = self._stuck.pop(priority, (delivered, now))
        if not waiting:
            return
        if before == delivered and now - since < _STUCK:
            self._stuck[priority] = before, since
        elif before != delivered:
            self._stuck[priority] = delivered, now
        else:
            logger.info("%s takes nothing that is due: its source is made anew", priority)
            stream, consumer = self._names.schedule_stream, declared.source_consumer(self._names, priority)
            await find(self._connection, f"CONSUMER.DELETE.{stream}.{consumer['name']}")
            request = {"stream_name": stream, "config": consumer, "action": "create"}
            await call(self._connection, f"CONSUMER.DURABLE.CREATE.{stream}.{consumer['name']}", request)


def _astray(message: StoredMessage) -> JobError:
    where = message.subject.decode("utf-8", "backslashreplace")[:_SHOWN]
    return JobError.from_validation(
        f"no queue takes what is due on {where!r}: after `due` come a priority, an entity and a type"
    )
