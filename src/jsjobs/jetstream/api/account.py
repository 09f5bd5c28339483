"""Ask the server about this user's rights, this account's limits, and every server of the cluster.

An ordinary account is told only part of this; the rest is left out.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from jsjobs.jetstream.api.endpoints import ACCOUNT_INFO
from jsjobs.jetstream.api.requests import DEFAULT_TIMEOUT, call
from jsjobs.jetstream.api.types import AccountInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.model.errors import JobError
from jsjobs.model.job import utc_now
from jsjobs.model.times import parse_rfc3339

_WHO_AM_I = "$SYS.REQ.USER.INFO"
_WITHIN = 1.5
ASKED_FOR_VERSIONS = "$SYS.REQ.ACCOUNT.PING.STATZ"
"""Every server answers on this subject, in every account, unless its user may not publish there."""
ASKED_FOR_JETSTREAM = "$SYS.REQ.SERVER.PING.JSZ"
"""A subject of the system account; another account gets an answer if it imports this service."""
_AT_MOST = 5.0
_QUIET = 0.4
"""Seconds to wait after the last answer, since the number of servers is not known."""
_ALONE = 0.1
"""The same for a server that is in no cluster."""


@dataclass(frozen=True, slots=True)
class Rights:
    """The rights of one user."""

    user: str
    """Empty if the server named none."""
    account: str
    allow: tuple[str, ...] | None
    """Subjects that may be published on; None: all."""
    deny: tuple[str, ...]

    @property
    def is_restricted(self) -> bool:
        """Return whether there is any subject that may not be published on."""
        return self.allow is not None or bool(self.deny)

    def may_publish(self, subject: str) -> bool:
        """Return whether a subject without wildcards may be published on."""
        allowed = self.allow is None or any(_covers(pattern, subject) for pattern in self.allow)
        return allowed and not any(_covers(pattern, subject) for pattern in self.deny)


async def account_info(connection: Connection, *, timeout: float = DEFAULT_TIMEOUT) -> AccountInfo:
    """Return the account of a connection.

    Raises:
        NotPermitted: If this user may not ask for it.
        JobError: If the server refuses, cannot be reached, or JetStream is off.
    """
    return AccountInfo.of(await call(connection, ACCOUNT_INFO, timeout=timeout), ACCOUNT_INFO)


async def read_rights(connection: Connection) -> Rights | None:
    """Return the rights of this connection's user, or None if the user may not even ask for them."""
    try:
        reply = await connection.ask(_WHO_AM_I.encode(), timeout=_WITHIN)
        told = json.loads(reply.data)["data"]
    except (JobError, ValueError, KeyError):
        return None
    publish = (told.get("permissions") or {}).get("publish") or {}
    allow = publish.get("allow")
    account = str(told.get("account_name") or told.get("account") or "")
    return Rights(
        str(told.get("user") or ""), account, None if allow is None else tuple(allow), tuple(publish.get("deny") or ())
    )


def _covers(pattern: str, subject: str) -> bool:
    """Return whether a pattern matches a subject."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, word in enumerate(wanted):
        if word == ">":
            return len(given) > index
        if index >= len(given) or word not in {"*", given[index]}:
            return False
    return len(wanted) == len(given)


class ServerLook(NamedTuple):
    """One server of the cluster."""

    name: str
    version: str
    cluster: str
    has_jetstream: bool
    ahead: float
    """Seconds by which its clock is ahead of this machine's. The time that the question took does not count."""


class SyncLook(NamedTuple):
    """The way in which one server syncs acknowledged messages to its disk."""

    server: str
    always: bool
    """Whether it syncs before it acknowledges."""
    interval: float
    """Seconds between two syncs otherwise."""


class StorageLook(NamedTuple):
    """The file storage of one server."""

    server: str
    used: int
    """Bytes in files, of all accounts."""
    reserved: int
    """Bytes reserved for streams with a limit."""
    most: int
    """Limit in bytes: its `max_file`, or what it found free when it started."""
    folder: str
    """The directory of the files, on the server's own machine."""


class JetStreamLooks(NamedTuple):
    """The answers of servers about their JetStream; a server may tell one part and not the other."""

    sync: list[SyncLook]
    storage: list[StorageLook]


async def look_at_servers(connection: Connection, *, now: Callable[[], datetime] | None = None) -> list[ServerLook]:
    """Return every server that answers; none if this user may not ask.

    Args:
        connection: A connection to one of them.
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
    """Ask every server once about its JetStream.

    Nothing is returned if this account may not ask, which is the usual case.

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
        theirs = parse_rfc3339(server["time"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return None  # any client of the account may answer
    return ServerLook(name, version, cluster, bool(server.get("jetstream")), seconds_ahead(theirs, asked, answered))


def seconds_ahead(theirs: datetime, asked: datetime, answered: datetime) -> float:
    """Return how far a clock is ahead that was read at some moment between two readings of this machine's clock."""
    early, late = (theirs - answered).total_seconds(), (theirs - asked).total_seconds()
    return 0.0 if early <= 0 <= late else min(early, late, key=abs)


async def _ask_all(
    connection: Connection, subject: str, body: bytes, clock: Callable[[], datetime]
) -> list[tuple[dict[str, Any], datetime]]:
    """Return all answers to one question, each with its time of arrival; none if nobody may or will answer."""
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
