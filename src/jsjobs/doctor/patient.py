"""The deployment that is looked at: what all checks need to know of it, asked once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.generation_consumers import Infos
from jsjobs.jetstream.generations import Live, live_shards, read_live
from jsjobs.jetstream.overview import Observer, Overview, ShardLook
from jsjobs.jetstream.refusals import NotPermitted
from jsjobs.jetstream.rights import Rights, read_rights
from jsjobs.jetstream.servers import (
    ASKED_FOR_JETSTREAM,
    JetStreamLooks,
    ServerLook,
    look_at_jetstream,
    look_at_servers,
)
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.unasked import Unasked, keep_unasked
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, utc_now
from jsjobs.settings import Config

ANSWERS_WITHIN = 4.0
"""Seconds that a stream has to answer; one without a leader does not."""

StreamInfo = dict[str, Any]
"""A stream as the server describes it."""


@dataclass(slots=True)
class Patient:
    """One namespace on its servers."""

    config: Config
    """The settings; once the shards are read, with what the server has where they ask for nothing."""
    names: Names
    connection: Connection
    now: Callable[[], datetime] = utc_now
    rights: Rights | None = None
    servers: list[ServerLook] = field(default_factory=list)
    """Those that answer."""
    has_jetstream: bool = True
    """Whether it answers, and this account has it."""
    max_consumers: int = -1
    """What the account may have of them on each stream, as the server counts them; -1: any number."""
    streams: dict[str, StreamInfo] = field(default_factory=dict)
    """Those that are there, by name."""
    silent: list[str] = field(default_factory=list)
    """Those that did not answer."""
    shards: Infos = field(default_factory=dict)
    """Each shard's consumer."""
    live: dict[Priority, Live] = field(default_factory=dict)
    """The generations of each queue's shards; two or more while their count is being changed."""
    overview: Overview | None = None
    """None where there are no queues, or not all streams answer."""

    unasked: list[Unasked] = field(default_factory=list)
    """What the server has otherwise than by default, and no setting here asks for."""
    _jetstream: asyncio.Task[JetStreamLooks] | None = None

    @property
    def queues(self) -> dict[Priority, StreamInfo]:
        """The queues that are there."""
        named = {priority: self.names.stream(priority) for priority in Priority}
        return {priority: self.streams[name] for priority, name in named.items() if name in self.streams}

    @property
    def looks(self) -> list[ShardLook]:
        """Every shard whose turn it is, as the overview has it."""
        priorities = self.overview.priorities if self.overview else ()
        return [shard for priority in priorities for shard in priority.running_shards]

    def may(self, *endpoints: str) -> bool:
        """Whether these endpoints of the JetStream API may be asked, as far as that is known."""
        return self.rights is None or all(self.rights.may_publish(f"$JS.API.{endpoint}") for endpoint in endpoints)

    @property
    def may_look(self) -> bool:
        """Whether the queues may be asked about."""
        return self.may(f"STREAM.INFO.{self.names.stream(Priority.CRITICAL)}")

    @property
    def may_see_shards(self) -> bool:
        """Whether what is in a stream, and its consumers, may be asked for."""
        stream, names = self.names.stream(Priority.CRITICAL), self.names
        asked = [f"{each}.{stream}" for each in ("CONSUMER.LIST", "STREAM.MSG.GET", "DIRECT.GET")]
        return self.may(f"CONSUMER.INFO.{names.dead_stream}.{names.router}", *asked)

    async def read_servers(self) -> None:
        """Ask who we are, and which servers there are."""
        self.rights, self.servers = await asyncio.gather(
            read_rights(self.connection), look_at_servers(self.connection, now=self.now)
        )

    async def jetstream(self) -> JetStreamLooks:
        """Return what servers tell of their JetStream, as far as this user may ask; they are asked once.

        Raises:
            JobError: `RunnerUnavailable`, if there is no connection.
        """
        if self.rights is not None and not self.rights.may_publish(ASKED_FOR_JETSTREAM):
            return JetStreamLooks([], [])
        if self._jetstream is None:
            self._jetstream = asyncio.ensure_future(look_at_jetstream(self.connection))
        return await asyncio.shield(self._jetstream)  # of two checks that wait for it, one may run out of time

    async def read_streams(self) -> None:
        """Ask for every stream at once, as far as this user may; each may fail by itself."""
        names = self.names
        side = (names.state_stream, names.progress_stream, names.dead_stream, names.schedule_stream)
        asked = [name for name in (*map(names.stream, Priority), *side) if self.may(f"STREAM.INFO.{name}")]
        await asyncio.gather(*map(self._read_stream, asked))

    async def _read_stream(self, name: str) -> None:
        try:
            info = await find(self.connection, f"STREAM.INFO.{name}", timeout=ANSWERS_WITHIN)
        except NotPermitted:
            return  # as a viewer, who may ask about queues and letters alone
        except JobError:
            self.silent.append(name)
        else:
            if info is not None:
                self.streams[name] = info

    async def read_shards(self) -> None:
        """Ask for the shards.

        Raises:
            JobError: If they cannot be asked for.
        """
        if self.queues:
            with suppress(NotPermitted):
                self.config, self.unasked = await keep_unasked(self.connection, self.names, self.config)
            self.shards = await live_shards(self.connection, self.names)
            self.live = {one: await read_live(self.connection, self.names, one) for one in self.queues}
            self.overview = await Observer(self.connection, self.names).look(0)
