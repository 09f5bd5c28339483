"""Every accepted job ends, exactly once, for a reason, and its end never changes."""

from collections.abc import Iterator

from jsjobs.worker.claim_decision import WORKER_LOST
from survival.checks.violation import Violation
from survival.history import TERMINAL, History, Version
from survival.servers import KEPT_VERSIONS

FAILS = frozenset({"dies", "invalid", "late"})
"""Kinds of jobs that are meant to die."""
OUTSIDE = (WORKER_LOST, "Timeout", "StaleFenceError", "time limit")
"""In the errors of a job that died of what was done to its workers."""


def accepted_jobs_end(history: History) -> Iterator[Violation]:
    """Every job with a receipt, and every job that began, ends complete, failed or cancelled."""
    for receipt in history.receipts:
        if receipt.job not in history.versions:
            yield Violation("accepted jobs end", receipt.job, f"{receipt.uid} was accepted, and nothing is known of it")
    for job, versions in history.versions.items():
        if versions[-1].status not in TERMINAL:
            yield Violation("accepted jobs end", job, f"it is {versions[-1].status}")


def ends_never_change(history: History) -> Iterator[Violation]:
    """What is written after a terminal entry says the same: only its time to live may be new."""
    for job, versions in history.versions.items():
        end = history.end(job)
        for version in versions:
            if end is not None and version.revision > end.revision and version.digest != end.digest:
                told = f"{end.status} at {end.revision}, then {version.status} at {version.revision}"
                yield Violation("ends never change", job, told)


def every_version_was_seen(history: History) -> Iterator[Violation]:
    """The record of entries has no gap: else the rules about them would prove little."""
    if history.lost_versions:
        yield Violation("every version was seen", "", f"{history.lost_versions} are missing")
    for job, versions in history.versions.items():
        if len(versions) >= KEPT_VERSIONS:
            yield Violation("every version was seen", job, f"it was written {len(versions)} times or more")


def ends_have_a_cause(history: History) -> Iterator[Violation]:
    """Nothing dies that was not meant to or lost its worker, and nothing is cancelled that nobody cancelled."""
    kinds = {receipt.job: history.tries[receipt.uid].kind for receipt in history.receipts if not receipt.duplicate}
    kinds |= {run.job: history.tries[run.uid].kind for run in history.runs}
    for job in history.versions:
        end, kind = history.end(job), kinds.get(job)
        if end is None:
            continue
        if end.status == "cancelled" and job not in history.asked:
            yield Violation("ends have a cause", job, "it is cancelled, and nobody cancelled it")
        if end.status == "complete" and kind in FAILS:
            yield Violation("ends have a cause", job, f"it is complete, and was to fail ({kind})")
        if end.status == "failed" and kind not in FAILS and not _died_of_faults(end):
            yield Violation("ends have a cause", job, f"it ({kind}) died of {end.errors}")


def _died_of_faults(end: Version) -> bool:
    return any(known in error for error in end.errors for known in OUTSIDE)
