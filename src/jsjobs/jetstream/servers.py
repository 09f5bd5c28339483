"""What every server of a cluster says of itself, as far as an ordinary account is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.api import parse_time
from jsjobs.jetstream.connection import Connection, Reply

ASKED_FOR_VERSIONS = "$SYS.REQ.ACCOUNT.PING.STATZ"
"""Every server answers here, in every account, unless its user may not publish there."""
ASKED_FOR_SYNC = "$SYS.REQ.SERVER.PING.JSZ"
"""The system account's; another one is answered if it imports this service."""
_WITHIN = 1.5
_QUIET = 0.4
"""Seconds after the last answer: nobody knows how many servers there are."""


class ServerLook(NamedTuple):
    """One server."""

    name: str
    version: str
    cluster: str
    has_jetstream: bool
    ahead: float
    """Seconds that its clock is ahead of this machine's; what the question took is not counted as such."""


class SyncLook(NamedTuple):
    """How one server brings what it acknowledged to its disk."""

    server: str
    always: bool
    """Before it acknowledges."""
    interval: float
    """Seconds between two times, else."""


async def look_at_servers(connection: Connection, *, now: Callable[[], datetime] | None = None) -> list[ServerLook]:
    """Every server that answers; none where this user may not ask.

    Args:
        connection: To one of them.
        now: This machine's clock.

    Raises:
        JobError: `RunnerUnavailable`, if there is no connection.
    """
    clock = now or _utc_now
    asked = clock()
    answers = await _ask_all(connection, ASKED_FOR_VERSIONS, b'{"include_unused": true}', clock)
    return sorted(_server_look(told["server"], asked, at) for told, at in answers if "server" in told)


async def look_at_sync(connection: Connection) -> list[SyncLook]:
    """Every server that tells; none where this account may not ask, which is the usual case.

    Raises:
        JobError: `RunnerUnavailable`, if there is no connection.
    """
    answers = await _ask_all(connection, ASKED_FOR_SYNC, b"", _utc_now)
    told = [(str(answer["server"]["name"]), (answer.get("data") or {}).get("config")) for answer, _ in answers]
    return sorted(
        SyncLook(name, bool(config.get("sync_always")), float(config.get("sync_interval", 0)) / 1e9)
        for name, config in told
        if config  # one without JetStream has none
    )


def _server_look(server: dict[str, Any], asked: datetime, answered: datetime) -> ServerLook:
    theirs = parse_time(server["time"])
    # Its clock was read somewhere between the two.
    early, late = (theirs - answered).total_seconds(), (theirs - asked).total_seconds()
    ahead = 0.0 if early <= 0 <= late else min(early, late, key=abs)
    return ServerLook(
        str(server["name"]), str(server["ver"]), str(server.get("cluster", "")), bool(server.get("jetstream")), ahead
    )


async def _ask_all(
    connection: Connection, subject: str, body: bytes, clock: Callable[[], datetime]
) -> list[tuple[dict[str, Any], datetime]]:
    """All answers to one question, and when they came; none where nobody may or will answer."""
    answers: list[tuple[Reply, datetime]] = []
    came = asyncio.Event()

    def take(_subject: bytes, _reply: bytes, header: bytes, data: bytes) -> None:
        answers.append((Reply(header, data), clock()))
        came.set()

    await connection.when_up()
    inbox = connection.new_inbox().encode()
    sid = await connection.receive(inbox, take)
    try:
        connection.post(subject.encode(), body, reply=inbox)
        within = _WITHIN
        while True:
            async with asyncio.timeout(within):
                await came.wait()
            came.clear()
            within = _QUIET
            if not answers[-1][0].data:  # nobody listens
                return []
    except TimeoutError:
        return [(json.loads(reply.data), at) for reply, at in answers]
    finally:
        await connection.stop_receiving(sid)


def _utc_now() -> datetime:
    return datetime.now(UTC)
