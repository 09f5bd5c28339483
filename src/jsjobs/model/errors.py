"""The one error type of jsjobs and its eight reasons; error texts are clipped to the room they have."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from jsjobs.model.words import Word

MAX_ERROR_BYTES = 4096
"""The most bytes of one error text: 4 KiB."""
_CONTROLS = {code: "?" for code in range(32) if chr(code) not in "\t\n\r"}
_LISTED = 100
"""The most items that the message of an `InvalidBatch` lists; `errors` has them all."""


def clipped(text: str) -> str:
    """Return the text in at most 4 KiB of UTF-8; the middle of a longer one is left out.

    Control characters, for each of which JSON needs six characters, become `?`, and so does what UTF-8 cannot encode.
    """
    if len(text) > 2 * MAX_ERROR_BYTES:
        # The part that is left out anyway is not read: it may be a hundred megabytes.
        text = text[:MAX_ERROR_BYTES] + text[-MAX_ERROR_BYTES:]
    raw = text.translate(_CONTROLS).encode("utf-8", "replace")
    if len(raw) <= MAX_ERROR_BYTES:
        return raw.decode()
    half = (MAX_ERROR_BYTES - 16) // 2
    return raw[:half].decode("utf-8", "ignore") + " … " + raw[-half:].decode("utf-8", "ignore")


class Reason(Word):
    """The reason why a job or a request failed; the same word on the wire, in the dead-letter table and in Python."""

    NOT_FOUND = "NotFound"
    ALREADY_CANCELLED = "AlreadyCancelled"
    HANDLER_MISSING = "HandlerMissing"
    VALIDATION = "Validation"
    PROCESSING = "Processing"
    MAX_RETRIES = "MaxRetries"
    RUNNER_UNAVAILABLE = "RunnerUnavailable"
    TIMEOUT = "Timeout"


TERMINAL = frozenset({Reason.VALIDATION, Reason.HANDLER_MISSING, Reason.ALREADY_CANCELLED, Reason.NOT_FOUND})
"""A job that fails for one of these reasons is dead at once: running it again cannot help."""

TRANSIENT = frozenset({Reason.TIMEOUT, Reason.RUNNER_UNAVAILABLE})
"""A job or request that failed for one of these reasons may well succeed when it is tried again unchanged."""


class JobError(Exception):
    """A job, or a request about one, failed.

    A handler raises it to choose the reason itself: a terminal one dead-letters the job at once, any other is retried.

    Args:
        reason: One of the eight reasons, or its text.
        message: What was wrong and, where that can be said, what to do.
        job_id: The job the error is about, if there is one.
        cause: The underlying cause: an exception or its text. `raise JobError(...) from error` sets it too, and shows
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
        """Return the underlying cause: the one that was given, else what the error was raised from; None: neither."""
        return self.__cause__ if self._cause is None else self._cause

    def __str__(self) -> str:
        return f"{self.reason}: {self.message}"

    @property
    def is_terminal(self) -> bool:
        """Return whether running the job again cannot help."""
        return self.reason in TERMINAL

    @property
    def is_transient(self) -> bool:
        """Return whether the same request may well succeed later."""
        return self.reason in TRANSIENT

    @classmethod
    def from_not_found(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Create the error for an id by which nothing is known."""
        return cls(Reason.NOT_FOUND, message, job_id=job_id, cause=cause)

    @classmethod
    def from_already_cancelled(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Create the error for a job that is already cancelled."""
        return cls(Reason.ALREADY_CANCELLED, message, job_id=job_id, cause=cause)

    @classmethod
    def from_handler_missing(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Create the error for a job whose type no worker knows."""
        return cls(Reason.HANDLER_MISSING, message, job_id=job_id, cause=cause)

    @classmethod
    def from_validation(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Create the error for an invalid payload, header, result or argument."""
        return cls(Reason.VALIDATION, message, job_id=job_id, cause=cause)

    @classmethod
    def from_processing(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Create the error for a handler that failed."""
        return cls(Reason.PROCESSING, message, job_id=job_id, cause=cause)

    @classmethod
    def from_max_retries(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Create the error for a job whose attempts are spent."""
        return cls(Reason.MAX_RETRIES, message, job_id=job_id, cause=cause)

    @classmethod
    def from_runner_unavailable(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Create the error for a request that the server, a queue or the database cannot take now."""
        return cls(Reason.RUNNER_UNAVAILABLE, message, job_id=job_id, cause=cause)

    @classmethod
    def from_timeout(
        cls, message: str, *, job_id: str | None = None, cause: BaseException | str | None = None
    ) -> JobError:
        """Create the error for a time limit that has passed."""
        return cls(Reason.TIMEOUT, message, job_id=job_id, cause=cause)


@dataclass(frozen=True, slots=True)
class InvalidItem:
    """One item of a list that cannot be used, and what is wrong with it."""

    index: int
    """Its place in the list, from 0 on."""
    reason: Reason
    message: str
    field: str | None = None
    """Where in the item, such as `address.zip` or `0.price`; the first of several. None: all of it, or not known."""
    job_id: str | None = None
    cause: BaseException | str | None = None
    """The underlying cause: what its check raised, or the cause of that if it was a `JobError`."""


class InvalidBatch(JobError):  # noqa: N818 - it is a JobError, and reads as what it is about
    """Some items of a list cannot be used; none of its jobs was queued.

    `errors` says what is wrong with each item, keyed by its index; the message lists the first hundred.
    """

    def __init__(self, items: Iterable[InvalidItem], total: int) -> None:
        self.errors = {item.index: item for item in sorted(items, key=lambda item: item.index)}
        listed = [f"item {item.index}: {item.message}" for item in self.errors.values()][:_LISTED]
        if len(listed) < len(self.errors):
            listed.append(f"and {len(self.errors) - len(listed)} more")
        text = f"{len(self.errors)} of {total} items are invalid: {'; '.join(listed)}"
        super().__init__(Reason.VALIDATION, text)


class AlreadyEnded(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """The job is complete or dead: there is nothing left to cancel."""

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(Reason.VALIDATION, message, job_id=job_id)


class QuotaReached(JobError):  # noqa: N818 - as above
    """A tenant asked for more than it may have; nothing was done. The message names the quota and when to try again."""

    def __init__(self, message: str) -> None:
        super().__init__(Reason.RUNNER_UNAVAILABLE, message)


class AnotherSchedule(JobError):  # noqa: N818 - as above
    """Another schedule has that name already; nothing was changed."""

    def __init__(self, name: str) -> None:
        text = f"there is a different schedule {name!r}: remove it first, or replace it"
        super().__init__(Reason.VALIDATION, text)


class AlreadyDue(JobError):  # noqa: N818 - as above
    """The job is no longer delayed: it waits in its queue or runs, and cannot be rescheduled."""

    def __init__(self, message: str, *, job_id: str | None = None) -> None:
        super().__init__(Reason.VALIDATION, message, job_id=job_id)
