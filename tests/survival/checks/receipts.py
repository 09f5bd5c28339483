"""What a publisher was told is true."""

from collections import defaultdict
from collections.abc import Iterator

from survival.checks.violation import Violation
from survival.history import History

RULE = "receipts are true"
ONE_MESSAGE = frozenset({"submit", "raw", "delayed"})
"""Doors through which a job goes once: whatever happens it is at most one job."""


def receipts_are_true(history: History) -> Iterator[Violation]:
    """A receipt's id is of that job alone, a duplicate's of one that is known, and what was refused never runs."""
    ran: dict[str, set[str]] = defaultdict(set)
    for run in history.runs:
        ran[run.uid].add(run.job)
    yield from _of_one_job(history)
    for receipt in history.receipts:
        if history.tries[receipt.uid].door in ONE_MESSAGE and ran[receipt.uid] - {receipt.job}:
            yield Violation(RULE, receipt.job, f"{receipt.uid} ran as {sorted(ran[receipt.uid])}")
        if receipt.duplicate and receipt.uid not in ran and history.end(receipt.job) is None:
            yield Violation(RULE, receipt.job, f"{receipt.uid} was told to be queued already as this, which is unknown")
    for uid in history.refused:
        if uid in ran:
            yield Violation(RULE, "", f"{uid} was refused, and ran as {sorted(ran[uid])}")


def _of_one_job(history: History) -> Iterator[Violation]:
    owners: dict[str, str] = {}
    for receipt in history.receipts:
        owner = receipt.uid if receipt.duplicate else owners.setdefault(receipt.job, receipt.uid)
        if owner != receipt.uid:
            yield Violation(RULE, receipt.job, f"it was told to be {owner} and {receipt.uid}")
    for run in history.runs:
        owner = owners.get(run.job, run.uid)
        if owner != run.uid:
            yield Violation(RULE, run.job, f"it was told to be {owner}, and ran as {run.uid}")
