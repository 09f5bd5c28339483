"""Editing a letter's body: what was published is kept, and no replay that has begun runs with another one."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest

from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters, NewDeadLetter
from jsjobs.postgres.errors import (
    AlreadyReplayed,
    LetterChanged,
    LetterDiscarded,
    LetterNotFound,
    PayloadInvalid,
    ReplayUnfinished,
    SchemaMissing,
)
from jsjobs.postgres.migrate import migrate

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
AS_PUBLISHED = b'{"to": "a@b"'  # broken: that is why it died


def new(job_id: str = "high-17", **values: Any) -> NewDeadLetter:
    usual: dict[str, Any] = {
        "type": "email.send",
        "priority": "high",
        "payload": AS_PUBLISHED,
        "error_reason": "Validation",
        "attempts": 1,
        "dead_at": NOON,
        "error_history": [{"attempt": 1, "error": "no JSON", "timestamp": "2026-01-01T11:00:00Z"}],
    }
    return NewDeadLetter(original_job_id=job_id, **(usual | values))


@pytest.fixture
async def letter(letters: DeadLetters) -> DeadLetter:
    await letters.store(new())
    return await letters.find("high-17")


async def test_the_first_body_is_kept_however_often_it_is_edited(letters: DeadLetters, letter: DeadLetter) -> None:
    assert (letter.edited_at, letter.original_payload) == (None, None)
    for payload in (b'{"to": 1}', b' {"to": 2.50}'):
        await letters.edit(letter.id, payload)
        edited = await letters.get(letter.id)
        assert edited is not None
        assert (edited.payload, edited.original_payload) == (payload, AS_PUBLISHED)
        assert edited.edited_at is not None
        assert datetime.now(UTC) - edited.edited_at < timedelta(minutes=5)
    assert edited.payload_json == {"to": 2.5}
    # All else is as it was.
    assert (edited.type, edited.error_history, edited.replayed_at) == (letter.type, letter.error_history, None)


@pytest.mark.parametrize(
    ("payload", "says"),
    [(b"", "is not JSON"), (b"{", "is not JSON"), (b"NaN", "is not JSON"), ({"to": 1}, "not dict"), ("1", "not str")],
)
async def test_what_is_no_json_is_refused_andchanges_nothing(
    letters: DeadLetters, letter: DeadLetter, payload: Any, says: str
) -> None:
    with pytest.raises(PayloadInvalid, match=says):
        await letters.edit(letter.id, payload)
    assert await letters.get(letter.id) == letter


async def test_json_that_jsonb_refuses_is_kept_as_bytes(letters: DeadLetters, letter: DeadLetter) -> None:
    await letters.edit(letter.id, rb'"\u0000"')
    edited = await letters.find(str(letter.id))
    assert (edited.payload, edited.payload_json) == (rb'"\u0000"', None)


async def test_a_replay_that_has_begun_refuses_it_and_one_that_is_finished_must_be_forced(
    letters: DeadLetters, letter: DeadLetter
) -> None:
    job_id = await letters.claim_replay(letter.id)
    for force in (False, True):
        with pytest.raises(ReplayUnfinished, match=job_id):
            await letters.edit(letter.id, b"1", force=force)
    await letters.mark_replayed(letter.id, job_id)
    with pytest.raises(AlreadyReplayed):
        await letters.edit(letter.id, b"1")
    await letters.edit(letter.id, b"1", force=True)
    assert (await letters.find("high-17")).payload == b"1"


async def test_a_discarded_letter_must_be_forced(letters: DeadLetters, letter: DeadLetter) -> None:
    await letters.discard(letter.id)
    with pytest.raises(LetterDiscarded):
        await letters.edit(letter.id, b"1")
    await letters.edit(letter.id, b"1", force=True)


async def test_of_two_who_read_the_same_only_one_edits(letters: DeadLetters, letter: DeadLetter) -> None:
    edits = (letters.edit(letter.id, b"%d" % number, instead_of=AS_PUBLISHED) for number in range(5))
    outcomes = await asyncio.gather(*edits, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not None] == [LetterChanged] * 4
    winner = next(number for number, outcome in enumerate(outcomes) if outcome is None)
    assert (await letters.find("high-17")).payload == b"%d" % winner


async def test_an_unknown_letter_and_another_namespaces_cannot_be_edited(
    letters: DeadLetters, letter: DeadLetter, database: Database
) -> None:
    for table, letter_id in ((letters, uuid4()), (DeadLetters(database, "another"), letter.id)):
        with pytest.raises(LetterNotFound):
            await table.edit(letter_id, b"1")


async def test_the_true_letter_that_comes_late_leaves_an_edit_in_place(letters: DeadLetters) -> None:
    """A row without errors may be a stranger's, and gives way to the true one."""
    await letters.store(new(payload=b'"forged"', error_history=[]))
    forged = await letters.find("high-17")
    await letters.edit(forged.id, b'"edited"')
    await letters.store(new())
    late = await letters.find("high-17")
    assert (late.payload, late.payload_json, late.original_payload) == (b'"edited"', "edited", AS_PUBLISHED)
    assert late.error_history != []


async def test_pages_count_and_undecided_tell_of_the_same_letters(letters: DeadLetters) -> None:
    for number in range(120):
        minutes = timedelta(minutes=number)
        entity = f"e{number % 3}" if number % 2 else None
        await letters.store(new(f"high-{number + 1}", app_id=f"t{number % 2}", entity=entity, dead_at=NOON + minutes))
    await letters.discard((await letters.find("high-1")).id)
    listed = [letter async for page in letters.pages() for letter in page]
    assert [letter.original_job_id for letter in listed] == [f"high-{number}" for number in range(120, 1, -1)]
    assert await letters.count() == 119
    assert await letters.count(include_discarded=True, tenant="t0") == 60
    assert len([1 async for page in letters.pages(include_discarded=True) for _ in page]) == 120
    undecided = await letters.undecided()
    assert [letter.id for letter in undecided] == [letter.id for letter in reversed(listed)]
    assert [letter.entity for letter in undecided] == [letter.entity for letter in reversed(listed)]
    # A limit means the newest, whichever way round they come.
    assert [letter.id for letter in await letters.undecided(limit=7)] == [one.id for one in reversed(listed[:7])]
    assert [one.id async for page in letters.pages(limit=57) for one in page] == [one.id for one in listed[:57]]
    since = NOON + timedelta(minutes=100)
    assert await letters.count(since=since, tenant="t1", type="email.send", reason="Validation") == 10
    assert len(await letters.undecided(since=since, tenant="t1", type="email.send", reason="Validation")) == 10
    assert await letters.undecided(type="other") == []


async def test_a_database_that_is_not_migrated_yet_says_what_to_run(empty_url: str) -> None:
    async with Database(empty_url) as database:
        await migrate(database)
        letters = DeadLetters(database, "jobs")
        await letters.store(new())
        (letter,) = await letters.list()
        async with database.connection() as connection:
            await connection.execute("drop function jsjobs_api.edit")
        with pytest.raises(SchemaMissing, match="run `jsjobs db migrate`"):
            await letters.edit(letter.id, b"1")
