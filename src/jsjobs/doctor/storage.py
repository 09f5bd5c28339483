"""Whether servers have room: their own limit of storage, and their disk, as far as either can be seen.

Nothing is written to find out: on a full disk one more write can make a stream deaf until its server is restarted.
"""

from __future__ import annotations

import shutil
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

from jsjobs.doctor.finding import Finding, Severity, how_full
from jsjobs.doctor.patient import Patient
from jsjobs.jetstream.room import find_no_room, probed_subject
from jsjobs.jetstream.servers import ASKED_FOR_JETSTREAM, StorageLook

_HERE = {"127.0.0.1", "localhost", "::1"}
_RAISE = "raise `max_file` in its `jetstream` block, or make room: docs/operations.md says how"


async def room(patient: Patient) -> AsyncIterator[Finding]:
    """How near servers are to their limit of storage and the end of their disk."""
    no_room = None
    may_try = patient.rights is None or patient.rights.may_publish(probed_subject(patient.names))
    if may_try and (no_room := await find_no_room(patient.connection, patient.names)):
        yield Finding("storage", Severity.PROBLEM, f"nothing can be stored: {no_room.limit}", "server", _RAISE)
    looks = (await patient.jetstream()).storage
    found = [] if no_room else [finding for look in looks for finding in _of(look, is_here=_is_here(patient))]
    for finding in found:
        yield finding
    if found or no_room:
        return
    if looks:
        used = ", ".join(f"{look.used:,} of {look.most:,} bytes on {look.server}" for look in looks)
        yield Finding("storage", Severity.OK, f"the servers' storage has room: {used}", "")
        return
    remedy = f"let the account import the service {ASKED_FOR_JETSTREAM} of the system account"
    unseen = "how near servers are to their limit of storage, and how full their disks are, this account cannot see"
    if may_try:
        yield Finding("storage", Severity.OK, f"the server's limit of storage is not reached; {unseen}", "")
    else:
        yield Finding("storage", Severity.NOTE, unseen, "server", remedy)


def _of(look: StorageLook, *, is_here: bool) -> Iterator[Finding]:
    if severity := how_full(look.used, look.most):
        what = f"{look.used:,} of {look.most:,} bytes of its storage are taken: at the limit no job begins or ends"
        yield Finding("storage", severity, what, look.server, _RAISE)
    if look.reserved > look.most:
        what = f"its streams may hold {look.reserved:,} bytes, it {look.most:,}: queues that fill up stop all work"
        remedy = "raise `max_file` in its `jetstream` block; or lower JSJOBS_QUEUE_BYTES, then `jsjobs streams apply`"
        yield Finding("storage", Severity.WARNING, what, look.server, remedy)
    free = _free(look.folder) if is_here else None
    if free is not None and free < look.most - look.used:
        what = f"its limit lets it store {look.most - look.used:,} bytes more, and its disk has {free:,} free"
        remedy = (
            "lower `max_file` in its `jetstream` block, or make room: a full disk costs a restart, the limit does not"
        )
        yield Finding("storage", Severity.WARNING, what, look.server, remedy)


def _is_here(patient: Patient) -> bool:
    """Whether the server is on this machine: what its folder is called elsewhere says nothing here."""
    urls = patient.config.nats_url.split(",")
    return all(urlsplit(url.strip()).hostname in _HERE for url in urls)


def _free(folder: str) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
