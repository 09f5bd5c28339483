"""Deciding what becomes of a letter: replayed, once, or discarded."""

import asyncio
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from jsjobs.postgres.database import Database
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters, NewDeadLetter
from jsjobs.postgres.errors import AlreadyReplayed, LetterDiscarded, LetterNotFound, ReplayUnfinished


async def stored(letters: DeadLetters, job_id: str) -> DeadLetter:
    new = NewDeadLetter(
        original_job_id=job_id,
        type="email.send",
        priority="high",
        payload=b"{}",
        error_reason="MaxRetries",
        attempts=3,
        dead_at=datetime(2026, 1, 1, tzinfo=UTC),
    )
    assert await letters.store(new)
    return await letters.find(job_id)


@pytest.fixture
async def letter(letters: DeadLetters) -> DeadLetter:
    return await stored(letters, "high-17")


class TestReplay:
    async def test_a_claim_is_given_again_until_it_is_finished(self, letters: DeadLetters, letter: DeadLetter) -> None:
        job_id = await letters.claim_replay(letter.id)
        assert job_id == f"replay-1-{letter.id}"
        assert await letters.claim_replay(letter.id) == job_id
        assert await letters.claim_replay(letter.id, force=True) == job_id
        await letters.mark_replayed(letter.id, job_id)
        with pytest.raises(AlreadyReplayed, match=job_id) as caught:
            await letters.claim_replay(letter.id)
        assert (caught.value.letter_id, caught.value.job_id) == (letter.id, job_id)

    async def test_a_forced_replay_has_the_next_number(self, letters: DeadLetters, letter: DeadLetter) -> None:
        for n in range(1, 12):
            job_id = await letters.claim_replay(letter.id, force=n > 1)
            assert job_id == f"replay-{n}-{letter.id}"
            assert (await letters.find(letter.original_job_id)).replayed_at is None
            await letters.mark_replayed(letter.id, job_id)

    async def test_marking_is_idempotent_and_for_the_standing_claim_alone(
        self, letters: DeadLetters, letter: DeadLetter
    ) -> None:
        first = await letters.claim_replay(letter.id)
        await letters.mark_replayed(letter.id, first)
        marked = (await letters.find(letter.original_job_id)).replayed_at
        assert marked is not None
        await letters.mark_replayed(letter.id, first)
        assert (await letters.find(letter.original_job_id)).replayed_at == marked
        second = await letters.claim_replay(letter.id, force=True)
        await letters.mark_replayed(letter.id, first)  # late
        assert (await letters.find(letter.original_job_id)).replayed_at is None
        await letters.mark_replayed(letter.id, second)
        assert (await letters.find(letter.original_job_id)).replayed_job_id == second
        await letters.mark_replayed(uuid4(), first)

    @pytest.mark.parametrize("force", [False, True])
    async def test_ten_operators_at_once_have_one_id(
        self, database_url: str, letters: DeadLetters, letter: DeadLetter, force: bool
    ) -> None:
        if force:
            await letters.mark_replayed(letter.id, await letters.claim_replay(letter.id))
        databases = [Database(database_url) for _ in range(10)]
        claims = [
            DeadLetters(database, letter.namespace).claim_replay(letter.id, force=force) for database in databases
        ]
        assert set(await asyncio.gather(*claims)) == {f"replay-{1 + force}-{letter.id}"}
        await asyncio.gather(*(database.close() for database in databases))

    async def test_a_discarded_letter_is_replayed_by_force_alone(
        self, letters: DeadLetters, letter: DeadLetter
    ) -> None:
        await letters.discard(letter.id)
        with pytest.raises(LetterDiscarded, match="force"):
            await letters.claim_replay(letter.id)
        assert await letters.claim_replay(letter.id, force=True) == f"replay-1-{letter.id}"
        assert (await letters.find(letter.original_job_id)).discarded_at is None

    async def test_an_unknown_letter_is_not_found(self, letters: DeadLetters) -> None:
        with pytest.raises(LetterNotFound):
            await letters.claim_replay(uuid4())


class TestDiscard:
    async def test_discards_once(self, letters: DeadLetters, letter: DeadLetter) -> None:
        assert await letters.discard(letter.id)
        discarded = (await letters.find(letter.original_job_id)).discarded_at
        assert discarded is not None
        assert not await letters.discard(letter.id)
        assert (await letters.find(letter.original_job_id)).discarded_at == discarded

    async def test_not_while_a_replay_is_unfinished(self, letters: DeadLetters, letter: DeadLetter) -> None:
        job_id = await letters.claim_replay(letter.id)
        with pytest.raises(ReplayUnfinished, match=job_id):
            await letters.discard(letter.id)
        await letters.mark_replayed(letter.id, job_id)
        assert await letters.discard(letter.id)

    async def test_against_a_replay_at_the_same_moment_one_wins(self, letters: DeadLetters) -> None:
        for n in range(10):
            letter = await stored(letters, f"high-{n}")
            results = await asyncio.gather(
                letters.claim_replay(letter.id), letters.discard(letter.id), return_exceptions=True
            )
            assert sum(isinstance(result, LetterDiscarded | ReplayUnfinished) for result in results) == 1
