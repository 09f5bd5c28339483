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
from jsjobs.model.lanes import Lane, Queue

MAX_HEADERS = 65_535
"""Maximum bytes of the headers of one message: the server's own limit."""
ADDED = 512
"""Maximum bytes of headers that sourcing adds to a message, besides its subject."""
_WORDS_OF_A_PLACE = 3
"""Number of words that a subject on which a job is due has at least after `due`, and after `parallel` if that follows:
priority, entity or fairness key, and type."""
_PRIORITIES = frozenset(priority.encode() for priority in Priority)
_MARKER = b"marker"
"""The last word of the subject on which the marker of `Overtaken` fires, where it stays for a moment."""


async def next_too_large(connection: Connection, names: Names, waits_for: Queue) -> StoredMessage | None:
    """Return the message that holds up a queue's source, if there is one.

    Raises:
        JobError: If the server refuses or cannot be reached.
    """
    stream = names.schedule_stream
    queue = await find_stream(connection, names.queue(waits_for))
    source = await find_consumer(connection, stream, names.source(waits_for))
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


def is_astray(subject: bytes) -> bool:
    """Return whether no queue takes the jobs that are due on a subject."""
    words = subject.split(b".")[2:]
    is_marker = words == [_MARKER]
    if words[:1] == [b"parallel"]:
        words = words[1:]
    return not is_marker and not (len(words) >= _WORDS_OF_A_PLACE and words[0] in _PRIORITIES)


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
    words = subject.decode("utf-8", "backslashreplace").split(".")[2:]
    lane, priority = Lane.ORDERED, Priority.NORMAL
    if words[:1] == ["parallel"]:
        lane, words = Lane.PARALLEL, words[1:]
    with suppress(ValueError, IndexError):
        priority = Priority(words[0])
    job_type = ".".join(words[_WORDS_OF_A_PLACE - 1 :] if len(words) >= _WORDS_OF_A_PLACE else words)
    shard = 0 if lane is Lane.ORDERED else None
    carrier = Carrier(stream=names.schedule_stream, sequence=sequence, stored_at=stored_at)
    job_id, due = f"at-unfit-{int(stored_at.timestamp() * 1e6)}-{sequence}", None
    if headers.given_id is not None or headers.firing is not None:
        # A message that carries the id of another job must not make that job dead.
        known = believed(names, subject, header, headers, stored_at)
        job_id, headers, due = known.job_id or job_id, known.headers, known.due
    return IncomingJob(job_id, job_type, Queue(priority, lane), shard, headers, None, carrier, message.data, due)
