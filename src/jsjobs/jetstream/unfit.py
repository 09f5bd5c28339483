"""Messages that fired and that no queue can ever take: too large for it, or on a subject that none takes from.

The first would hold up all behind them: when a stream sources a message it adds a header that names the message's place
and subject, and the server tries one that does not fit with it for ever, before any other of the priority (nats-server
2.15.1, measured). The others would lie there unseen.
"""

from __future__ import annotations

from contextlib import suppress

from jsjobs.jetstream.api import find
from jsjobs.jetstream.connection import Connection
from jsjobs.jetstream.given import believed
from jsjobs.jetstream.incoming import IncomingJob
from jsjobs.jetstream.stored import StoredMessage, find_at_leader
from jsjobs.jetstream.subjects import Names
from jsjobs.jetstream.wire import NO_HEADERS, UnreadableHeaders, parse_job_headers
from jsjobs.model.job import Carrier, Priority

MAX_HEADERS = 65_535
"""Of one message, in bytes: the server's own limit."""
ADDED = 512
"""Bytes of headers that sourcing adds to a message, beside its subject, at most."""
_WORDS = 5
"""Of a subject on which a job is due: namespace, `due`, priority, entity and type."""
_MARKER = b"marker"
"""The last word of what `overtaken` has fired for a moment."""


async def next_too_large(connection: Connection, names: Names, priority: Priority) -> StoredMessage | None:
    """The message that holds up a queue's source, if one does.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    stream = names.schedule_stream
    queue = await find(connection, f"STREAM.INFO.{names.stream(priority)}")
    source = await find(connection, f"CONSUMER.INFO.{stream}.{names.source(priority)}")
    if queue is None or source is None:
        return None
    most = queue["config"]["max_msg_size"]
    request = {"seq": source["ack_floor"]["stream_seq"] + 1, "next_by_subj": source["config"]["filter_subject"]}
    for _ in range(100):
        message = await find_at_leader(connection, stream, request)
        if message is None:
            return None
        headers = len(message.header) + len(message.subject) + ADDED
        size = headers + len(message.data)
        if headers > MAX_HEADERS or 0 < most < size:  # -1 is no limit
            return message
        request = {**request, "seq": message.sequence + 1}
    return None


async def next_due(connection: Connection, names: Names, after: int) -> StoredMessage | None:
    """Return the first message behind a sequence that fired, or was published as if it had, wherever it is due.

    It is found by its sequence: a subject that a stranger chose may be a filter that finds others, and the server lists
    none with the character DEL in it (nats-server 2.15.1, measured).

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    request = {"seq": after + 1, "next_by_subj": f"{names.namespace}.due.>"}
    return await find_at_leader(connection, names.schedule_stream, request)


def is_astray(names: Names, subject: bytes) -> bool:
    """Tell whether no queue takes what is due on a subject."""
    due = f"{names.namespace}.due.".encode()
    taken = tuple(b"%b%b." % (due, priority.encode()) for priority in Priority)
    return subject != due + _MARKER and not (subject.startswith(taken) and subject.count(b".") >= _WORDS - 1)


def read_unfit(names: Names, message: StoredMessage) -> IncomingJob:
    """The job that such a message was to be, as far as it can be told.

    It has the id that its schedule gave it, or one of its own where no schedule of that id fired it.
    """
    sequence, subject, stored_at, header, _ = message
    headers = NO_HEADERS
    try:
        headers = parse_job_headers(header) if header else NO_HEADERS
    except UnreadableHeaders as error:
        headers = error.readable
    words = subject.decode("utf-8", "backslashreplace").split(".", _WORDS - 1)
    priority = Priority.NORMAL
    with suppress(ValueError, IndexError):
        priority = Priority(words[2])
    job_type = words[-1] if len(words) == _WORDS else ".".join(words[2:])
    carrier = Carrier(stream=names.schedule_stream, sequence=sequence, stored_at=stored_at)
    job_id, due = f"at-unfit-{int(stored_at.timestamp() * 1e6)}-{sequence}", None
    if headers.given_id is not None or headers.firing is not None:
        # Nobody else's job dies of a message that carries its id.
        known = believed(names, subject, header, headers, stored_at)
        job_id, headers, due = known.job_id or job_id, known.headers, known.due
    return IncomingJob(job_id, job_type, priority, 0, headers, None, carrier, message.data, due)
