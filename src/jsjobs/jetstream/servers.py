"""What every server of a cluster says of itself, as far as an ordinary account is told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.api import parse_time
from jsjobs.jetstream.connection import Connection
from jsjobs.model.job import utc_now

ASKED_FOR_VERSIONS = "$SYS.REQ.ACCOUNT.PING.STATZ"
"""Every server answers here, in every account, unless its user may not publish there."""
ASKED_FOR_JETSTREAM = "$SYS.REQ.SERVER.PING.JSZ"
"""The system account's; another one is answered if it imports this service."""
_WITHIN = 1.5
_AT_MOST = 5.0
_QUIET = 0.4
"""Seconds after the last answer: nobody knows how many servers there are."""
_ALONE = 0.1
"""Likewise, of one that is in no cluster."""


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


class StorageLook(NamedTuple):
    """How full one server is."""

    server: str
    used: int
    """Bytes in files, of all accounts."""
    reserved: int
    """Bytes that streams with a limit may hold."""
    most: int
    """Bytes that it takes: its `max_file`, or what it found free at its start."""
    folder: str
    """Where it keeps them, on its own machine."""


class JetStreamLooks(NamedTuple):
    """What servers tell of their JetStream; a server may tell the one and not the other."""

    sync: list[SyncLook]
    storage: list[StorageLook]


async def look_at_servers(connection: Connection, *, now: Callable[[], datetime] | None = None) -> list[ServerLook]:
    """Every server that answers; none where this user may not ask.

    Args:
        connection: To one of them.
        now: This machine's clock.

    Raises:
        JobError: `RunnerUnavailable`, if there is no connection.
    """
    clock = now or utc_now
    asked = clock()
    answers = await _ask_all(connection, ASKED_FOR_VERSIONS, b'{"include_unused": true}', clock)
    looks = (_server_look(told, asked, at) for told, at in answers)
    return sorted(look for look in looks if look is not None)


async def look_at_jetstream(connection: Connection) -> JetStreamLooks:
    """Ask every server once for what it tells; nothing where this account may not ask, which is the usual case.

    Raises:
        JobError: `RunnerUnavailable`, if there is no connection.
    """
    answers = [told for told, _ in await _ask_all(connection, ASKED_FOR_JETSTREAM, b"", utc_now)]
    sync, storage = map(_sync_look, answers), map(_storage_look, answers)
    return JetStreamLooks(
        sorted(look for look in sync if look is not None), sorted(look for look in storage if look is not None)
    )


def _storage_look(told: dict[str, Any]) -> StorageLook | None:
    try:
        data = told["data"]
        most, folder = int(data["config"]["max_storage"]), str(data["config"].get("store_dir", ""))
        used, reserved = int(data["storage"]), int(data["reserved_storage"])
        return StorageLook(str(told["server"]["name"]), used, reserved, most, folder) if most > 0 else None
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # as below


def _sync_look(told: dict[str, Any]) -> SyncLook | None:
    try:
        name, config = str(told["server"]["name"]), told["data"]["config"]
        return SyncLook(name, bool(config.get("sync_always")), float(config["sync_interval"]) / 1e9)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # it runs without JetStream; or a stranger answered


def _server_look(told: dict[str, Any], asked: datetime, answered: datetime) -> ServerLook | None:
    try:
        server = told["server"]
        name, version, cluster = str(server["name"]), str(server["ver"]), str(server.get("cluster", ""))
        theirs = parse_time(server["time"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # any client of the account may answer
    return ServerLook(name, version, cluster, bool(server.get("jetstream")), seconds_ahead(theirs, asked, answered))


def seconds_ahead(theirs: datetime, asked: datetime, answered: datetime) -> float:
    """How far a clock is ahead that was read somewhere between two readings of this machine's."""
    early, late = (theirs - answered).total_seconds(), (theirs - asked).total_seconds()
    return 0.0 if early <= 0 <= late else min(early, late, key=abs)


async def _ask_all(
    connection: Connection, subject: str, body: bytes, clock: Callable[[], datetime]
) -> list[tuple[dict[str, Any], datetime]]:
    """All answers to one question, and when they came; none where nobody may or will answer."""
    answers: list[tuple[dict[str, Any], datetime]] = []
    came, nobody = asyncio.Event(), False

    def take(_subject: bytes, _reply: bytes, header: bytes, data: bytes) -> None:
        nonlocal nobody
        nobody = nobody or header.startswith(b"NATS/1.0 503")
        answers.append((_object(data), clock()))
        came.set()

    await connection.when_up()
    inbox = connection.new_inbox().encode()
    sid = await connection.receive(inbox, take)
    try:
        connection.post(subject.encode(), body, reply=inbox)
        within = _WITHIN
        async with asyncio.timeout(_AT_MOST):
            while not nobody:
                async with asyncio.timeout(within):
                    await came.wait()
                came.clear()
                within = _QUIET if any("cluster" in str(told.get("server")) for told, _ in answers) else _ALONE
        return []
    except TimeoutError:
        return answers
    finally:
        await connection.stop_receiving(sid)


def _object(data: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(told := json.loads(data), dict):
            return told
    return {}
