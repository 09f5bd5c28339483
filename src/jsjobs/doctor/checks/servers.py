"""Check the servers: access, rights, versions, clocks, limits, and what survives the loss of a disk."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

from jsjobs.doctor.deployment import ANSWERS_WITHIN, Deployment
from jsjobs.doctor.finding import Finding, Severity, how_full
from jsjobs.jetstream.api import endpoints
from jsjobs.jetstream.api.account import ASKED_FOR_JETSTREAM, ASKED_FOR_VERSIONS, account_info, seconds_ahead
from jsjobs.jetstream.api.streams import find_stream
from jsjobs.jetstream.api.types import Usage
from jsjobs.jetstream.client.connection import MIN_SERVER
from jsjobs.jetstream.client.permissions import NotPermitted
from jsjobs.jetstream.protocol.names import Generation
from jsjobs.jetstream.topology import declaration
from jsjobs.model.errors import JobError
from jsjobs.model.job import Priority

_CLOCK_APART = 1.0
"""The tolerated difference of clocks in seconds.

Jobs start and expire by the servers' clocks, and times of day are given by this machine's.
"""
_LETTER_MORE = 128 * 1024
"""The bytes that a letter needs beside the job: its headers, and where the job died."""
_ALWAYS = "`jetstream { sync_interval: always }` on every server, and JSJOBS_REPLICAS=3"


async def servers(deployment: Deployment) -> AsyncIterator[Finding]:
    """Check the versions of all servers of the cluster."""
    found = deployment.servers
    here = f"nats-server {deployment.connection.server_version}"
    if not found:
        remedy = f"let this user publish on {ASKED_FOR_VERSIONS}"
        yield Finding(
            "servers",
            Severity.NOTE,
            f"connected to {here}; the other servers of its cluster cannot be asked",
            "",
            remedy,
        )
        return
    old = [server for server in found if _parsed(server.version) < MIN_SERVER]
    for server in old:
        what = f"nats-server {server.version} is too old: 2.15 or later is needed"
        yield Finding("servers", Severity.PROBLEM, what, server.name, "upgrade it, one server at a time")
    for server in found:
        if not server.has_jetstream:
            what = "it runs without JetStream, and cannot hold streams"
            yield Finding(
                "servers",
                Severity.NOTE,
                what,
                server.name,
                "if it should hold some: `jetstream {}` in its configuration",
            )
    versions = sorted({server.version for server in found})
    if len(versions) > 1 and not old:
        what = f"the servers run several versions: {', '.join(versions)}"
        yield Finding("servers", Severity.WARNING, what, "cluster", "finish the upgrade")
    elif not old:
        count = "1 server" if len(found) == 1 else f"{len(found)} servers: {', '.join(server.name for server in found)}"
        yield Finding("servers", Severity.OK, f"nats-server {versions[0]}, {count}", "")


async def rights(deployment: Deployment) -> AsyncIterator[Finding]:
    """Check what this user may read."""
    known, names = deployment.rights, deployment.names
    if known is None:
        remedy = "let this user publish on $SYS.REQ.USER.INFO"
        yield Finding("rights", Severity.NOTE, "this user's permissions cannot be read", "", remedy)
        return
    who = f"user {known.user or '(none)'} of account {known.account}"
    stream, dead = names.stream(Priority.CRITICAL), names.dead_stream
    needed = {
        endpoints.ACCOUNT_INFO: endpoints.ACCOUNT_INFO,
        endpoints.stream_info(">"): endpoints.stream_info(stream),
        endpoints.message_get(">"): endpoints.message_get(stream),
        endpoints.consumer_info(">"): endpoints.consumer_info(dead, names.router),
        endpoints.consumer_list(">"): endpoints.consumer_list(stream),
        endpoints.direct_get(">"): endpoints.direct_get(stream),
    }
    lacking = [endpoints.subject(pattern) for pattern, one in needed.items() if not deployment.may(one)]
    if lacking:
        remedy = f"let it publish on {', '.join(lacking)}; or run this as a user who may"
        yield Finding("rights", Severity.WARNING, "this user may not read everything that is checked", who, remedy)
        return
    all_of_it = "" if known.is_restricted else " and do everything in its account"
    yield Finding("rights", Severity.OK, f"{who} may read everything that is checked{all_of_it}", "")


async def clock(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield the clocks that differ: of all servers if they may be asked, else of the server that answers."""
    ahead = {server.name: server.ahead for server in deployment.servers} or await _ahead_of_us(deployment)
    if not ahead:
        stream_info = endpoints.stream_info(deployment.names.stream(Priority.CRITICAL))
        looks = f"{ASKED_FOR_VERSIONS}, or on {endpoints.subject(stream_info)}"
        what = "the servers' clocks cannot be asked"
        yield Finding("clock", Severity.NOTE, what, "", f"let this user publish on {looks}")
        return
    apart = {name: seconds for name, seconds in ahead.items() if abs(seconds) >= _CLOCK_APART}
    for name, seconds in apart.items():
        how = "ahead of" if seconds > 0 else "behind"
        what = (
            f"its clock is {abs(seconds):,.1f} s {how} this machine's: jobs that are due or expire at a time given here"
            " follow the server's"
        )
        remedy = "synchronise the clocks of servers and of this machine (chrony, systemd-timesyncd)"
        yield Finding("clock", Severity.WARNING, what, name, remedy)
    if not apart:
        yield Finding("clock", Severity.OK, "the servers' clocks and this machine's agree", "")


async def _ahead_of_us(deployment: Deployment) -> dict[str, float]:
    """Return how many seconds ahead the clock is of the server that leads the first queue, by the server's name."""
    if not deployment.may_look:
        return {}
    asked = deployment.now()
    try:
        stream = deployment.names.stream(Priority.CRITICAL)
        info = await find_stream(deployment.connection, stream, timeout=ANSWERS_WITHIN)
    except JobError:
        return {}
    if info is None:
        return {}
    leader = (info.cluster and info.cluster.leader) or "nats-server"
    return {leader: seconds_ahead(info.ts, asked, deployment.now())}


async def max_payload(deployment: Deployment) -> AsyncIterator[Finding]:
    """Check that the server takes the largest possible message."""
    largest = declaration.queue_stream(deployment.config, deployment.names, Priority.NORMAL, Generation(1, 1))[
        "max_msg_size"
    ]
    needed, given = largest + _LETTER_MORE, deployment.connection.max_payload
    if given < needed:
        what = f"max_payload is {given:,} bytes: a job of up to {largest:,} and its dead letter need {needed:,}"
        remedy = f"`max_payload: {needed}` or more in the configuration of every server"
        yield Finding("max_payload", Severity.WARNING, what, "server", remedy)


def _parsed(version: str) -> tuple[int, ...]:
    numbers = version.partition("-")[0].split(".")
    return tuple(int(number) if number.isdigit() else 0 for number in numbers[:2])


async def limits(deployment: Deployment) -> AsyncIterator[Finding]:
    """Check that JetStream answers, and how near the account's limits are."""
    if not deployment.may(endpoints.ACCOUNT_INFO):
        return
    try:
        info = await account_info(deployment.connection, timeout=ANSWERS_WITHIN)
    except NotPermitted as error:
        remedy = f"let this user publish on {endpoints.subject(endpoints.ACCOUNT_INFO)}, or run this as a user who may"
        what = f"the account's limits cannot be read: {error.message}"
        yield Finding("limits", Severity.NOTE, what, "account", remedy)
        return
    except JobError as error:
        deployment.has_jetstream = False
        remedy = (
            "`jetstream {}` in the configuration of the servers, and `jetstream: enabled` in that of the account; in a "
            "cluster, more than half of the servers must run. A server whose disk was full needs room and a restart"
        )
        yield Finding("limits", Severity.PROBLEM, f"JetStream is not available: {error.message}", "account", remedy)
        return
    deployment.max_consumers = max(told.limits.max_consumers for told in (info, *info.tiers.values()))
    near = list(_near(info, "account"))
    for name, tier in info.tiers.items():
        near += _near(tier, f"account, tier {name}")
    for finding in near:
        yield finding
    if not near:
        bounded = deployment.max_consumers > 0
        bounded = bounded or any(most > 0 for _, most, _, _ in _counted(info))
        what = "the account is far from its limits" if bounded or info.tiers else "the account has no limits"
        yield Finding("limits", Severity.OK, f"{what}; {info.streams} streams, {info.storage:,} bytes", "")


def _counted(told: Usage) -> tuple[tuple[int, int, str, str], ...]:
    """Return each use of the account: the amount, its limit, the limit's name, and what people call it."""
    memory, storage = max(told.memory, told.reserved_memory), max(told.storage, told.reserved_storage)
    return (
        (memory, told.limits.max_memory, "max_memory", "bytes of memory"),
        (storage, told.limits.max_storage, "max_storage", "bytes of storage"),
        (told.streams, told.limits.max_streams, "max_streams", "streams"),
    )


def _near(told: Usage, where: str) -> Iterator[Finding]:
    for used, most, limit, name in _counted(told):
        if severity := how_full(used, most):
            text = f"{used:,} of {most:,} {name} are used: at the limit the server refuses jobs or streams"
            remedy = f"raise {limit} of the account, or lower JSJOBS_QUEUE_BYTES and JSJOBS_LANE_BYTES"
            yield Finding("limits", severity, text, where, remedy)


async def one_copy(deployment: Deployment) -> AsyncIterator[Finding]:
    """Yield a finding if a single disk holds all streams."""
    if deployment.streams and all(info.config.num_replicas == 1 for info in deployment.streams.values()):
        what = "each stream has one copy: losing the server's disk loses all jobs"
        remedy = "if that matters: three servers, JSJOBS_REPLICAS=3, then `jsjobs streams apply`"
        yield Finding("sync", Severity.NOTE, what, "JSJOBS_REPLICAS", remedy)


async def sync(deployment: Deployment) -> AsyncIterator[Finding]:
    """Check the sync settings, as far as they can be seen."""
    found = (await deployment.jetstream()).sync
    if not found:
        what = "this account cannot see when servers write to disk what they acknowledged; by default every 2 min"
        remedy = (
            f"to survive the power loss of all servers: {_ALWAYS} (publishing is 5 to 9 times slower). To see it here, "
            f"let the account import the service {ASKED_FOR_JETSTREAM} of the system account"
        )
        yield Finding("sync", Severity.NOTE, what, "sync_interval", remedy)
        return
    late = [server for server in found if not server.always]
    for server in late:
        what = f"sync_interval is {server.interval:g} s: if every copy loses power, the jobs of that time may be lost"
        yield Finding("sync", Severity.NOTE, what, server.server, f"if that matters: {_ALWAYS}")
    if not late:
        yield Finding("sync", Severity.OK, "every server writes to disk before it acknowledges", "")
