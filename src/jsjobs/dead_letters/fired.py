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
        self._stuck: dict[Priority, int] = {}

    async def clear(self) -> None:
        """Look at every priority; call it now and then.

        A queue acknowledges what it has stored. One look later that has also outlived whatever was going on then.

        Raises:
            JobError: If the server cannot be asked, or refuses.
        """
        stream = self._names.schedule_stream
        await self._bury_astray()
        for priority in Priority:
            await self._bury_too_large(priority)
            info = await find(self._connection, f"CONSUMER.INFO.{stream}.{self._names.source(priority)}")
            if info is not None:
                await self._unstick(priority, info)
            floor = 0 if info is None else info["ack_floor"]["stream_seq"]
            before, self._seen[priority] = self._seen.get(priority, 0), floor
            # A lower floor is a consumer's that was made anew: it has yet to find out what its queue has.
            if info is not None and before <= floor and before > self._cleared.get(priority, 0):
                # Up to the message before this one.
                request = {"filter": info["config"]["filter_subject"], "seq": before + 1}
                await call(self._connection, f"STREAM.PURGE.{stream}", request)
                self._cleared[priority] = before

    async def _bury_too_large(self, priority: Priority) -> None:
        while message := await next_too_large(self._connection, self._names, priority):
            size = len(message.header) + len(message.data)
            why = f"with {size} bytes, {len(message.header)} of them headers, it is too large for the {priority} queue"
            await self._undertaker.bury_due(message, JobError.from_validation(why))

    async def _bury_astray(self) -> None:
        """End what is due where no queue takes it: not at the first look, since another schedule may fire it from there.

        Of what queues take, little was there at the look before and is there still, unless they are full.
        """
        info = await find(self._connection, f"STREAM.INFO.{self._names.schedule_stream}")
        until, self._last = self._last, 0 if info is None else info["state"]["last_seq"]
        size = 0
        for _ in range(_MOST):
            message = await next_due(self._connection, self._names, self._read_to)
            if message is None or message.sequence > until:
                self._read_to = 0
                return
            self._read_to = message.sequence
            if is_astray(self._names, message.subject):
                await self._undertaker.bury_due(message, _astray(message))
            size += len(message.header) + len(message.data)
            if size > _MOST_BYTES:
                return

    async def _unstick(self, priority: Priority, info: dict[str, Any]) -> None:
        """Let a queue go on behind what it has, where nothing has come to it since the look before.

        A killed server may begin again behind its queue, and then waits for an acknowledgement that it does not take
        (nats-server 2.15.1, measured with a small `max_ack_pending`). A full queue is none the worse for it.
        """
        delivered, waiting = info["delivered"]["stream_seq"], info["num_pending"] + info["num_ack_pending"]
        before = self._stuck.pop(priority, None)
        if not waiting:
            return
        self._stuck[priority] = delivered
        queue = await find(self._connection, f"STREAM.INFO.{self._names.stream(priority)}")
        sources = (queue or {}).get("sources") or []
        if before == delivered and sources and sources[0]["seq"]:
            logger.info("%s takes nothing that is due: its source begins again behind what it has", priority)
            endpoint = f"CONSUMER.RESET.{self._names.schedule_stream}.{self._names.source(priority)}"
            await call(self._connection, endpoint, {"seq": sources[0]["seq"] + 1})


def _astray(message: StoredMessage) -> JobError:
    where = message.subject.decode("utf-8", "backslashreplace")[:_SHOWN]
    return JobError.from_validation(
        f"no queue takes what is due on {where!r}: after `due` come a priority, an entity and a type"
    )
