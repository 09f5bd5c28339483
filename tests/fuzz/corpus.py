"""Valid messages, headers, entries and requests, from which mutated ones are made."""

import json
from typing import Any

HEADERS = (
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nJsjobs-Entity: customer-42\r\nJsjobs-Tenant: acme\r\nJsjobs-Request-Id: r-1\r\nJsjobs-Batch: b1\r\n\r\n",
    b"NATS/1.0\r\nJsjobs-Max-Attempts: 5\r\nJsjobs-Duration: long\r\nJsjobs-Timeout: 2.5\r\nNats-Msg-Id: k\r\n\r\n",
    b"NATS/1.0\r\nJsjobs-Expires: 2026-11-22T12:00:00Z\r\nJsjobs-Expired: drop\r\nJsjobs-Id: replay-1-3f2a9c\r\n\r\n",
    (
        b"NATS/1.0\r\nJsjobs-Schedule: nightly\r\nJsjobs-Timetable: 0 3 * * *\r\nJsjobs-Time-Zone: Europe/Berlin\r\n"
        b"Nats-Schedule-Next: 2026-11-23T03:00:00Z\r\n\r\n"
    ),
    b"NATS/1.0\r\nJsjobs-Schedule: often\r\nJsjobs-Timetable: every 30s\r\nNats-Schedule-Next: 2026-11-22T12:00:30Z\r\n\r\n",
    b"NATS/1.0\r\ntraceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=1,b=2\r\n\r\n",
    b"NATS/1.0\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2026-11-22T12:00:00.123456789Z\r\nNats-Subject: a.b\r\n\r\n",
)

HEADER_NAMES = tuple(
    name for block in HEADERS for name in (line.partition(b":")[0] + b": " for line in block.split(b"\r\n")[1:] if line)
)

STORED = b"jobs.work.critical.1x4.3.email.send"
IN_LANE = b"jobs.lane.critical.3.email.send"

REPLY = b"$JS.ACK.JOBS_CRITICAL.critical-1x4-3.1.1795318823879006.17.1795350000000000000.4"

REPLY_2 = b"$JS.ACK.hub.AbCdEf.JOBS_CRITICAL.critical-1x4-3.1.1795318823879006.17.1795350000000000000.4.tok"

FORMS: tuple[dict[str, Any], ...] = (
    {"type": "email.send", "payload": {"to": "a"}, "priority": "high", "entity": "e", "dedupe_key": "k", "timeout": 5},
    {"type": "count", "payload": {"a": 1}, "delay": 2.5, "debounce_key": "k", "tenant": "acme", "request_id": "r"},
    {"type": "x", "payload": [1], "at": "2030-01-01T00:00:00Z", "expires": 60, "expired": "drop", "max_attempts": 3},
    {"job_id": "normal-7", "timeout": 1},
    {"job_id": "at-0123456789abcdef", "delay": 3},
    {"dlq_id": "3f2a9c", "priority": "low", "force": True},
)
ADVISORY = {"stream": "JOBS_CRITICAL", "consumer": "critical-1x4-3", "stream_seq": 1795318823879006, "deliveries": 100}

FOUND = b"NATS/1.0\r\nNats-Sequence: 7\r\nNats-Time-Stamp: 2026-11-22T12:00:00.5Z\r\nNats-Subject: $KV.jobs.normal-7\r\n\r\n"

_MOMENT = "2026-11-22T12:00:00.123456Z"

ENTRIES = tuple(
    json.dumps(each).encode()
    for each in (
        {"job_id": "normal-7", "status": "queued", "type": "a.b", "created_at": _MOMENT},
        {
            "job_id": "normal-7",
            "status": "processing",
            "attempts": 1,
            "type": "email.send",
            "priority": "high",
            "entity": "e",
            "tenant": "acme",
            "batch_id": "b",
            "created_at": _MOMENT,
            "worker": "w",
            "max_attempts": 3,
            "history": [{"status": "processing", "timestamp": _MOMENT, "attempt": 1}],
            "carrier": {"stream": "JOBS_HIGH", "sequence": 7, "stored_at": _MOMENT},
        },
        {
            "job_id": "at-x",
            "status": "queued",
            "attempts": 0,
            "next_attempt_at": _MOMENT,
            "snoozed_until": _MOMENT,
            "scheduled_for": _MOMENT,
            "retry": {"failures": 2, "backoff": 0.3, "due": _MOMENT},
            "history": [{"status": "queued", "timestamp": _MOMENT, "attempt": 1, "error": "no"}],
        },
        {
            "job_id": "low-9",
            "status": "complete",
            "result": {"a": [1, None]},
            "completed_at": _MOMENT,
            "created_at": _MOMENT,
        },
        {"job_id": "low-9", "status": "failed", "error_reason": "Timeout", "last_error": "Timeout: x", "attempts": 3},
    )
)

SCHEDULED = (
    b"NATS/1.0\r\nNats-Schedule: @at 2026-12-01T00:00:00Z\r\nNats-Schedule-Target: jobs.due.high.e.note\r\n"
    b"Jsjobs-Id: at-x\r\nJsjobs-Entity: e\r\n\r\n"
)

PERIODIC = (
    b"NATS/1.0\r\nNats-Schedule: 0 0 3 * * *\r\nNats-Schedule-Target: jobs.due.high.e.note\r\nJsjobs-Schedule: nightly\r\n"
    b"Jsjobs-Timetable: 0 3 * * *\r\nJsjobs-Time-Zone: Europe/Berlin\r\nJsjobs-Owner: app\r\n\r\n"
)
