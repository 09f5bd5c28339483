"""Read what waits in a queue: since when, how full the fullest mailbox is, and which messages the server gave up.

A mailbox holds the jobs of one type and one shard or partition. A message that was given up was delivered as often as
allowed, and is still in its queue.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import datetime
from typing import NamedTuple, TypeVar

from jsjobs.jetstream.api.messages import find_at_leader, find_stored
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import ConsumerInfo, MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.protocol.names import Names, Partition, Shard
from jsjobs.model.lanes import Lane, Queue

P = TypeVar("P", bound=Shard | Partition)

_BEGIN = {Lane.ORDERED: 5, Lane.PARALLEL: 4}
"""Tokens before the type: `jobs.work.<priority>.<generation>.<shard>`, or `jobs.lane.<priority>.<partition>`."""


async def given_up(connection: Connection, stream: str, info: ConsumerInfo, *, most: int | None = None) -> list[int]:
    """Return the sequences of one shard's messages that the server gave up.

    One that ended a moment ago may still be among them.

    Args:
        connection: The connection to the server.
        stream: The queue's stream.
        info: The server's information about the shard's consumer.
        most: How many to find, at most; None for all.

    Raises:
        JobError: If the server cannot be asked.
    """
    found: list[int] = []
    sequence = 1
    while most is None or len(found) < most:
        request: MessageRequest = {"seq": sequence, "next_by_subj": info.config.filter_subject}
        message = await find_at_leader(connection, stream, request)
        if message is None or message.sequence > info.delivered.stream_seq:
            break
        if is_given_up(info, message.sequence):
            found.append(message.sequence)
        sequence = message.sequence + 1
    return found


def is_given_up(info: ConsumerInfo, sequence: int) -> bool:
    """Return whether a message that is still stored was delivered and is not in flight.

    A shard has one message in flight at most: the one delivered last.
    """
    last: int = info.delivered.stream_seq
    in_flight = info.num_ack_pending > 0 and sequence == last
    return sequence <= last and not in_flight


async def first_waiting(
    connection: Connection, names: Names, place: Shard | Partition, last_delivered: int
) -> datetime | None:
    """Return when the first job was stored that a shard or partition has not delivered yet; None if none is left.

    Args:
        connection: The connection to the server.
        names: The namespace.
        place: The shard or partition.
        last_delivered: The sequence of the last job that it delivered.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    request: MessageRequest = {"seq": last_delivered + 1, "next_by_subj": names.stored_in(place)}
    message = await find_stored(connection, names.queue(place.queue), request)
    return None if message is None else message.stored_at


async def oldest_waiting(
    connection: Connection, names: Names, places: Iterable[tuple[P, int]]
) -> dict[P, datetime | None]:
    """Return what `first_waiting` returns for each of many shards or partitions, with one request for each.

    Args:
        connection: The connection to the server.
        names: The namespace.
        places: Each shard or partition, with the sequence of the last job that it delivered.

    Raises:
        JobError: `RunnerUnavailable`, if the server cannot be reached.
    """
    asked = dict(places)
    found = await asyncio.gather(*(first_waiting(connection, names, *each) for each in asked.items()))
    return dict(zip(asked, found, strict=True))


class Mailboxes(NamedTuple):
    """The mailboxes of one queue."""

    types: int
    examples: tuple[str, ...]
    """A few of the types, in their order."""
    fullest: int
    """Jobs in the fullest mailbox."""
    fullest_subject: str


async def look_at_mailboxes(connection: Connection, names: Names, queue: Queue, *, examples: int) -> Mailboxes:
    """Read what a queue holds, in one request, which covers the first hundred thousand mailboxes.

    Raises:
        JobError: If the server cannot be asked.
    """
    info = await find_stream(connection, names.queue(queue), subjects=">")
    subjects = {} if info is None else info.state.subjects
    types = {subject.split(".", _BEGIN[queue.lane])[-1] for subject in subjects}
    fullest = max(subjects, key=lambda subject: subjects[subject], default="")
    return Mailboxes(len(types), tuple(sorted(types)[:examples]), subjects.get(fullest, 0), fullest)
