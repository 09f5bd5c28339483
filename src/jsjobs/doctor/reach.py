"""The servers: how they are reached, with what rights, in which versions; their clocks, and the size of messages."""

from __future__ import annotations

from collections.abc import AsyncIterator

from jsjobs.doctor.finding import Finding, Severity
from jsjobs.doctor.patient import ANSWERS_WITHIN, Patient
from jsjobs.jetstream import declared
from jsjobs.jetstream.api import find, server_time
from jsjobs.jetstream.connection import MIN_SERVER
from jsjobs.jetstream.servers import ASKED_FOR_VERSIONS, seconds_ahead
from jsjobs.jetstream.subjects import Generation
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority

_CLOCK_APART = 1.0
"""Seconds; jobs start and expire by the servers' clocks, and times of day are given by this machine's."""
_LETTER_MORE = 128 * 1024
"""What a letter says beside the job: its headers and where it died."""


async def servers(patient: Patient) -> AsyncIterator[Finding]:
    """Versions of all servers of the cluster."""
    found = patient.servers
    here = f"nats-server {patient.connection.server_version}"
    if not found:
        remedy = f"let this user publish on {ASKED_FOR_VERSIONS}"
        yield Finding(
            "servers", Severity.NOTE, f"connected to {here}; others of its cluster cannot be asked", "", remedy
        )
        return
    old = [server for server in found if _parsed(server.version) < MIN_SERVER]
    for server in old:
        what = f"nats-server {server.version} is too old: 2.15 or later is needed"
        yield Finding("servers", Severity.PROBLEM, what, server.name, "upgrade it, one server at a time")
    for server in found:
        if not server.has_jetstream:
            what = "it runs without JetStream, and can hold no stream"
            yield Finding(
                "servers", Severity.NOTE, what, server.name, "if it should: `jetstream {}` in its configuration"
            )
    versions = sorted({server.version for server in found})
    if len(versions) > 1 and not old:
        what = f"the servers run several versions: {', '.join(versions)}"
        yield Finding("servers", Severity.WARNING, what, "cluster", "finish the upgrade")
    elif not old:
        count = "1 server" if len(found) == 1 else f"{len(found)} servers: {', '.join(server.name for server in found)}"
        yield Finding("servers", Severity.OK, f"nats-server {versions[0]}, {count}", "")


async def rights(patient: Patient) -> AsyncIterator[Finding]:
    """What this user may look at."""
    known, names = patient.rights, patient.names
    if known is None:
        remedy = "let this user publish on $SYS.REQ.USER.INFO"
        yield Finding("rights", Severity.NOTE, "what this user may do cannot be asked", "", remedy)
        return
    who = f"user {known.user or '(none)'} of account {known.account}"
    stream, dead = names.stream(Priority.CRITICAL), names.dead_stream
    needed = {
        "$JS.API.INFO": "$JS.API.INFO",
        "$JS.API.STREAM.INFO.>": f"$JS.API.STREAM.INFO.{stream}",
        "$JS.API.STREAM.MSG.GET.>": f"$JS.API.STREAM.MSG.GET.{stream}",
        "$JS.API.CONSUMER.INFO.>": f"$JS.API.CONSUMER.INFO.{dead}.{names.router}",
        "$JS.API.CONSUMER.LIST.>": f"$JS.API.CONSUMER.LIST.{stream}",
        "$JS.API.DIRECT.GET.>": f"$JS.API.DIRECT.GET.{stream}",
    }
    lacking = [pattern for pattern, subject in needed.items() if not known.may_publish(subject)]
    if lacking:
        remedy = f"let it publish on {', '.join(lacking)}; or run this as a user who may"
        yield Finding("rights", Severity.WARNING, "this user may not look at everything", who, remedy)
        return
    all_of_it = "" if known.is_restricted else " and do everything in its account"
    yield Finding("rights", Severity.OK, f"{who} may look at everything{all_of_it}", "")


async def clock(patient: Patient) -> AsyncIterator[Finding]:
    """Clocks that differ: those of all servers as far as they may be asked, else that of whoever answers."""
    ahead = {server.name: server.ahead for server in patient.servers} or await _ahead_of_us(patient)
    if not ahead:
        looks = f"{ASKED_FOR_VERSIONS}, or on $JS.API.STREAM.INFO.{patient.names.stream(Priority.CRITICAL)}"
        what = "the servers' clocks cannot be asked"
        yield Finding("clock", Severity.NOTE, what, "", f"let this user publish on {looks}")
        return
    apart = {name: seconds for name, seconds in ahead.items() if abs(seconds) >= _CLOCK_APART}
    for name, seconds in apart.items():
        how = "ahead of" if seconds > 0 else "behind"
        what = (
            f"its clock is {abs(seconds):,.1f} s {how} this machine's: what is due or expires at a time of day that is "
            "given here does so by the server's"
        )
        remedy = "synchronise the clocks of servers and of this machine (chrony, systemd-timesyncd)"
        yield Finding("clock", Severity.WARNING, what, name, remedy)
    if not apart:
        yield Finding("clock", Severity.OK, "the servers' clocks and this machine's agree", "")


async def _ahead_of_us(patient: Patient) -> dict[str, float]:
    """How far ahead the clock is of the server that leads the first queue, in seconds, by its name."""
    endpoint = f"STREAM.INFO.{patient.names.stream(Priority.CRITICAL)}"
    if not patient.may_look:
        return {}
    asked = patient.now()
    try:
        info = await find(patient.connection, endpoint, timeout=ANSWERS_WITHIN)
    except JobError:
        return {}
    if info is None:
        return {}
    leader = str((info.get("cluster") or {}).get("leader") or "nats-server")
    return {leader: seconds_ahead(server_time(info), asked, patient.now())}


async def max_payload(patient: Patient) -> AsyncIterator[Finding]:
    """Whether the server takes the largest message that there may be."""
    largest = declared.queue_stream(patient.config, patient.names, Priority.NORMAL, Generation(1, 1))["max_msg_size"]
    needed, given = largest + _LETTER_MORE, patient.connection.max_payload
    if given < needed:
        what = f"max_payload is {given:,} bytes: a job of up to {largest:,} and its letter need {needed:,}"
        remedy = f"`max_payload: {needed}` or more in the configuration of every server"
        yield Finding("max_payload", Severity.WARNING, what, "server", remedy)


def _parsed(version: str) -> tuple[int, ...]:
    numbers = version.partition("-")[0].split(".")
    return tuple(int(number) if number.isdigit() else 0 for number in numbers[:2])
