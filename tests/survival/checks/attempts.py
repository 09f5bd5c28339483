"""A job is tried as often as it may be, and every attempt is one that its entry knows."""

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

from survival.checks.violation import Violation
from survival.history import History, Version

RULE = "attempts are bounded"


def attempts_are_bounded(history: History) -> Iterator[Violation]:
    """No entry counts more than `max_attempts`, and no more handlers ran than that and the attempts given back.

    Whoever deletes an entry has its attempts counted from the first again.
    """
    begun = Counter(run.job for run in history.runs)
    for job, versions in history.versions.items():
        last = versions[-1]
        for version in versions:
            if version.attempts > version.max_attempts:
                yield Violation(RULE, job, f"{version.attempts} attempts of {version.max_attempts}")
                break
        bound = last.max_attempts * (1 + history.deleted[job]) + given_back(versions)
        if begun[job] > bound:
            yield Violation(RULE, job, f"{begun[job]} handlers began, {bound} may")


def given_back(versions: list[Version]) -> int:
    """How many attempts were released or snoozed: they end in `queued` without an error."""
    return sum(
        version.status == "queued" and version.error is None and before.status == "processing"
        for before, version in pairwise(versions)
    )


def runs_are_claimed(history: History) -> Iterator[Violation]:
    """Each run has a fence of its own, which is the revision of the `processing` entry of just this attempt."""
    claims = {
        version.revision: (job, version.attempts)
        for job, versions in history.versions.items()
        for version in versions
        if version.status == "processing"
    }
    seen: set[int] = set()
    for run in history.runs:
        if claims.get(run.fence) != (run.job, run.attempt):
            told = f"a handler ran with fence {run.fence} as attempt {run.attempt}: {claims.get(run.fence)}"
            yield Violation("runs are claimed", run.job, told)
        if run.fence in seen:
            yield Violation("runs are claimed", run.job, f"two handlers ran with fence {run.fence}")
        seen.add(run.fence)
