"""Errors of the database and of dead letters; each message is one line without secrets."""
# ruff: noqa: N818 -- the names say what happened: `except DatabaseUnavailable` reads as it is meant.

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID


class DatabaseError(Exception):
    """The base class of errors that keep the caller from the table."""


class DatabaseUnavailable(DatabaseError):
    """Postgres cannot serve this now: wait, then try again."""


class DatabaseExhausted(DatabaseUnavailable):
    """Postgres answers but can accept nothing now: its disk is full, it is read-only, or no connection is left."""


class DatabaseSilent(DatabaseUnavailable):
    """Postgres gave no answer in time, whether it is there or not."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"Postgres at {place} did not answer in time: it cannot be reached, is overloaded, or another session "
            "holds a lock on its own tables (as a superuser, look for it in pg_locks and pg_stat_activity)"
        )


class TablesLocked(DatabaseUnavailable):
    """A transaction holds the tables, and whoever waited for it would hold up everybody else."""

    def __init__(self, place: str, holders: str) -> None:
        super().__init__(
            f"the jsjobs tables in {place} are in use by {holders or 'another transaction'}: try again once its "
            "transaction is over, or end it with pg_terminate_backend"
        )
        self.holders = holders


class DatabaseRefused(DatabaseError):
    """Postgres answered and refused, for a missing right for example: trying again does not help by itself."""


class InvalidDatabaseUrl(DatabaseError, ValueError):
    """The database URL cannot be read."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the database URL cannot be used: {what}")


class SchemaMissing(DatabaseError):
    """The tables are missing, or older than this version needs."""

    def __init__(self, place: str) -> None:
        super().__init__(f"the jsjobs tables are missing or outdated in {place}: run `jsjobs db migrate`")


class SchemaTooNew(DatabaseError):
    """A newer jsjobs has migrated this database."""

    def __init__(self, place: str, version: int, known: int) -> None:
        super().__init__(f"{place} is at migration {version}, this jsjobs knows up to {known}: update jsjobs")


class LetterError(Exception):
    """The base class of errors about one dead letter: what was asked cannot be done with it."""


class LetterNotFound(LetterError):
    """No letter matches what was given."""


class LetterLocked(LetterError):
    """Another transaction holds the letter."""

    def __init__(self, letter_id: UUID, holders: str) -> None:
        super().__init__(
            f"dead letter {letter_id} is in use by {holders or 'another transaction'}: try again once its "
            "transaction is over, or end it with pg_terminate_backend"
        )
        self.letter_id = letter_id


class LetterUnreadable(LetterError):
    """This version cannot read a row of the table: somebody wrote it without using the functions."""

    def __init__(self, letter_id: UUID, what: str) -> None:
        super().__init__(f"dead letter {letter_id} cannot be read: its {what} is not what jsjobs writes")
        self.letter_id = letter_id


class LetterUnpublishable(LetterError):
    """No queue accepts the letter's job, so no replay could ever be finished."""

    def __init__(self, letter_id: UUID) -> None:
        super().__init__(
            f"dead letter {letter_id} cannot be published again: its type, entity, headers or payload are not what a "
            "queue takes with the id of a replay (892 KiB): submit a new job, and discard this letter"
        )
        self.letter_id = letter_id


class LetterAmbiguous(LetterError):
    """More than one letter matches what was given."""


class LetterDiscarded(LetterError):
    """The letter was discarded: only force replays or edits it."""

    def __init__(self, letter_id: UUID) -> None:
        super().__init__(f"dead letter {letter_id} was discarded: use force (--force) to continue anyway")
        self.letter_id = letter_id


class AlreadyReplayed(LetterError):
    """The letter was already replayed: only force replays it again or edits it."""

    def __init__(self, letter_id: UUID, job_id: str) -> None:
        super().__init__(
            f"dead letter {letter_id} was already replayed as job {job_id}: use force (--force) to continue anyway"
        )
        self.letter_id = letter_id
        self.job_id = job_id


class ReplayUnfinished(LetterError):
    """A replay has begun, so its job may already be running."""

    def __init__(self, letter_id: UUID, job_id: str) -> None:
        super().__init__(f"dead letter {letter_id} is being replayed as job {job_id}: finish it by replaying it again")
        self.letter_id = letter_id
        self.job_id = job_id


class LetterChanged(LetterError):
    """Somebody else has edited the letter meanwhile."""

    def __init__(self, letter_id: UUID) -> None:
        super().__init__(f"dead letter {letter_id} was edited by somebody else meanwhile: show it again")
        self.letter_id = letter_id


class PayloadInvalid(LetterError, ValueError):
    """The given payload cannot be a job's body."""
