"""A cancel's answer agrees with the job's end, and nothing of a cancelled job runs on."""

from collections import defaultdict
from collections.abc import Iterator

from survival.checks.lanes import lost_lease
from survival.checks.violation import Violation
from survival.history import History, Run

RULE = "cancels are true"
ENDS = {
    "cancelled": {"cancelled"},
    "AlreadyCancelled": {"cancelled"},
    "ended": {"complete", "failed"},
    "Timeout": {"complete", "failed", "cancelled"},
    "RunnerUnavailable": {"complete", "failed", "cancelled"},
}
"""What a job ends as after each answer; the last two leave it open."""


def cancels_are_true(history: History) -> Iterator[Violation]:
    """See the module."""
    runs: dict[str, list[Run]] = defaultdict(list)
    for run in history.runs:
        runs[run.job].append(run)
    for cancel in history.cancels:
        end = history.end(cancel.job)
        status = end.status if end is not None else "unknown"
        if status not in ENDS.get(cancel.answer, ()):
            yield Violation(RULE, cancel.job, f"the answer was {cancel.answer}, and the job ended as {status}")
        # Where the entry was deleted that told who has the job, nobody could be asked to stop.
        if cancel.answer == "cancelled" and not history.deleted[cancel.job]:
            for run in runs[cancel.job]:
                if run.ended > cancel.answered and not lost_lease(history, run, max(run.began, cancel.answered)):
                    yield Violation(
                        RULE, cancel.job, f"attempt {run.attempt} still ran when it was told to be cancelled"
                    )
