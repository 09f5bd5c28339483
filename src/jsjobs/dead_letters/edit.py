"""Changing what a dead job will run with when it is replayed."""

from __future__ import annotations

from dataclasses import replace

from jsjobs.dead_letters.replay import check_size
from jsjobs.postgres.dead_letters import DeadLetter, DeadLetters


async def edit_letter(
    letters: DeadLetters, letter: DeadLetter, payload: bytes, *, force: bool = False, instead_of: bytes | None = None
) -> None:
    """As `DeadLetters.edit`, and a body with which the job could not be replayed is refused before anything is changed.

    Raises:
        JobError: `Validation`, if it is too large for a queue.
        LetterError: As `DeadLetters.edit`.
        DatabaseError: As `DeadLetters.edit`.
    """
    check_size(replace(letter, payload=payload))
    await letters.edit(letter.id, payload, force=force, instead_of=instead_of)
