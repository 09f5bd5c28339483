"""What is read back from the server: entries, schedules, records, progress, and the server's own answers."""

import base64
import io
import json
import re
from contextlib import redirect_stdout, suppress
from datetime import timedelta
from random import Random
from typing import Any

from corpus import ENTRIES, FOUND, HEADERS, PERIODIC, SCHEDULED, STORED
from pydantic import ValidationError
from target import NAMES, NOW, SEPARATOR, Answering, Target, at_once, in_a_loop, parts, refused

from jsjobs import JobService
from jsjobs.cli.commands.job_view import print_status
from jsjobs.cli.output import dumps
from jsjobs.dead_letters.row import row
from jsjobs.jetstream.api.account import account_info
from jsjobs.jetstream.api.consumers import consumer_info, list_consumers
from jsjobs.jetstream.api.errors import Refusal
from jsjobs.jetstream.api.messages import StoredMessage, find_at_leader, find_stored
from jsjobs.jetstream.api.publish import answer_of, refusal
from jsjobs.jetstream.api.requests import call
from jsjobs.jetstream.api.streams import stream_info
from jsjobs.jetstream.client.requests import Reply
from jsjobs.jetstream.jobs.dead_letter_message import Letter
from jsjobs.jetstream.jobs.message import read_job
from jsjobs.jetstream.jobs.state_store import StateStore, UnreadableEntry
from jsjobs.jetstream.schedules.periodic import Periodic, definition_of
from jsjobs.jetstream.schedules.schedule import read_schedule
from jsjobs.jetstream.topology.generations import MAX_GENERATIONS, read_live
from jsjobs.jetstream.tracking import batches as batches_module
from jsjobs.jetstream.tracking.batches import Batches
from jsjobs.jetstream.tracking.follower import may_tell_end
from jsjobs.model.errors import JobError, Reason
from jsjobs.model.job import JobStatusResponse, ProgressUpdate, failure, new_status
from jsjobs.model.retry import Retry
from jsjobs.settings import MAX_SHARDS
from jsjobs.worker.claim_decision import decide

batches_module.LAG = 0  # no replica lags behind here
JOB = read_job(NAMES, STORED, b"", b"1", sequence=7, stored_at=NOW)
POLICY = Retry()
_JOB_ID = re.compile(rb'"job_id": ?"([a-z0-9-]+)"')


def entry(data: bytes) -> bool:
    """An entry of the bucket: what a worker, a router and a terminal make of it."""
    store = StateStore(Answering(FOUND, data), NAMES)  # type: ignore[arg-type]
    may_tell_end(data)
    try:
        said = _JOB_ID.search(data)
        found = at_once(store.read(said[1].decode() if said else "normal-7"))
        status = None if found is None else found.entry
    except UnreadableEntry as error:
        assert found is not None
        decide(found, JOB, worker="w", now=NOW, server_now=NOW, ack_wait=30.0, margin=2.0)
        return refused(error.message)
    except JobError as error:
        return refused(error.message)
    if found is None or status is None:
        return False
    given = JOB._replace(carrier=status.carrier) if status.carrier is not None else JOB
    for job in (JOB, given):
        at = {"worker": "w", "now": NOW, "server_now": NOW + timedelta(days=1), "ack_wait": 30.0, "margin": 2.0}
        decide(found, job, sleeps=True, **at)
        decide(found, job, sleeps=False, **at)
    for after in _afterwards(status):
        json.loads(after.to_json(b"[1]"))
    row(Letter("normal-7", Reason.TIMEOUT, b"", b"1"), status, NOW).parameters("jobs")
    failure(status)
    dumps(json.loads(status.to_json()))
    return True


def _afterwards(status: JobStatusResponse) -> list[JobStatusResponse]:
    if status.status.is_terminal:
        return [status]
    if status.retry is not None:
        POLICY.after_failure(status.retry, now=NOW, due=status.retry.due or status.next_attempt_at, rng=Random(1))
    started = status.started(NOW, "w")
    return [
        started.retried(NOW, "no \ud800 good", due=NOW, retry=status.retry),
        started.snoozed(NOW, NOW),
        started.released(NOW),
        started.failed(NOW, Reason.TIMEOUT, "late"),
        started.completed(NOW),
        status.cancelled(NOW),
    ]


def shown_entry(data: bytes) -> bool:
    """An entry on a terminal: nothing in it commands the terminal."""
    try:
        status = JobStatusResponse.model_validate_json(data)
    except ValidationError:
        return False
    with redirect_stdout(io.StringIO()) as shown:
        print_status(status)
    assert all(char.isprintable() or char == "\n" for char in shown.getvalue())
    return True


def topology(data: bytes) -> bool:
    answer = {"message": {"subject": "$KV.jobs.topology.high", "seq": 7, "time": "2026-11-22T12:00:00Z"}}
    encoded = json.dumps(answer).encode()[:-2] + b',"data":"%b"}}'
    connection: Any = Answering(b"", encoded % base64.b64encode(data))
    live = at_once(read_live(connection, NAMES, JobService.Priority.HIGH))
    assert len(live.generations) <= MAX_GENERATIONS
    assert all(0 < generation.shards <= MAX_SHARDS for generation in live.generations)
    assert not (live.problem and live.generations)
    for moment in (live.paused_until, live.operators_pause):
        assert moment is None or moment.tzinfo is not None
    return bool(live.generations)


def batch_record(data: bytes) -> bool:
    batches = Batches(_Reading(data), NAMES, result_ttl=3600)  # type: ignore[arg-type]
    try:
        status = in_a_loop(batches.status("b"))
    except JobError as error:
        return refused(error.message)
    assert status.total == len(status.ids)
    return True


class _Reading(Answering):
    """A bucket in which one record is, and nothing else."""

    last_error = None

    def __init__(self, data: bytes) -> None:
        super().__init__(FOUND, data)
        self.on_reconnect: list[Any] = []
        self._take: Any = None

    async def when_up(self, *_: Any) -> None: ...

    async def ask(self, _subject: bytes = b"", data: bytes = b"", **_: Any) -> Reply:
        return self._reply if b".batch." in data else Reply(b"NATS/1.0 404\r\n\r\n", b"")

    def new_inbox(self) -> str:
        return "_INBOX.x"

    async def receive(self, _subject: bytes, take: Any) -> int:
        self._take = take
        return 1

    async def stop_receiving(self, *_: Any, **__: Any) -> None: ...

    def post(self, _subject: bytes, _data: bytes, *, reply: bytes) -> None:
        self._take(reply, b"", b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")


def progress(data: bytes) -> bool:
    try:
        update = ProgressUpdate.model_validate_json(data)
    except ValidationError:
        return False
    assert 0 <= update.pct <= 100
    update.model_dump_json()
    return True


def schedule(data: bytes) -> bool:
    subject, block, body = parts(data, 3)
    try:
        found = read_schedule(StoredMessage(7, subject, NOW, block, body))
    except JobError as error:
        return refused(error.message)
    assert found.due is None or found.due.tzinfo is not None
    definition_of(found)
    taken = 0
    periodic = Periodic(Answering(b"", b""), NAMES)  # type: ignore[arg-type]
    for read in (found.entry, lambda _: periodic.status(found, NOW), lambda _: periodic.job(found)):
        with suppress(JobError):
            read(NAMES)
            taken += 1
    return taken == 3


_STREAM = (
    b'{"config":{"name":"JOBS_HIGH","num_replicas":3,"subject_transform":{"src":"a","dest":"b"}},"state":{"messages":1,'
    b'"first_ts":"2026-11-22T12:00:00.1Z","subjects":{"a":1}},"created":"2026-11-22T12:00:00Z","ts":"2026-11-22T12:00:01Z",'
    b'"cluster":{"leader":"n1","replicas":[{"name":"n2","current":true,"active":5}]},"sources":[{"active":-1,"seq":7}]}'
)
_CONSUMER = (
    b'{"stream_name":"JOBS_HIGH","name":"high-1x3-0","config":{"ack_wait":30000000000,"pause_until":"2026-11-22T12:00:00Z"},'
    b'"created":"2026-11-22T12:00:00Z","ts":"2026-11-22T12:00:01Z","delivered":{"consumer_seq":1,"stream_seq":2},'
    b'"ack_floor":{"consumer_seq":0,"stream_seq":0},"num_pending":1,"num_ack_pending":1,"num_redelivered":0,"paused":true}'
)


def answers(data: bytes) -> bool:
    """An answer to any question, perhaps not the server's: read, or refused as such."""
    block, body = parts(data, 2)
    connection: Any = Answering(block, body)
    queued = new_status({"job_id": "normal-7"})
    questions = (
        lambda: call(connection, "INFO"),
        lambda: account_info(connection),
        lambda: stream_info(connection, "JOBS_HIGH"),
        lambda: consumer_info(connection, "JOBS_HIGH", "high-1x3-0"),
        lambda: _listed(connection),
        lambda: find_stored(connection, "JOBS_HIGH", {"seq": 7}),
        lambda: find_at_leader(connection, "JOBS_HIGH", {"seq": 7}),
        lambda: StateStore(connection, NAMES).read("normal-7"),
        lambda: StateStore(connection, NAMES).write(queued, expected=0, within=0),
        lambda: _published(connection),
    )
    taken = 0
    for question in questions:
        try:
            in_a_loop(question())
        except JobError as error:
            refused(error.message)
        else:
            taken += 1
    return taken > 1


async def _published(connection: Any) -> None:
    answer = answer_of(await connection.ask())
    if isinstance(answer, Refusal):
        raise refusal(answer)


async def _listed(connection: Any) -> None:
    async for _ in list_consumers(connection, "JOBS_HIGH"):
        pass


TARGETS = (
    Target("state entry", entry, ENTRIES, (b'"timestamp"', b'"2026-11-22T12:00:00"', b'"snoozed_until"'), 2),
    Target("entry on a terminal", shown_entry, ENTRIES, (), 0.05),
    Target(
        "topology entry",
        topology,
        (
            b'{"generations": ["1x4", "2x8"], "paused_until": "2026-11-22T12:00:00Z"}',
            b'{"generations": ["1x4"], "copies": 3, "operators_pause": "2100-01-01T00:00:00+00:00"}',
        ),
        (b"1x4", b"Infinity"),
    ),
    Target(
        "batch record",
        batch_record,
        (
            b'{"runs": ["normal-7:3", "at-x", "low-9"], "batch_id": "b", "created_at": "2026-11-22T12:00:00Z", "total": 5}',
            b'{"runs": ["at-x-1:2"], "batch_id": "b", "created_at": "2026-11-22T12:00:00Z", "total": 2, "parts": 1}',
        ),
        (b"normal-1:999999999", b":2"),
        0.5,
    ),
    Target(
        "progress update",
        progress,
        (b'{"pct": 50.5, "message": "rendering", "timestamp": "2026-11-22T12:00:00Z"}', b'{"pct":0,"timestamp":1}'),
    ),
    Target(
        "schedule",
        schedule,
        (
            SEPARATOR.join((b"jobs.at.at-x", SCHEDULED, b"1")),
            SEPARATOR.join((b"jobs.at.schedule.nightly", PERIODIC, b'{"days": 1}')),
        ),
        (*HEADERS[1:3], b"@every 1s", b"jobs.due.", b"0 0 29 2 *"),
        0.5,
    ),
    Target(
        "server's answer",
        answers,
        (
            SEPARATOR.join((FOUND, ENTRIES[0])),
            SEPARATOR.join((b"", b'{"stream":"JOBS_HIGH","seq":7,"duplicate":true}')),
            SEPARATOR.join((b"", b'{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 3"}}')),
            SEPARATOR.join((b"NATS/1.0 404 Message Not Found\r\n\r\n", b"")),
            SEPARATOR.join((b"", _STREAM)),
            SEPARATOR.join((b"", _CONSUMER)),
            SEPARATOR.join((b"", b'{"total":1,"offset":0,"limit":256,"consumers":[%b]}' % _CONSUMER)),
            SEPARATOR.join(
                (
                    b"",
                    b'{"message":{"subject":"a","seq":7,"data":"MQ==","hdrs":"TkFU","time":"2026-11-22T12:00:00.1Z"}}',
                )
            ),
        ),
        (b'{"error":', b'"err_code":10077'),
    ),
)
