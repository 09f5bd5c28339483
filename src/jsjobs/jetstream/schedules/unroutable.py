"""Find fired messages that no queue can ever take: too large for it, or on a subject from which none takes.

The former would hold up all messages behind them (docs/server-quirks.md#a-message-that-does-not-fit-stops-the-source).
The latter would lie there unseen.
"""

from __future__ import annotations

from contextlib import suppress

from jsjobs.jetstream.api.consumers import find_consumer
from jsjobs.jetstream.api.messages import StoredMessage, find_at_leader
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import MessageRequest
from jsjobs.jetstream.client.connection import Connection
from jsjobs.jetstream.jobs.message import IncomingJob, believed
from jsjobs.jetstream.protocol.headers import NO_HEADERS, UnreadableHeaders, parse_job_headers
from jsjobs.jetstream.protocol.names import Names
from jsjobs.model.job import Carrier, Priority

MAX_HEADERS = 65_535
"""Maximum bytes of the headers of one message: the server's own limit."""
ADDED = 512
"""Maximum bytes of headers that sourcing adds to a message, besides its subject."""
_WORDS = 5
"""Number of words in a subject on which a job is due: namespace, `due`, priority, entity and type."""
_MARKER = b"marker"
"""The last word of the subject on which the marker of `Overtaken` fires, where it stays for a moment."""


async def next_too_large(connection: Connection, names: Names, priority: Priority) -> StoredMessage | None:
    """Return the message that holds up a queue's source, if there is one.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    stream = names.schedule_stream
    queue = await find_stream(connection, names.stream(priority))
    source = await find_consumer(connection, stream, names.source(priority))
    if queue is None or source is None:
        return None
    most = queue.config.max_msg_size
    request: MessageRequest = {"seq": source.ack_floor.stream_seq + 1, "next_by_subj": source.config.filter_subject}
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
    """Return the first message after a sequence that fired, or was published as if it had, on whatever subject.

    It is found by its sequence: a subject that a stranger chose may act as a filter that finds others, or be one that
    the server does not list (docs/server-quirks.md#a-subject-with-a-wildcard-in-it).

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    request: MessageRequest = {"seq": after + 1, "next_by_subj": f"{names.namespace}.due.>"}
    return await find_at_leader(connection, names.schedule_stream, request)


def is_astray(names: Names, subject: bytes) -> bool:
    """Return whether no queue takes the jobs that are due on a subject."""
    due = f"{names.namespace}.due.".encode()
    taken = tuple(b"%b%b." % (due, priority.encode()) for priority in Priority)
    return subject != due + _MARKER and not (subject.startswith(taken) and subject.count(b".") >= _WORDS - 1)


def read_unfit(names: Names, message: StoredMessage) -> IncomingJob:
    """Return the job that such a message was to be, as far as that can be told.

    It has the id that its schedule gave it, or one of its own if no schedule of that id fired it.
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
        # A message that carries the id of another job must not make that job dead.
        known = believed(names, subject, header, headers, stored_at)
        job_id, headers, due = known.job_id or job_id, known.headers, known.due
    return IncomingJob(job_id, job_type, priority, 0, headers, None, carrier, message.data, due)
