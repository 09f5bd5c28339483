"""No letter can be refused for what is in it, and none keeps others from being read."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jsjobs.postgres import sanitise
from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetters, NewDeadLetter
from jsjobs.postgres.errors import LetterUnreadable
from jsjobs.postgres.migrate import migrate

NOW = datetime(2026, 1, 1, tzinfo=UTC)
HOSTILE = "\0 \ud800 \udfff\udc00 \U0001f4a9 \r\n ' \\ \x7f"


def new(payload: bytes = b"", **values: Any) -> NewDeadLetter:
    usual: dict[str, Any] = {
        "original_job_id": f"high-{uuid4()}",
        "type": "t",
        "priority": "high",
        "error_reason": "MaxRetries",
        "attempts": 3,
        "dead_at": NOW,
    }
    return NewDeadLetter(payload=payload, **(usual | values))


PAYLOADS = {
    "empty": b"",
    "not JSON": b"\xff\xfe\x00",
    "NUL": b'"\\u0000"',
    "raw NUL": b'"\0"',
    "NUL in a key": b'{"\\u0000": 1}',
    "lone high surrogate": b'"\\ud800"',
    "lone low surrogate": b'["\\udc00"]',
    "encoded surrogate": b'"\xed\xa0\x80"',
    "invalid UTF-8": b'"\xc3\x28"',
    "byte order mark": b"\xef\xbb\xbf{}",
    "NaN": b"[NaN]",
    "infinity": b"-Infinity",
    "deep list": b"[" * 100_000 + b"]" * 100_000,
    "deep object": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "too deep for a reader": b"[" * 101 + b"]" * 101,
    "large exponent": b"1e131071",
    "exponent beyond numeric": b"1e400000",
    "exponent beyond Python": b"1e" + b"9" * 5000,
    "small exponent": b"1e-16383",
    "many exponents": b"[" + b",".join([b"1e390"] * 1000) + b"]",
    "long integer": b"9" * 200_000,
    "long fraction": b"0." + b"9" * 200_000,
    "unfinished": b'{"a": ',
    "megabyte of bytes": bytes(range(256)) * 4096,
}

DOCUMENTS = {
    "null": (b"null", None),
    "duplicate keys": (b'{"a": 1, "a": 2}', {"a": 2}),
    "spaces": (b' \n{"a":[ ]}\t', {"a": []}),
    "numbers": (
        b"[0, -1, 1e3, 1.5, 2.5e-07, 12345678901234567890123]",
        [0, -1, 1000, 1.5, 2.5e-07, 12345678901234567890123],
    ),
    "vector": (json.dumps([1.5e-08] * 3000).encode(), [1.5e-08] * 3000),
    "escapes": (b'"\\ud83d\\udca9 \\n \\u0001 \\\\u0000"', "\U0001f4a9 \n \x01 \\u0000"),
    "deep enough": (b"[" * 99 + b"1" + b"]" * 99, json.loads("[" * 99 + "1" + "]" * 99)),
    "nearly a megabyte": (json.dumps({"a": "x" * 10**6}).encode(), {"a": "x" * 10**6}),
}


@pytest.mark.parametrize("name", PAYLOADS)
async def test_a_body_that_jsonb_refuses_is_kept_as_bytes(letters: DeadLetters, name: str) -> None:
    letter = new(PAYLOADS[name])
    assert await letters.store(letter)
    [read] = await letters.list()
    assert read.payload == PAYLOADS[name]
    assert read.payload_json is None


@pytest.mark.parametrize("name", DOCUMENTS)
async def test_a_json_body_is_kept_as_both(letters: DeadLetters, database: Database, name: str) -> None:
    payload, document = DOCUMENTS[name]
    assert await letters.store(new(payload))
    [read] = await letters.list()
    assert read.payload == payload
    assert read.payload_json == document
    async with database.connection() as connection:
        query = "select payload_json is not null from jsjobs_data.job_dlq where id = $1"
        assert await connection.fetchval(query, read.id)


TEXTS = ["type", "priority", "entity", "batch_id", "app_id", "error_reason", "original_job_id"]
any_text = st.text(st.characters(categories=None) | st.sampled_from("\0\ud800\udfff"), max_size=300)
times = st.datetimes(timezones=st.none() | st.just(UTC) | st.timezones())


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    payload=st.binary() | any_text.map(lambda text: json.dumps(text).encode()),
    texts=st.fixed_dictionaries(dict.fromkeys(TEXTS, any_text)),
    headers=st.lists(st.tuples(any_text, any_text), max_size=5),
    headers_raw=st.none() | st.binary(),
    history=st.lists(
        st.fixed_dictionaries({"attempt": st.integers(), "error": any_text, "timestamp": any_text}), max_size=3
    ),
    attempts=st.integers(),
    created_at=st.none() | times,
    dead_at=times,
)
@example(
    payload=b"\xff",
    texts=dict.fromkeys(TEXTS, HOSTILE),
    headers=[(HOSTILE, HOSTILE)],
    headers_raw=b"NATS/1.0",
    history=[{"attempt": 10**5000, "error": HOSTILE, "timestamp": HOSTILE}],
    attempts=-(10**5000),
    created_at=datetime.max.replace(tzinfo=UTC),
    dead_at=datetime.min,  # noqa: DTZ901 - as hostile as it gets
)
async def test_nothing_in_a_letter_can_keep_it_out(letters: DeadLetters, texts: dict[str, Any], **values: Any) -> None:
    values["error_history"] = values.pop("history")
    texts["original_job_id"] += str(uuid4())
    letter = NewDeadLetter(**(texts | values))
    assert await letters.store(letter)
    assert not await letters.store(letter)
    read = await letters.find(texts["original_job_id"])
    assert read.payload == letter.payload
    assert read.headers_raw == letter.headers_raw
    assert read.entity == (sanitise.entity(texts["entity"]) if texts["entity"] else None)
    assert read.headers == [(sanitise.text(name), sanitise.text(value)) for name, value in letter.headers]
    # The server takes none of more than a day ahead of it.
    assert read.dead_at == min(sanitise.moment(letter.dead_at), max(read.dead_at, datetime.now(UTC)))
    filters: dict[str, Any] = {
        "tenant": texts["app_id"] or "default",
        "type": texts["type"],
        "reason": texts["error_reason"],
    }
    assert read in await letters.list(**filters, limit=1000)


async def test_what_is_larger_than_any_queue_takes_is_cut_and_kept(letters: DeadLetters) -> None:
    headers = [("X", "\x01" * 1000)] * 1000
    history: Any = [{"attempt": n, "error": "e" * 2**20, "timestamp": "t"} for n in range(4)]
    large = new(b"x" * 3 * 2**20, headers_raw=b"y" * 3 * 2**20, headers=headers, error_history=history)
    assert await letters.store(large)
    [read] = await letters.list()
    assert (len(read.payload), len(read.headers_raw or b"")) == (2**20, 2**20)
    assert 0 < len(read.headers) < 1000
    assert read.error_history == history[:1]


async def test_very_long_texts_fit_into_the_indexes(letters: DeadLetters) -> None:
    # Noise that does not compress.
    noise = "".join(chr(0x4E00 + n * 7919 % 20000) for n in range(100_000))
    texts: dict[str, Any] = dict.fromkeys(TEXTS, noise)
    assert await letters.store(new(**texts))
    assert await letters.store(new(**(texts | {"original_job_id": noise + "x"})))
    assert len(await letters.list(tenant=noise, type=noise, reason=noise)) == 2
    entity = (await letters.find(noise)).entity
    assert entity == sanitise.entity(noise)
    assert entity[:200] == noise[:200]


async def test_hostile_ids_do_not_take_each_others_place(letters: DeadLetters) -> None:
    for job_id in ("a\0", "a\ud800", "a\ufffd"):
        assert await letters.store(new(original_job_id=job_id))
    assert len(await letters.list()) == 3


async def test_a_document_that_only_postgres_refuses_is_kept_as_bytes(
    letters: DeadLetters, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sanitise, "json_text", lambda payload: payload.decode())
    bodies = [b"{", b"1e400000", b"[" * 100_000, b'"\\u0000"', b"1e131071", b"[" + b",".join([b"1e131071"] * 9) + b"]"]
    for body in bodies:
        assert await letters.store(new(body))
    assert [letter.payload_json for letter in await letters.list()] == [None] * len(bodies)


async def test_what_the_constraints_let_none_write_keeps_no_other_letter_from_being_read(
    empty_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with Database(empty_url) as database:
        await migrate(database)
        letters = DeadLetters(database, "jobs")
        odd = {"headers": "[[1, 2]]", "error_history": '[{"attempt": 1}]'}
        for job_id in ("good", *odd):
            assert await letters.store(new(original_job_id=job_id))
        async with database.connection() as connection:
            await connection.execute(
                "alter table jsjobs_data.job_dlq drop constraint job_dlq_headers, drop constraint job_dlq_error_history"
            )
            for column, value in odd.items():
                update = f"update jsjobs_data.job_dlq set {column} = $1 where original_job_id = $2"
                await connection.execute(update, value, column)
        assert [letter.original_job_id for letter in await letters.list()] == ["good"]
        assert [letter.original_job_id async for page in letters.pages() for letter in page] == ["good"]
        assert len(await letters.headings()) == len(await letters.undecided()) == 3
        for column in odd:
            with pytest.raises(LetterUnreadable, match=f"its {column} is not what jsjobs writes"):
                await letters.find(column)
    assert "cannot be read: its headers is not what jsjobs writes; it is left out" in caplog.text


@pytest.mark.parametrize("hours", [-14, 14])
def test_times_at_the_ends_of_the_calendar_are_kept(hours: int) -> None:
    zone = timezone(timedelta(hours=hours))
    for end in (datetime.min, datetime.max):  # noqa: DTZ901 - their zone follows
        assert sanitise.moment(end.replace(tzinfo=zone)).tzinfo == UTC
