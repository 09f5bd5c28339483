"""What can go wrong with the database, in one line each and without secrets."""
# ruff: noqa: N818 -- the names say what happened: `except DatabaseUnavailable` reads as it is meant.

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uuid import UUID


class DatabaseError(Exception):
    """Anything that stands between the caller and the table."""


class DatabaseUnavailable(DatabaseError):
    """Postgres cannot serve this now: wait, then try again."""


class DatabaseExhausted(DatabaseUnavailable):
    """Postgres answers, and can take nothing now: its disk is full, it is read-only, or no connection is left."""


class DatabaseSilent(DatabaseUnavailable):
    """Postgres is there or not: it gave no answer in time."""

    def __init__(self, place: str) -> None:
        super().__init__(
            f"Postgres at {place} gave no answer in time: it cannot be reached, is overloaded, or another session "
            "holds a lock on its own tables (as a superuser, look for it in pg_locks and pg_stat_activity)"
        )


class TablesLocked(DatabaseUnavailable):
    """Somebody's transaction holds the tables, and whoever waited for it would hold up everybody else."""

    def __init__(self, place: str, holders: str) -> None:
        super().__init__(
            f"the jsjobs tables in {place} are in use by {holders or 'another transaction'}: try again once its "
            "transaction is over, or end it with pg_terminate_backend"
        )
        self.holders = holders


class DatabaseRefused(DatabaseError):
    """Postgres answered and said no, such as for a missing right: trying again does not help by itself."""


class InvalidDatabaseUrl(DatabaseError, ValueError):
    """The database URL cannot be read."""

    def __init__(self, what: str) -> None:
        super().__init__(f"the database URL cannot be used: {what}")


class SchemaMissing(DatabaseError):
    """The tables are not there, or older than this version needs."""

    def __init__(self, place: str) -> None:
        super().__init__(f"the jsjobs tables are missing or old in {place}: run `jsjobs db migrate`")


class SchemaTooNew(DatabaseError):
    """A newer jsjobs has migrated this database."""

    def __init__(self, place: str, version: int, known: int) -> None:
        super().__init__(f"{place} is at migration {version}, this jsjobs knows up to {known}: update jsjobs")


class LetterError(Exception):
    """What was asked cannot be done with this dead letter."""


class LetterNotFound(LetterError):
    """No letter answers to what was given."""


class LetterLocked(LetterError):
    """Somebody's transaction holds the letter."""

    def __init__(self, letter_id: UUID, holders: str) -> None:
        super().__init__(
            f"dead letter {letter_id} is in use by {holders or 'another transaction'}: try again once its "
            "transaction is over, or end it with pg_terminate_backend"
        )
        self.letter_id = letter_id


class LetterUnreadable(LetterError):
    """A row of the table that this version cannot read: somebody wrote it by other ways than the functions."""

    def __init__(self, letter_id: UUID, what: str) -> None:
        super().__init__(f"dead letter {letter_id} cannot be read: its {what} is not what jsjobs writes")
        self.letter_id = letter_id


class LetterUnpublishable(LetterError):
    """No queue takes the letter's job, so that no replay could ever be finished."""

    def __init__(self, letter_id: UUID) -> None:
        super().__init__(
            f"dead letter {letter_id} cannot be published again: its type, entity, headers or payload are not what a "
            "queue takes with the id of a replay (892 KiB): submit the job anew, and discard this letter"
        )
        self.letter_id = letter_id


class LetterAmbiguous(LetterError):
    """More than one letter answers to what was given."""


class LetterDiscarded(LetterError):
    """The letter was discarded: replayed or edited it is only with force."""

    def __init__(self, letter_id: UUID) -> None:
        super().__init__(f"dead letter {letter_id} was discarded: force it (--force) to go on all the same")
        self.letter_id = letter_id


class AlreadyReplayed(LetterError):
    """The letter was replayed before: replayed again or edited it is only with force."""

    def __init__(self, letter_id: UUID, job_id: str) -> None:
        super().__init__(
            f"dead letter {letter_id} was already replayed as job {job_id}: force it (--force) to go on all the same"
        )
        self.letter_id = letter_id
        self.job_id = job_id


class ReplayUnfinished(LetterError):
    """A replay has begun, so that its job may already be running."""

    def __init__(self, letter_id: UUID, job_id: str) -> None:
        super().__init__(f"dead letter {letter_id} is being replayed as job {job_id}: finish it by replaying it again")
        self.letter_id = letter_id
        self.job_id = job_id


class LetterChanged(LetterError):
    """Somebody else edited the letter meanwhile."""

    def __init__(self, letter_id: UUID) -> None:
        super().__init__(f"dead letter {letter_id} was edited by somebody else meanwhile: look at it again")
        self.letter_id = letter_id


class PayloadInvalid(LetterError, ValueError):
    """What was given cannot be a job's body."""
