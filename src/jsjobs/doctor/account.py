"""JetStream for this account: whether it is there, and how much of what it may hold it holds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Any

from jsjobs.doctor.finding import Finding, Severity, how_full
from jsjobs.doctor.patient import ANSWERS_WITHIN, Patient
from jsjobs.jetstream.api import call
from jsjobs.jetstream.refusals import NotPermitted
from jsjobs.model.errors import JobError

_COUNTED = {
    "memory": ("max_memory", "reserved_memory", "bytes of memory"),
    "storage": ("max_storage", "reserved_storage", "bytes of storage"),
    "streams": ("max_streams", "", "streams"),
}
"""What is used, as the server names it, to: its limit, what is reserved of it, and its name for people."""


async def limits(patient: Patient) -> AsyncIterator[Finding]:
    """Whether JetStream answers, and how near the account's limits are."""
    if not patient.may("INFO"):
        return
    try:
        info = await call(patient.connection, "INFO", timeout=ANSWERS_WITHIN)
    except NotPermitted as error:
        remedy = "let this user publish on $JS.API.INFO, or run this as a user who may"
        what = f"the account's limits cannot be seen: {error.message}"
        yield Finding("limits", Severity.NOTE, what, "account", remedy)
        return
    except JobError as error:
        patient.has_jetstream = False
        remedy = (
            "`jetstream {}` in the configuration of the servers, and `jetstream: enabled` in that of the account; in a "
            "cluster, more than half of the servers must run. A server whose disk was full needs room and a restart"
        )
        yield Finding("limits", Severity.PROBLEM, f"JetStream does not serve: {error.message}", "account", remedy)
        return
    patient.max_consumers = max(told["limits"].get("max_consumers", -1) for told in (info, *_tiers(info).values()))
    near = list(_near(info, "account"))
    for name, tier in _tiers(info).items():
        near += _near(tier, f"account, tier {name}")
    for finding in near:
        yield finding
    if not near:
        bounded = patient.max_consumers > 0
        bounded = bounded or any(info["limits"].get(limit, -1) > 0 for limit, _, _ in _COUNTED.values())
        what = "the account's limits are far" if bounded or info.get("tiers") else "the account has no limits"
        yield Finding("limits", Severity.OK, f"{what}; {info['streams']} streams, {info['storage']:,} bytes", "")


def _tiers(info: dict[str, Any]) -> dict[str, Any]:
    return info.get("tiers") or {}


def _near(told: dict[str, Any], where: str) -> Iterator[Finding]:
    for what, (limit, reserved, name) in _COUNTED.items():
        most = told["limits"].get(limit, -1)
        used = max(told.get(what, 0), told.get(reserved, 0))
        if severity := how_full(used, most):
            text = f"{used:,} of {most:,} {name} are taken: at the limit the server refuses jobs or streams"
            yield Finding("limits", severity, text, where, f"raise {limit} of the account, or lower JSJOBS_QUEUE_BYTES")
