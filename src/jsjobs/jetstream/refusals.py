"""What the server says where a user of NATS lacks a right: an error of the connection, and no answer to the request."""

from __future__ import annotations

import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from nats import errors as nats_errors

from jsjobs.model.errors import JobError, Reason

_REFUSAL = re.compile(r'permissions violation for (publish|subscription)[^"]*"([^"\s]+)"', re.IGNORECASE)
_DELAYS = (
    "delays and schedules take a right of their own: workers `delaying-worker.conf`, publishers the micro service, see "
    "docs/security.md"
)
_WARN_EVERY = 1.0
_FLUSH_WITHIN = 5

if TYPE_CHECKING:
    from nats.aio.client import Client


class Refusal(NamedTuple):
    """One publish or subscription that the server did not let through."""

    is_publish: bool
    subject: bytes
    text: str
    """In the server's words."""

    @property
    def is_delay(self) -> bool:
        """Whether it is of a schedule, as delays and what code declares are."""
        return self.is_publish and self.subject.split(b".")[1:2] == [b"at"]


class NotPermitted(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """This user of NATS lacks a right; the server did nothing."""

    def __init__(self, refusal: Refusal, remedy: str = "") -> None:
        remedy = remedy or (_DELAYS if refusal.is_delay else "see docs/security.md")
        text = f"this user of NATS may not do that: {refusal.text} ({remedy})"
        super().__init__(Reason.RUNNER_UNAVAILABLE, text)

    @property
    def is_transient(self) -> bool:
        """False: only whoever gives rights can help."""
        return False


def refusal_in(error: str) -> Refusal | None:
    """What a `-ERR` of the server refuses for want of a right; None if it is about something else."""
    found = _REFUSAL.search(error)
    if found is None:
        return None
    return Refusal(found[1].lower() == "publish", found[2].encode(), error.strip("'"))


class Refusals:
    """What a connection was refused so far, and who is to hear of it."""

    def __init__(self) -> None:
        self._at_first: list[Refusal] | None = []
        self._warned_at = float("-inf")

    def note(self, refusal: Refusal) -> bool:
        """Keep the refusal of a subscription, while the connection is made; whether somebody will hear of it."""
        if self._at_first is None:
            return False
        self._at_first.append(refusal)
        return True

    async def check_inbox(self, client: Client, inbox: bytes) -> None:
        """Look whether the server lets answers come, on a connection that was just made.

        Raises:
            NotPermitted: If not: each answer would be waited for in vain.
        """
        with suppress(TimeoutError, nats_errors.Error, OSError):  # an outage: requests wait, or fail by themselves
            await client.flush(timeout=_FLUSH_WITHIN)
        refusals, self._at_first = self._at_first, None
        for refusal in refusals or ():
            if refusal.subject.startswith(inbox):
                raise NotPermitted(refusal, "set JSJOBS_NATS_INBOX_PREFIX to what this user may subscribe to")

    def is_time_to_warn(self) -> bool:
        """Whether to warn of a refusal that nobody waits for: of a batch each message is refused."""
        now = time.monotonic()
        due = now - self._warned_at >= _WARN_EVERY
        if due:
            self._warned_at = now
        return due
