"""Permission errors: the server reports a missing right as an error of the connection.

It does not answer the request.
"""

from __future__ import annotations

import re
import time
from typing import NamedTuple

from jsjobs.model.errors import JobError, Reason

_REFUSAL = re.compile(r'permissions violation for (publish|subscription)[^"]*"([^"\s]+)"', re.IGNORECASE)
_DELAYS = (
    "delays and schedules need their own permissions: workers `delaying-worker.conf`, publishers the micro service, "
    "see docs/security.md"
)
_WARN_EVERY = 1.0


class Refusal(NamedTuple):
    """One publish or subscription that the server refused."""

    is_publish: bool
    subject: bytes
    text: str
    """The server's own words."""

    @property
    def is_delay(self) -> bool:
        """Return whether it is about a schedule, which delayed jobs and schedules declared in code need."""
        return self.is_publish and self.subject.split(b".")[1:2] == [b"at"]


class NotPermitted(JobError):  # noqa: N818 - it is a JobError, and reads as what happened
    """This NATS user lacks a right; the server did nothing."""

    def __init__(self, refusal: Refusal, remedy: str = "") -> None:
        remedy = remedy or (_DELAYS if refusal.is_delay else "see docs/security.md")
        text = f"this NATS user may not do that: {refusal.text} ({remedy})"
        super().__init__(Reason.RUNNER_UNAVAILABLE, text)

    @property
    def is_transient(self) -> bool:
        """Return False: only whoever grants rights can help."""
        return False


def refusal_in(error: str) -> Refusal | None:
    """Return the refusal in a server's `-ERR`, or None if the error is not about a missing right."""
    found = _REFUSAL.search(error)
    if found is None:
        return None
    return Refusal(found[1].lower() == "publish", found[2].encode(), error.strip("'"))


class Refusals:
    """The refusals a connection has met so far, and who is told of them."""

    def __init__(self) -> None:
        self._at_first: list[Refusal] | None = []
        self._warned_at = float("-inf")

    def note(self, refusal: Refusal) -> bool:
        """Keep a refused subscription while the connection is being made; return whether it will be reported."""
        if self._at_first is None:
            return False
        self._at_first.append(refusal)
        return True

    def check_inbox(self, inbox: bytes) -> None:
        """Check that answers can reach a new connection, once the server has handled its subscription.

        Raises:
            NotPermitted: If they cannot: every request would wait in vain.
        """
        refusals, self._at_first = self._at_first, None
        for refusal in refusals or ():
            if refusal.subject.startswith(inbox):
                raise NotPermitted(refusal, "set JSJOBS_NATS_INBOX_PREFIX to what this user may subscribe to")

    def is_time_to_warn(self) -> bool:
        """Return whether to warn of a refusal that nobody waits for: each message of a refused batch is refused."""
        now = time.monotonic()
        due = now - self._warned_at >= _WARN_EVERY
        if due:
            self._warned_at = now
        return due
