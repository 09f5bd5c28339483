"""Check that servers have room: their own limit of storage, and their disk, as far as either can be seen.

Nothing is written to find out: on a full disk a write is what does the harm (docs/server-quirks.md#a-full-disk).
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

from jsjobs.doctor.deployment import Deployment
from jsjobs.doctor.finding import Finding, Severity, how_full
from jsjobs.jetstream.api.account import ASKED_FOR_JETSTREAM, StorageLook
from jsjobs.jetstream.api.room import find_no_room, probed_subject

_HERE = {"127.0.0.1", "localhost", "::1"}
_RAISE = "raise `max_file` in its `jetstream` block, or make room: docs/operations.md says how"


async def room(deployment: Deployment) -> AsyncIterator[Finding]:
    """Check how near servers are to their limit of storage and to a full disk."""
    no_room = None
    may_try = deployment.rights is None or deployment.rights.may_publish(probed_subject(deployment.names))
    if may_try and (no_room := await find_no_room(deployment.connection, deployment.names)):
        yield Finding("storage", Severity.PROBLEM, f"nothing can be stored: {no_room.limit}", "server", _RAISE)
    looks = (await deployment.jetstream()).storage
    found = [] if no_room else [finding for look in looks for finding in _of(look, is_here=_is_here(deployment))]
    for finding in found:
        yield finding
    if found or no_room:
        return
    if looks:
        used = ", ".join(f"{look.used:,} of {look.most:,} bytes on {look.server}" for look in looks)
        yield Finding("storage", Severity.OK, f"the servers' storage has room: {used}", "")
        return
    remedy = f"let the account import the service {ASKED_FOR_JETSTREAM} of the system account"
    unseen = "this account cannot see how close the servers are to their storage limits, and how full their disks are"
    if may_try:
        yield Finding("storage", Severity.OK, f"the server's storage limit is not reached; {unseen}", "")
    else:
        yield Finding("storage", Severity.NOTE, unseen, "server", remedy)


def _of(look: StorageLook, *, is_here: bool) -> Iterator[Finding]:
    if severity := how_full(look.used, look.most):
        what = f"{look.used:,} of {look.most:,} bytes of its storage are used: at the limit no job starts or ends"
        yield Finding("storage", severity, what, look.server, _RAISE)
    if look.reserved > look.most:
        what = f"its streams may hold {look.reserved:,} bytes, it {look.most:,}: full queues would stop all work"
        remedy = (
            "raise `max_file` in its `jetstream` block; or lower JSJOBS_QUEUE_BYTES and JSJOBS_LANE_BYTES, then "
            "`jsjobs streams apply`"
        )
        yield Finding("storage", Severity.WARNING, what, look.server, remedy)
    free = _free(look.folder) if is_here else None
    if free is not None and free < look.most - look.used:
        what = f"its limit lets it store {look.most - look.used:,} bytes more, and its disk has {free:,} free"
        remedy = (
            "lower `max_file` in its `jetstream` block, or make room: a full disk costs a restart, the limit does not"
        )
        yield Finding("storage", Severity.WARNING, what, look.server, remedy)


def _is_here(deployment: Deployment) -> bool:
    """Return whether the server is on this machine; the path of a folder elsewhere means nothing here."""
    urls = deployment.config.nats_url.split(",")
    return all(urlsplit(url.strip()).hostname in _HERE for url in urls)


def _free(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
