"""Examining a deployment, and what of it is not as it should be."""

from collections.abc import Iterable
from typing import Any

from facts import eventually
from jsjobs import JobService
from jsjobs.doctor import Finding, Severity, examine


async def ills(config: JobService.Config, **given: Any) -> dict[str, list[Finding]]:
    """All findings but those that say that something is in order, by the check that found them."""
    found: dict[str, list[Finding]] = {}
    for finding in await examine(config, **{"environ": {}, "known_variables": (), **given}):
        assert finding.what
        assert (finding.severity is Severity.OK) == (not finding.remedy), "whoever is told of an ill is told a remedy"
        if finding.severity is not Severity.OK:
            found.setdefault(finding.check, []).append(finding)
    return found


async def the_ill(config: JobService.Config, check: str, **given: Any) -> Finding:
    """The one finding of a check."""
    (finding,) = (await ills(config, **given))[check]
    return finding


async def becomes(config: JobService.Config, check: str, severity: Severity, *, within: float = 20.0) -> Finding:
    """The finding, once it is so bad."""

    async def look() -> Finding | None:
        found = (await ills(config)).get(check, [])
        return next((finding for finding in found if finding.severity is severity), None)

    return await eventually(look, within=within)


def texts(found: dict[str, list[Finding]]) -> str:
    """All that a person would read."""
    return "\n".join(f"{one.what} {one.where} {one.remedy}" for one in flat(found.values()))


def flat(found: Iterable[list[Finding]]) -> list[Finding]:
    return [finding for findings in found for finding in findings]
