"""The id of a submitted job."""

from __future__ import annotations

from typing import Self


class JobId(str):
    """A job's id: a string that also knows whether it is the id of an earlier, identical submit, and of its batch."""

    __slots__ = ("batch_id", "duplicate")

    duplicate: bool
    """Whether the submit queued nothing, because the same dedupe key was submitted before."""
    batch_id: str | None
    """The batch that the job belongs to, as its status tells; of a duplicate the first one's. None: it belongs to none,
    or it is a duplicate of a job that can no longer be read."""

    def __new__(cls, value: str, *, duplicate: bool = False, batch_id: str | None = None) -> Self:
        """The id, and what its submit came to."""
        self = super().__new__(cls, value)
        self.duplicate = duplicate
        self.batch_id = batch_id
        return self
