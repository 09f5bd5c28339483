import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import pytest

from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters, NewDeadLetter
from jsjobs.postgres.errors import LetterAmbiguous, LetterNotFound

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def new(job_id: str = "high-17", **values: Any) -> NewDeadLetter:
    usual: dict[str, Any] = {
        "type": "email.send",
        "priority": "high",
        "payload": b'{"to": "a@b"}',
        "error_reason": "MaxRetries",
        "attempts": 3,
        "dead_at": NOON,
    }
    return NewDeadLetter(original_job_id=job_id, **(usual | values))


async def stored(letters: DeadLetters, job_id: str = "high-17", **values: Any) -> DeadLetter:
    assert await letters.store(new(job_id, **values))
    return await letters.find(job_id)


async def ids(letters: DeadLetters, **filters: Any) -> list[str]:
    return [letter.original_job_id for letter in await letters.list(**filters)]


async def test_a_letter_comes_back_as_it_was_stored(letters: DeadLetters) -> None:
    letter = await stored(
        letters,
        app_id="acme",
        entity="customer-42",
        batch_id="b-1",
        headers=[("Nats-Msg-Id", "k"), ("X", "1"), ("X", "2")],
        headers_raw=b"NATS/1.0\r\nX: 1\r\n\r\n",
        traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
        error_history=[{"attempt": 1, "error": "boom", "timestamp": "2026-01-01T11:00:00Z"}],
        errors_dropped=7,
        created_at=NOON - timedelta(hours=1),
    )
    assert letter == DeadLetter(
        id=letter.id,
        namespace=letter.namespace,
        app_id="acme",
        original_job_id="high-17",
        type="email.send",
        priority="high",
        entity="customer-42",
        batch_id="b-1",
        payload=b'{"to": "a@b"}',
        payload_json={"to": "a@b"},
        headers=[("Nats-Msg-Id", "k"), ("X", "1"), ("X", "2")],
        headers_raw=b"NATS/1.0\r\nX: 1\r\n\r\n",
        traceparent=f"00-{'a' * 32}-{'b' * 16}-01",
        error_reason="MaxRetries",
        error_history=[{"attempt": 1, "error": "boom", "timestamp": "2026-01-01T11:00:00Z"}],
        errors_dropped=7,
        attempts=3,
        created_at=NOON - timedelta(hours=1),
        dead_at=NOON,
        replayed_at=None,
        replayed_job_id=None,
        discarded_at=None,
        original_payload=None,
        edited_at=None,
    )
    assert isinstance(letter.id, UUID)
    assert await letters.get(letter.id) == letter


async def test_a_letter_is_stored_once_for_each_job(letters: DeadLetters, database: Database) -> None:
    assert await letters.store(new(attempts=1))
    assert not await letters.store(new(attempts=2))
    assert (await letters.find("high-17")).attempts == 1
    assert await DeadLetters(database, f"other-{uuid4()}").store(new())
    assert sorted(await asyncio.gather(*(letters.store(new("high-18")) for _ in range(8)))) == [False] * 7 + [True]


async def test_without_a_tenant_it_is_the_default_one(letters: DeadLetters) -> None:
    assert (await stored(letters, "high-1")).app_id == "default"
    assert (await stored(letters, "high-2", app_id="")).app_id == "default"


async def test_other_namespaces_letters_are_not_seen(letters: DeadLetters, database: Database) -> None:
    letter = await stored(letters)
    stranger = DeadLetters(database, f"other-{uuid4()}")
    assert await stranger.get(letter.id) is None
    assert await stranger.list() == []
    await stranger.mark_replayed(letter.id, await letters.claim_replay(letter.id))
    assert (await letters.find("high-17")).replayed_at is None
    for attempt in (stranger.find(str(letter.id)), stranger.claim_replay(letter.id), stranger.discard(letter.id)):
        with pytest.raises(LetterNotFound, match=str(letter.id)):
            await attempt


class TestFind:
    async def insert(self, database: Database, letters: DeadLetters, letter_id: str, job_id: str) -> None:
        """With an id that the test chooses."""
        letter = await stored(letters, job_id)
        async with database.connection() as connection:
            statement = "update jsjobs_data.job_dlq set id = $1 where original_job_id = $2 and namespace = $3"
            await connection.execute(statement, letter_id, job_id, letter.namespace)

    async def test_finds_by_id_by_prefix_and_by_job(self, letters: DeadLetters) -> None:
        letter = await stored(letters, "at-7")
        whole = str(letter.id)
        for text in (whole, whole.upper(), letter.id.hex, whole[:6], whole[:8], whole[:15], whole[:-1], "at-7"):
            assert await letters.find(text) == letter

    async def test_says_when_several_are_meant(self, letters: DeadLetters, database: Database) -> None:
        group = uuid4().hex[:8]
        one, two = (f"{group}-0000-4000-8000-{uuid4().hex[:11]}{n}" for n in range(2))
        await self.insert(database, letters, one, "high-1")
        await self.insert(database, letters, two, "high-2")
        with pytest.raises(LetterAmbiguous, match="more digits") as caught:
            await letters.find(group)
        assert one in str(caught.value)
        assert two in str(caught.value)
        assert str((await letters.find(one)).id) == one
        # A job cannot take over the id of a letter.
        await letters.store(new(one))
        assert (await letters.find(one)).original_job_id == "high-1"

    @pytest.mark.parametrize("text", ["", "-", "------", "12345", "high-18", "zzzzzz", "a\0b", "\ud800", "0" * 33, "%"])
    async def test_says_when_none_is_meant(self, letters: DeadLetters, text: str) -> None:
        await letters.store(new())
        with pytest.raises(LetterNotFound, match="6 or more digits"):
            await letters.find(text)

    async def test_an_unknown_id_is_none(self, letters: DeadLetters) -> None:
        assert await letters.get(uuid4()) is None
        with pytest.raises(LetterNotFound):
            await letters.find(str(uuid4()))


class TestList:
    async def test_newest_first_and_limited(self, letters: DeadLetters) -> None:
        for hour in (2, 3, 1):
            await letters.store(new(f"high-{hour}", dead_at=NOON + timedelta(hours=hour)))
        assert await ids(letters) == ["high-3", "high-2", "high-1"]
        assert await ids(letters, limit=2) == ["high-3", "high-2"]
        assert await ids(letters, limit=0) == []

    async def test_filters(self, letters: DeadLetters) -> None:
        await letters.store(new("high-1", app_id="acme", error_reason="Validation"))
        await letters.store(new("high-2", type="report", dead_at=NOON + timedelta(hours=1)))
        third = new("high-3", app_id="acme", type="report", dead_at=NOON + timedelta(hours=2), batch_id="b1")
        await letters.store(third)
        assert await ids(letters, tenant="acme") == ["high-3", "high-1"]
        assert await ids(letters, batch="b1") == ["high-3"]
        assert await ids(letters, batch="b2") == []
        assert await letters.count(batch="b1") == len(await letters.undecided(batch="b1")) == 1
        assert await ids(letters, type="report") == ["high-3", "high-2"]
        assert await ids(letters, reason="Validation") == ["high-1"]
        assert await ids(letters, since=NOON + timedelta(hours=1)) == ["high-3", "high-2"]
        assert await ids(letters, since=datetime(2026, 1, 1, 13)) == ["high-3", "high-2"]  # noqa: DTZ001 - taken as UTC
        assert await ids(letters, tenant="acme", type="report", reason="MaxRetries", since=NOON) == ["high-3"]
        assert await ids(letters, tenant="nobody") == []
        with pytest.raises(TypeError, match="tennant"):  # ignored, it would let every letter through
            await ids(letters, tennant="acme")

    async def test_shows_the_undecided_unless_asked(self, letters: DeadLetters) -> None:
        open_, begun, replayed, discarded = [await stored(letters, f"high-{n}") for n in range(4)]
        await letters.claim_replay(begun.id)
        await letters.mark_replayed(replayed.id, await letters.claim_replay(replayed.id))
        await letters.discard(discarded.id)
        undecided = {"high-0", "high-1"}
        assert set(await ids(letters)) == undecided
        assert set(await ids(letters, include_replayed=True)) == undecided | {"high-2"}
        assert await letters.count() == len(undecided)
        assert set(await ids(letters, include_discarded=True)) == undecided | {"high-3"}
        assert len(await ids(letters, include_replayed=True, include_discarded=True)) == 4
        assert open_.id in {letter.id for letter in await letters.list()}

    async def test_pages_show_each_letter_once(self, letters: DeadLetters) -> None:
        for n in range(7):  # some died at the same moment
            await letters.store(new(f"high-{n}", dead_at=NOON + timedelta(hours=n // 3)))
        pages = []
        after = None
        while page := await letters.list(limit=2, after=after):
            pages += page
            after = page[-1]
        assert pages == await letters.list()
        assert len(pages) == 7

    async def test_the_default_view_reads_an_index_alone(self, letters: DeadLetters, database: Database) -> None:
        # Ten thousand decided letters that are newer must not be read through.
        letter = await stored(letters)
        fill = """
            insert into jsjobs_data.job_dlq (namespace, original_job_id, type, priority, payload, error_reason, discarded_at)
            select $1, n, 'email.send', 'high', '', 'MaxRetries', now() from generate_series(1, 10000) n
        """
        listed = "select id from jsjobs_api.letters($1, $2, null, null, null, null, false, false, null, null, 50)"
        read = """
            select coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables
            where schemaname = 'jsjobs_data' and relname = 'job_dlq'
        """
        async with database.connection() as connection:
            await connection.execute(fill, letter.namespace)
            await connection.execute("analyze jsjobs_data.job_dlq")
            for tenant in (None, "default"):
                async with connection.transaction():
                    assert len(await connection.fetch(listed, letter.namespace, tenant)) == 1
                    assert await connection.fetchval(read) < 100
