"""Whether a schedule that was replaced around its due time fires all the same.

The server reads all schedules that are due, then publishes one after the other, and with each takes away whatever
stands on its subject by then (nats-server 2.15.1). One that was put there in between is gone, though its publish was
accepted. What the server stored before the old one was due is safe; else a marker tells: a schedule that is stored
afterwards and due at once fires when all those that were read before have been published.
"""

from __future__ import annotations

import asyncio
import time
from datetime import datetime, timedelta
from typing import Any

from jsjobs.jetstream.acknowledgements import answer_of, refusal
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.stored import StoredMessage, find_at_leader, find_stored
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import header_block, parse_block
from jsjobs.model.errors import JobError
from jsjobs.model.job import random_token
from jsjobs.model.times import rfc3339

_LOOK_AGAIN = 0.03
_LONG_AGO = datetime.fromisoformat("2020-01-01T00:00:00Z")


class Overtaken:
    """Looks at one replacement that the server accepted."""

    def __init__(self, connection: Connection, names: Names, subject: bytes, sequence: int, timeout: float) -> None:
        """Look with these tools.

        Args:
            connection: To the server.
            names: The namespace.
            subject: The schedule's.
            sequence: The message that replaced another one there.
            timeout: Seconds to wait for the marker.
        """
        self._connection = connection
        self._names = names
        self._subject = subject.decode()
        self._sequence = sequence
        self._timeout = timeout

    async def old_fires(self, due: datetime, headers: dict[str, str], took: float) -> bool:
        """Whether the old one fired, or will, and took the new one away.

        Args:
            due: When the old one was.
            headers: Its target, and those of its headers that stay when it fires and tell it from the new one.
            took: Seconds that the publish of the new one took: it stood there at most so long after its time stamp.

        Raises:
            JobError: `RunnerUnavailable`, if that cannot be found out.
        """
        # Any replica tells when it was stored, and most that are replaced are not due for long.
        found = await find_stored(self._connection, self._names.schedule_stream, {"seq": self._sequence})
        if found is not None and found.stored_at + timedelta(seconds=took) < due:
            return False
        await self._until_published()
        standing = await self._get({"last_by_subj": self._subject})
        if standing is not None and standing.sequence >= self._sequence:
            return False
        return await self._was_published(headers.pop("Nats-Schedule-Target"), headers)

    async def _get(self, request: dict[str, Any]) -> StoredMessage | None:
        return await find_at_leader(self._connection, self._names.schedule_stream, request)

    async def _until_published(self) -> None:
        namespace, deadline = self._names.namespace, time.monotonic() + self._timeout
        marker = f"{namespace}.at.marker.{random_token()}"
        headers = {"Nats-Schedule": f"@at {rfc3339(_LONG_AGO)}", "Nats-Schedule-TTL": "10s"}
        headers["Nats-Schedule-Target"] = f"{namespace}.due.marker"
        reply = await self._connection.ask(marker.encode(), b"", header=header_block(headers), timeout=self._timeout)
        answer = answer_of(reply)
        if "error" in answer:
            raise refusal(answer["error"])
        while await self._get({"last_by_subj": marker}) is not None:
            if time.monotonic() > deadline:
                raise JobError.from_runner_unavailable(
                    "the job was due in this moment, and whether it fired before could not be found out: look at its "
                    "status, and try again"
                )
            await asyncio.sleep(_LOOK_AGAIN)

    async def _was_published(self, target: str, headers: dict[str, str]) -> bool:
        wanted, after = {**headers, "Nats-Scheduler": self._subject}.items(), self._sequence
        while message := await self._get({"seq": after + 1, "next_by_subj": target}):
            if wanted <= dict(parse_block(message.header)).items():
                return True
            after = message.sequence
        return False
