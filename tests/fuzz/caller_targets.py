"""What people and programs hand over: ids, times, timetables, settings, lines on standard input, texts to show."""

import json
import logging
import os
from contextlib import suppress
from datetime import timedelta

from corpus import HEADERS
from target import NAMES, NOW, SEPARATOR, Target, parts, refused, text_of

from jsjobs.cli.durations import format_duration, parse_duration, parse_moment
from jsjobs.cli.output import dumps, plain
from jsjobs.jetstream.client.errors import without_secrets
from jsjobs.jetstream.protocol.headers import parse_attempts, parse_timeout
from jsjobs.jetstream.protocol.headers import parse_duration as parse_duration_word
from jsjobs.jetstream.protocol.job_ids import checked_id, digest_of, is_given_id, parse_plain_id
from jsjobs.jetstream.protocol.names import Names, checked_type, name_token
from jsjobs.logs import JobFields, JsonFormatter, TextFormatter
from jsjobs.model.batch import ids_of, runs_of
from jsjobs.model.context import RequestContext, checked_name, enter_context
from jsjobs.model.due import checked_due
from jsjobs.model.errors import JobError
from jsjobs.model.times import parse_rfc3339, rfc3339
from jsjobs.model.timetable import Timetable
from jsjobs.model.trace import Trace
from jsjobs.postgres import sanitise
from jsjobs.postgres.errors import InvalidDatabaseUrl
from jsjobs.postgres.url import place
from jsjobs.settings import load


def names(data: bytes) -> bool:
    """Job ids, types, entities, tenants, namespaces: whatever a caller names things."""
    text, taken = text_of(data), 0
    for check in (checked_id, checked_type, name_token, lambda each: checked_name("it", each), Names):
        try:
            check(text)
            taken += 1
        except JobError as error:
            refused(error.message)
            error.message.encode("utf-8", "backslashreplace")
    digest_of(text)
    sanitise.key(text).encode()
    if parse_plain_id(text) is not None or is_given_id(text):
        assert NAMES.state(text).isascii()
        assert list(ids_of(runs_of([text, text]))) == [text, text]
    return bool(taken)


def times(data: bytes) -> bool:
    """Durations and moments, on the command line and in headers."""
    text, taken = text_of(data), 0
    for read in (parse_timeout, parse_attempts, parse_duration_word):
        with suppress(ValueError):
            read(text)
            taken += 1
    with suppress(ValueError):
        seconds = parse_duration(text)
        assert seconds > 0
        assert abs(parse_duration(format_duration(max(seconds, 0.001))) - max(seconds, 0.001)) < 0.001
        taken += 1
        with suppress(JobError):
            checked_due(seconds, None, NOW)
        with suppress(OverflowError):  # which the commands say in their own words
            timedelta(seconds=seconds)
    for parse in (parse_moment, parse_rfc3339):
        with suppress(ValueError):
            moment = parse(text)
            assert moment.tzinfo is not None
            taken += 1
            with suppress(JobError):
                due = checked_due(None, moment, NOW)
                assert due is None or parse_rfc3339(rfc3339(due)) == due
    return bool(taken)


def timetables(data: bytes) -> bool:
    written, zone = (text_of(each) for each in parts(data, 2))
    try:
        found = Timetable.parse(written, zone or None)
    except JobError as error:
        refused(error.message)
        assert error.message.isprintable()
        return False
    assert Timetable.parse(found.text, found.zone) == found
    ticks = found.next(NOW, 2, since=NOW)
    assert all(tick > NOW for tick in ticks)
    for tick in ticks:
        found.due_before(tick, NOW)
    return bool(ticks)


def settings(data: bytes) -> bool:
    """The environment."""
    before = dict(os.environ)
    for line in data.replace(b"\0", b"").splitlines():
        name, _, value = line.partition(b"=")
        if name:
            os.environb[name] = value
    try:
        config = load()
    except JobError as error:
        assert "hunter2" not in str(error)
        error.message.encode()
        return False
    finally:
        os.environ.clear()
        os.environ.update(before)
    assert "hunter2" not in repr(config.model_dump(exclude={"nats_url"}))
    return True


def urls(data: bytes) -> bool:
    """Addresses of servers: said without what is secret in them."""
    text = text_of(data)
    without_secrets(text)
    try:
        place(text)
    except InvalidDatabaseUrl as error:
        assert len(str(error)) < 500
        return False
    return True


def log_lines(data: bytes) -> bool:
    """A stranger's text in a log: one record is one line, or indented ones; nothing commands a terminal."""
    text = text_of(data)
    enter_context(RequestContext(text[:50], None, None, text, 1, job_id=text, trace=Trace(None, None)))
    record = logging.LogRecord("jsjobs.x", logging.WARNING, "f", 1, "job %s", (text,), None)
    record.extra = text
    JobFields().filter(record)
    line = TextFormatter("%(levelname)s %(message)s").format(record)
    assert all(char.isprintable() or char in "\n\t" for char in line)
    assert all(each.startswith("  ") for each in line.split("\n")[1:])
    assert "\n" not in JsonFormatter().format(record)
    enter_context(RequestContext())
    return True


def shown_text(data: bytes) -> bool:
    """A stranger's text on a terminal."""
    text = text_of(data)
    shown = str(plain(text))
    assert not any(ord(char) < 32 and char != "\n" for char in shown)
    shown.encode()
    said = dumps([text, {text: text}])
    said.encode()
    assert "\n" not in said
    assert json.loads(said)[0] == text
    return True


_TIMES = (
    b"1h30m",
    b"250ms",
    b"2.5",
    b"3",
    b"short",
    b"2026-11-22T12:00:00Z",
    b"2026-11-22T12:00:00.123+02:00",
    b"2d4s",
)
_CRONS = (b"0 3 * * *", b"*/15 9-17 * * mon-fri", b"0 0 12 1,15 jan *", b"@daily", b"every 30s", b"30 2 29 2 *")

TARGETS = (
    Target(
        "name", names, (b"critical-1795318823879006", b"at-0123", b"replay-1-3f2a9c", b"email.send", b"customer 42")
    ),
    Target("time", times, _TIMES, (b"ms", b"1h", b"T24:00:00", b"+23:59", b"0001-01-01", b"9999-12-31")),
    Target(
        "timetable",
        timetables,
        (*(SEPARATOR.join((cron, zone)) for cron in _CRONS for zone in (b"", b"Europe/Berlin")), b"0 0 1 1 *\x1fUTC"),
        (b"*/", b"fri-mon", b"L", b"#", b"29 2", b"America/Havana", b"Asia/Beirut", b"../../etc/passwd", b"every "),
        0.4,
    ),
    Target(
        "settings",
        settings,
        (
            b"JSJOBS_NATS_URL=nats://a:hunter2@h:4222\nJSJOBS_NAMESPACE=acme\nJSJOBS_REPLICAS=3",
            b'JSJOBS_POOLS={"critical": 8}\nJSJOBS_RETRY={"initial": 1, "jitter": [0.8, 1.2]}\nJSJOBS_ACK_WAIT=30',
            b"DATABASE_URL=postgresql://u:hunter2@h/d\nJSJOBS_GRACE=1\nJSJOBS_CONCURRENCY=5\nJSJOBS_APP=mail",
        ),
        (
            b"JSJOBS_POOLS=" + b"[" * 2000,
            b"JSJOBS_POOLS=",
            b"\nJSJOBS_RETRY={}",
            b"JSJOBS_TIMEOUT=",
            b"\nJSJOBS_NATS_TOKEN=hunter2",
        ),
        0.1,
    ),
    Target(
        "server address",
        urls,
        (b"nats://user:pass@host:4222,tls://other", b"postgresql://u:p@h:5432/d?sslmode=require", b"ws://[::1]:80"),
        (b"@", b"://", b"[", b"]", b"?", b"#", b"port="),
    ),
    Target("log line", log_lines, (b"failed", b"a\nb", *HEADERS[:2]), ("\x85".encode(), "\u2028".encode()), 0.4),
    Target("text on a terminal", shown_text, (b"text", b"[bold]x[/bold]", b"\x1b]0;title\x07"), ("\x9b31m".encode(),)),
)
