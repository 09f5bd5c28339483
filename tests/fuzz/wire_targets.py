"""What comes over the connection: protocol lines, messages, deliveries, letters, requests of other programs."""

import json
from typing import Any

from corpus import HEADER_NAMES, HEADERS, IN_LANE, REPLY, REPLY_2, STORED
from target import NAMES, NOW, Recording, Target, joined, parts, refused

from jsjobs import JobService
from jsjobs.dead_letters.row import row
from jsjobs.jetstream.client.parser import ProtocolError, WireParser
from jsjobs.jetstream.jobs.dead_letter_message import read_letter
from jsjobs.jetstream.jobs.delivery import Delivery
from jsjobs.jetstream.jobs.message import read_job
from jsjobs.jetstream.protocol.headers import (
    UnreadableHeaders,
    header_block,
    lenient_pairs,
    parse_block,
    parse_job_headers,
    value_of,
)
from jsjobs.jetstream.protocol.names import Generation, Shard, name_token
from jsjobs.model.errors import JobError
from jsjobs.postgres import sanitise


def protocol(data: bytes) -> bool:
    """Whatever bytes: messages, or an error that makes the connection anew."""
    taken: list[tuple[bytes, ...]] = []
    try:
        _feed(taken.append, data[:7], data[7:])
    except ProtocolError:
        return False
    except (ValueError, RecursionError):  # the server's INFO is JSON
        assert b"INFO" in data.upper()
        return False
    return True


def _feed(take: Any, *chunks: bytes) -> None:
    """The only place here that knows how the parser is fed."""
    parser = WireParser(_Controls())
    parser.receivers[b"1"] = lambda *message: take(message)
    for chunk in chunks:
        parser.feed(chunk)


class _Controls:
    """What the parser hands on; nothing of it runs here."""

    def on_ping(self) -> None: ...

    def on_pong(self) -> None: ...

    def on_info(self, info: dict[str, Any]) -> None: ...

    def on_err(self, text: str) -> None: ...


def message(data: bytes) -> bool:
    """A message in a right frame comes byte for byte, whatever is in it, and so does the next."""
    subject, reply, header, body = parts(data, 4)
    subject, reply = (word.translate(None, b" \r\n\t") for word in (subject, reply))
    subject = subject or b"s"
    words = b" ".join((subject, b"1", *([reply] if reply else [])))
    sizes = b"%d %d" % (len(header), len(header) + len(body)) if header else b"%d" % len(body)
    frame = b"%b %b %b\r\n%b%b\r\n" % (b"HMSG" if header else b"MSG", words, sizes, header, body)
    taken: list[tuple[bytes, ...]] = []
    cut = len(frame) * 2 // 3
    _feed(taken.append, frame[:cut], frame[cut:] + b"MSG next 1 2\r\nok\r\n")
    assert taken == [(subject, reply, header, body), (b"next", b"", b"", b"ok")]
    return True


def header(data: bytes) -> bool:
    lenient_pairs(data)
    for name in (b"Nats-Sequence", b"Nats-Time-Stamp", b"Jsjobs-Writer"):
        value_of(data, name)
    try:
        headers, taken = parse_job_headers(data), True
    except UnreadableHeaders as error:
        headers, taken = error.readable, False
        refused(error.message)
    for name in (headers.entity, headers.tenant, headers.request_id, headers.batch_id, headers.given_id):
        assert name is None or (name.isprintable() and len(name) <= 256)
    assert headers.max_attempts is None or 1 <= headers.max_attempts <= 1000
    if headers.entity is not None:
        header_block({"Jsjobs-Entity": headers.entity})
        try:
            assert name_token(headers.entity).isascii()
        except JobError:
            assert len(headers.entity.encode()) > 256 / 3
    if headers.firing is not None:
        headers.firing.job_id(headers.firing.due(NOW))
    try:
        parse_block(data)
    except UnreadableHeaders:
        return False
    return taken


def queued_message(data: bytes) -> bool:
    """A message of a queue: what its job is, its first entry, its context."""
    subject, block, body = parts(data, 3)
    try:
        job = read_job(NAMES, subject, block, body, sequence=7, stored_at=NOW)
    except JobError as error:
        return refused(error.message)
    assert job.data == body
    json.loads(job.entry().to_json())
    job.context()
    NAMES.state(job.job_id)
    return job.problem is None


def subjects(data: bytes) -> bool:
    taken = 0
    for read in (NAMES.parse_stored, NAMES.queue_of_due):
        try:
            read(data)
            taken += 1
        except JobError as error:
            refused(error.message)
    text = data.decode("utf-8", "backslashreplace")
    for priority in JobService.Priority:
        NAMES.generation_of(text, priority)
    taken += Shard.of(text) is not None
    try:
        Generation.parse(text)
    except ValueError:
        return bool(taken)
    return True


def delivery(data: bytes) -> bool:
    """What comes on a deliver subject: only what the server sent there is answered to."""
    subject, reply, block, body = parts(data, 4)
    connection = Recording()
    try:
        came = Delivery(connection, subject, reply, block, body)  # type: ignore[arg-type]
    except JobError as error:
        return refused(error.message)
    came.nak(1.5)
    came.term("dead \ud800")
    assert all(each.startswith(b"$JS.ACK.") for each in connection.posted)
    try:
        came.job(NAMES)
    except JobError:
        return False
    return True


def letter(data: bytes) -> bool:
    """A dead letter becomes a row that Postgres can store, with every byte of it."""
    subject, block, body = parts(data, 3)
    came = read_letter(NAMES, subject, block, body)
    assert came.header + came.body == body
    made = row(came, None, NOW)
    document = sanitise.json_text(made.payload)
    for value in made.parameters("jobs"):
        if isinstance(value, str):
            value.encode()
            assert "\0" not in value
    assert len(made.parameters("jobs")[2].encode()) < 2704  # type: ignore[attr-defined]
    return document is not None


TARGETS = (
    Target(
        "wire protocol",
        protocol,
        (
            b"MSG a.b 1 5\r\nhello\r\nPING\r\n",
            b"HMSG a.b 1 r.s 12 17\r\nNATS/1.0\r\n\r\nhello\r\n",
            b'INFO {"max_payload": 7}\r\n+OK\r\nPONG\r\n',
            b"-ERR 'Stale Connection'\r\n",
        ),
        (b"MSG ", b"HMSG ", b"INFO ", b"-ERR ", b"PING\r\n"),
    ),
    Target(
        "message frame", message, (joined(b"a.b", b"r", HEADERS[0], b"hello"), joined(b"a", b"", b"", b"")), HEADERS
    ),
    Target("headers", header, HEADERS, HEADER_NAMES, 2),
    Target(
        "queued message",
        queued_message,
        tuple(joined(subject, block, b'{"to": "a"}') for block in HEADERS for subject in (STORED, IN_LANE)),
        (*HEADER_NAMES, b"jobs.work.", b"critical", b"1x4"),
        2,
    ),
    Target(
        "subject",
        subjects,
        (STORED, IN_LANE, b"jobs.due.high.e.note.sent", b"jobs.due.parallel.high.-.note", b"critical-1x4-3", b"1x4"),
        (b"jobs.work.", b"jobs.lane.", b"1x4"),
    ),
    Target(
        "delivery",
        delivery,
        (joined(STORED, REPLY, HEADERS[1], b"{}"), joined(STORED, REPLY_2, b"", b"[1]")),
        (REPLY, b"jobs.deliver.critical.1x4.3", b"jobs.normal.a.b.1.2.3.4.5", b"$KV.jobs.x.1.2.3.4.5.6"),
    ),
    Target(
        "dead letter",
        letter,
        (
            joined(
                b"jobs.dead.critical-17", b"NATS/1.0\r\nJsjobs-Reason: Timeout\r\nJsjobs-Headers-Size: 0\r\n\r\n", b"{}"
            ),
            joined(
                b"jobs.dead.replay-1-x",
                b"NATS/1.0\r\nJsjobs-Reason: Validation\r\nJsjobs-Headers-Size: 12\r\n\r\n",
                HEADERS[0] + b'{"a": 1e5}',
            ),
        ),
        (*HEADER_NAMES, b"Jsjobs-Headers-Size: "),
    ),
)
