"""Nothing is done twice in effect: what the register took is of the attempt that ended the job."""

from collections import defaultdict
from collections.abc import Iterator

from survival.checks.violation import Violation
from survival.history import Effect, History, Version

RULE = "effects are fenced"


def effects_are_fenced(history: History) -> Iterator[Violation]:
    """No effect of an older fence lands after a newer one, and a completed job has exactly one that stands.

    The one that stands is the last final effect of the register; it must be of the attempt whose result the job has,
    and that must be the attempt that held the job when it was completed.
    """
    effects: dict[str, list[Effect]] = defaultdict(list)
    for effect in history.effects:
        if effect.accepted:
            effects[effect.job].append(effect)
    for job, landed in effects.items():
        fences = [effect.fence for effect in landed]
        if fences != sorted(fences):
            yield Violation(RULE, job, f"fences went back: {fences}")
    for job, versions in history.versions.items():
        end = history.end(job)
        if end is not None and end.status == "complete":
            yield from _standing(job, _holder(versions, end), end, effects[job])


def _holder(versions: list[Version], end: Version) -> int:
    """The revision that the end was decided on: that of the attempt which held the job."""
    return max((version.revision for version in versions if version.revision < end.revision), default=0)


def _standing(job: str, holder: int, end: Version, landed: list[Effect]) -> Iterator[Violation]:
    told_by = end.result["fence"] if isinstance(end.result, dict) else None
    if told_by != holder:
        yield Violation(RULE, job, f"attempt {holder} held it, and the result is of {told_by}")
    finals = [effect.fence for effect in landed if effect.what == "final"]
    if finals.count(holder) != 1 or finals[-1] != holder:
        yield Violation(RULE, job, f"attempt {holder} completed it, and the final effects are of {finals}")
