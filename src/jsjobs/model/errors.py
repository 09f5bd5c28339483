"""The one error type of jsjobs and its eight reasons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jsjobs.model.words import Word

_LISTED = 100
"""Items that the message of an `InvalidBatch` lists; `errors` has them all."""


class Reason(Word):
    """Why a job or a request failed; the same words on the wire, in the dead-letter table and in Python."""

    NOT_FOUND = "NotFound"
    ALREADY_CANCELLED = "AlreadyCancelled"
    HANDLER_MISSING = "HandlerMissing"
    VALIDATION = "Validation"
    PROCESSING = "Processing"
    MAX_RETRIES = "MaxRetries"
    RUNNER_UNAVAILABLE = "RunnerUnavailable"
    TIMEOUT = "Timeout"


TERMINAL = frozenset({Reason.VALIDATION, Reason.HANDLER_MISSING, Reason.ALREADY_CANCELLED, Reason.NOT_FOUND})
"""A job that fails for one of these is dead at once: running it again cannot help."""

TRANSIENT = frozenset({Reason.TIMEOUT, Reason.RUNNER_UNAVAILABLE})
"""What failed for one of these may well succeed when it is tried again unchanged."""


class JobError(Exception):
    """A job, or a request about one, failed.

    A handler raises it to choose the reason itself: a terminal one dead-letters the job at once, any other is retried.

    Args:
        reason: One of the eight reasons, or its text.
        message: What was wrong and, where it can be said, what to do.
        job_id: The job it is about, where there is one.
        cause: What lies behind it: an exception or its text. `raise JobError(...) from error` says so too, and shows
            it in a traceback.

    Raises:
        ValueError: If the reason is not one of the eight.
    """

    def __init__(
        self, reason: Reason | str, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> None:
        super().__init__(message)
        self.reason = Reason(reason)
        self.message = message
        self.job_id = job_id
        self._cause = cause

    @property
    def cause(self) -> BaseException | str | None:
        """What lies behind it: what was given, else what it was raised from; None: nothing."""
        return self.__cause__ if self._cause is None else self._cause

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    @property
    def is_terminal(self) -> bool:
        """Whether running the job again cannot help."""
        return self.reason in TERMINAL

    @property
    def is_transient(self) -> bool:
        """Whether the same request may well succeed later."""
        return self.reason in TRANSIENT

    @classmethod
    def from_not_found(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Nothing is known by that id."""
        return cls(Reason.NOT_FOUND, message, job_id=job_id, cause=cause)

    @classmethod
    def from_already_cancelled(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """The job is already cancelled."""
        return cls(Reason.ALREADY_CANCELLED, message, job_id=job_id, cause=cause)

    @classmethod
    def from_handler_missing(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """No worker knows the job's type."""
        return cls(Reason.HANDLER_MISSING, message, job_id=job_id, cause=cause)

    @classmethod
    def from_validation(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """A payload, header, result or argument is not what it must be."""
        return cls(Reason.VALIDATION, message, job_id=job_id, cause=cause)

    @classmethod
    def from_processing(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """The handler failed."""
        return cls(Reason.PROCESSING, message, job_id=job_id, cause=cause)

    @classmethod
    def from_max_retries(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """The job's attempts are spent."""
        return cls(Reason.MAX_RETRIES, message, job_id=job_id, cause=cause)

    @classmethod
    def from_runner_unavailable(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """The server, a queue or the database cannot take the request now."""
        return cls(Reason.RUNNER_UNAVAILABLE, message, job_id=job_id, cause=cause)

    @classmethod
    def from_timeout(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """A time limit passed."""
        return cls(Reason.TIMEOUT, message, job_id=job_id, cause=cause)


@dataclass(frozen=True, slots=True)
class InvalidItem:
    """What is wrong with one item of a list."""

    index: int
    """Its place in the list, from 0 on."""
    reason: Reason
    message: str
    field: str | None = None
    """Where in the item, as `address.zip` or `0.price`, of several places the first; None: all of it, or not known."""
    job_id: str | None = None
    cause: BaseException | str | None = None
    """What lies behind it: what its check raised, or, of a `JobError`, its cause."""


class InvalidBatch(JobError):  # noqa: N818 - it is a JobError, and reads as what it is about
    """Some items of a list cannot be used; nothing of it was queued.

    `errors` says of each what is wrong with it, by its index; the message lists the first hundred.
    """

    def __init__(self, items: Iterable[InvalidItem], total: int) -> None:
        self.errors = {item.index: item for item in sorted(items, key=lambda item: item.index)}
        listed = [f"item {item.index}: {item.message}" for item in self.errors.values()][:_LISTED]
        if len(listed) < len(self.errors):
            listed.append(f"and {len(self.errors) - len(listed)} more")
        text = f"{len(self.errors)} of {total} items cannot be used: {'; '.join(listed)}"
        super().__init__(Reason.VALIDATION, text)


class AlreadyEnded(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """The job is complete or dead: there is nothing left to cancel."""

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(Reason.VALIDATION, message, job_id=job_id)


class QuotaReached(JobError):  # noqa: N818 - as above
    """A tenant asks for more than it may have; nothing was done. The message names the quota and when to try again."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


class AnotherSchedule(JobError):  # noqa: N818 - as above
    """There is a schedule of that name, and it is another one; nothing was changed."""

    def __init__(self, name: str) -> None:
        text = f"there is another schedule {name!r}: remove it first, or say that this one replaces it"
        super().__init__(Reason.VALIDATION, text)


class AlreadyDue(JobError):  # noqa: N818 - as above
    """The job is not delayed any more: it waits in its queue, or runs, and cannot be moved."""

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(Reason.VALIDATION, message, job_id=job_id)
