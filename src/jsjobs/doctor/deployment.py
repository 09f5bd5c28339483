"""The deployment under diagnosis: read once, for all checks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from jsjobs.jetstream.api import endpoints
from jsjobs.jetstream.api.account import (
    ASKED_FOR_JETSTREAM,
    JetStreamLooks,
    Rights,
    ServerLook,
    look_at_jetstream,
    look_at_servers,
    read_rights,
)
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import StreamInfo
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.monitoring.observer import Observer
from jsjobs.jetstream.monitoring.overview import Overview, PartitionLook, ShardLook
from jsjobs.jetstream.protocol.names import Names
from jsjobs.jetstream.topology.generations import Live, Shards, live_shards, read_live
from jsjobs.jetstream.topology.kept_settings import Unasked, keep_unasked
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority, utc_now
from jsjobs.model.lanes import QUEUES, Lane, Queue
from jsjobs.settings import Config

ANSWERS_WITHIN = 4.0
"""Seconds that a stream has to answer; a stream without a leader does not answer."""


@dataclass(slots=True)
class Deployment:
    """One namespace on its servers."""

    config: Config
    """The settings. Once the shards are read, they hold the server's values where the settings ask for none."""
    names: Names
    connection: Connection
    now: Callable[[], datetime] = utc_now
    rights: Rights | None = None
    servers: list[ServerLook] = field(default_factory=list)
    """The servers that answer."""
    has_jetstream: bool = True
    """Whether JetStream answers, and this account has it."""
    max_consumers: int = -1
    """The number of consumers that the account may have on each stream, as the server counts them; -1: any number."""
    streams: dict[str, StreamInfo] = field(default_factory=dict)
    """The streams that exist, by name."""
    silent: list[str] = field(default_factory=list)
    """The streams that did not answer."""
    shards: Shards = field(default_factory=dict)
    """Each shard's consumer."""
    live: dict[Priority, Live] = field(default_factory=dict)
    """The generations of each queue's shards; two or more while the shard count is being changed."""
    overview: Overview | None = None
    """The overview; None where there are no queues, or not all streams answer."""

    unasked: list[Unasked] = field(default_factory=list)
    """The values on the server that differ from the defaults, though no setting here asks for them."""
    _jetstream: asyncio.Task[JetStreamLooks] | None = None

    @property
    def queues(self) -> dict[Queue, StreamInfo]:
        """Return the queues that exist."""
        named = {queue: self.names.queue(queue) for queue in QUEUES}
        return {queue: self.streams[name] for queue, name in named.items() if name in self.streams}

    @property
    def looks(self) -> list[ShardLook]:
        """Return every shard that runs jobs now, as the overview shows it."""
        priorities = self.overview.priorities if self.overview else ()
        return [shard for priority in priorities for shard in priority.running_shards]

    @property
    def partitions(self) -> list[PartitionLook]:
        """Return every partition of the parallel lanes, as the overview shows it."""
        priorities = self.overview.priorities if self.overview else ()
        return [partition for priority in priorities for partition in priority.partitions]

    def may(self, *asked: str) -> bool:
        """Return whether this user may ask these endpoints of the JetStream API, as far as that is known."""
        return self.rights is None or all(self.rights.may_publish(endpoints.subject(endpoint)) for endpoint in asked)

    @property
    def may_look(self) -> bool:
        """Return whether this user may ask about the queues."""
        return self.may(endpoints.stream_info(self.names.stream(Priority.CRITICAL)))

    @property
    def may_see_shards(self) -> bool:
        """Return whether this user may read a stream's messages and consumers."""
        stream, names = self.names.stream(Priority.CRITICAL), self.names
        asked = endpoints.consumer_list(stream), endpoints.message_get(stream), endpoints.direct_get(stream)
        return self.may(endpoints.consumer_info(names.dead_stream, names.router), *asked)

    async def read_servers(self) -> None:
        """Ask who this user is, and which servers there are."""
        self.rights, self.servers = await asyncio.gather(
            read_rights(self.connection), look_at_servers(self.connection, now=self.now)
        )

    async def jetstream(self) -> JetStreamLooks:
        """Return what servers report of their JetStream, as far as this user may ask; they are asked once.

        Raises:
            JobError: `RunnerUnavailable`, if there is no connection.
        """
        if self.rights is not None and not self.rights.may_publish(ASKED_FOR_JETSTREAM):
            return JetStreamLooks([], [])
        if self._jetstream is None:
            self._jetstream = asyncio.ensure_future(look_at_jetstream(self.connection))
        return await asyncio.shield(self._jetstream)  # two checks may wait for it, and one of them may time out

    async def read_streams(self) -> None:
        """Ask for all streams concurrently, as far as this user may; each may fail by itself."""
        names = self.names
        side = (names.state_stream, names.progress_stream, names.dead_stream, names.schedule_stream)
        asked = [name for name in (*map(names.queue, QUEUES), *side) if self.may(endpoints.stream_info(name))]
        await asyncio.gather(*map(self._read_stream, asked))

    async def _read_stream(self, name: str) -> None:
        try:
            info = await find_stream(self.connection, name, timeout=ANSWERS_WITHIN)
        except NotPermitted:
            return  # a viewer, for example, may ask only about queues and letters
        except JobError:
            self.silent.append(name)
        else:
            if info is not None:
                self.streams[name] = info

    async def read_shards(self) -> None:
        """Read the shards.

        Raises:
            JobError: If they cannot be read.
        """
        if self.queues:
            with suppress(NotPermitted):
                self.config, self.unasked = await keep_unasked(self.connection, self.names, self.config)
            self.shards = await live_shards(self.connection, self.names)
            self.live = {
                queue.priority: await read_live(self.connection, self.names, queue.priority)
                for queue in self.queues
                if queue.lane is Lane.ORDERED
            }
            self.overview = await Observer(self.connection, self.names).look(0)
