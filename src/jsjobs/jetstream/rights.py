"""What the user of a connection may publish on, as the server tells it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from jsjobs.jetstream.connection import Connection
from jsjobs.model.errors import JobError

_WHO_AM_I = "$SYS.REQ.USER.INFO"
_WITHIN = 1.5


@dataclass(frozen=True, slots=True)
class Rights:
    """Of one user."""

    user: str
    """Empty, where none was named."""
    account: str
    allow: tuple[str, ...] | None
    """Subjects that may be published on; None: every one."""
    deny: tuple[str, ...]

    @property
    def is_restricted(self) -> bool:
        """Whether there is any subject that may not be published on."""
        return self.allow is not None or bool(self.deny)

    def may_publish(self, subject: str) -> bool:
        """Whether a subject, without wildcards, may be published on."""
        allowed = self.allow is None or any(_covers(pattern, subject) for pattern in self.allow)
        return allowed and not any(_covers(pattern, subject) for pattern in self.deny)


async def read_rights(connection: Connection) -> Rights | None:
    """Of this connection's user; None where even that may not be asked."""
    try:
        reply = await connection.ask(_WHO_AM_I.encode(), timeout=_WITHIN)
        told = json.loads(reply.data)["data"]
    except (JobError, ValueError, KeyError):
        return None
    publish = (told.get("permissions") or {}).get("publish") or {}
    allow = publish.get("allow")
    account = str(told.get("account_name") or told.get("account") or "")
    return Rights(
        str(told.get("user") or ""), account, None if allow is None else tuple(allow), tuple(publish.get("deny") or ())
    )


def _covers(pattern: str, subject: str) -> bool:
    """Whether a subject is one of those that a pattern names."""
    wanted, given = pattern.split("."), subject.split(".")
    for index, word in enumerate(wanted):
        if word == ">":
            return len(given) > index
        if index >= len(given) or word not in {"*", given[index]}:
            return False
    return len(wanted) == len(given)
