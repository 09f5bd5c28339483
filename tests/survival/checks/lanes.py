"""Jobs of one entity at one priority run one at a time, in the order in which they are stored; any other job by itself."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import datetime

from survival.checks.violation import Violation
from survival.history import History, Run

Lane = tuple[str, str | None]
CLOCKS = 0.05
"""Seconds by which a time that is counted on two clocks may be wrong."""


def runs_do_not_overlap(history: History) -> Iterator[Violation]:
    """No two handlers of an entity, or of one job, run at once, unless one lost its lease while its process stood still."""
    lanes: dict[Lane | str, list[Run]] = defaultdict(list)
    for run in history.runs:
        lanes[run.job if run.lane[1] is None else run.lane].append(run)
    for runs in lanes.values():
        yield from _overlaps(history, runs)


def _overlaps(history: History, runs: list[Run]) -> Iterator[Violation]:
    running: list[Run] = []
    for run in runs:
        running = [other for other in running if other.ended > run.began]
        for other in running:
            if not (lost_lease(history, other, run.began) or lost_lease(history, run, run.began)):
                told = f"attempt {run.attempt} ({run.fence}) began while {other.job} ({other.fence}) ran"
                yield Violation("runs do not overlap", run.job, told)
        running.append(run)


def lost_lease(history: History, run: Run, at: float) -> bool:
    """Whether by then another had the run's job, or had ended it, and the run's process had stood still before."""
    wall = run.wall + (at - run.began)
    versions = history.versions.get(run.job, ())
    claimed = next((version.stored for version in versions if version.revision == run.fence), run.wall)
    superseded = any(version.revision > run.fence and version.stored <= wall + CLOCKS for version in versions)
    return superseded and history.was_absent(run.pid, run.began - (run.wall - claimed) - CLOCKS, at)


def jobs_begin_in_order(history: History) -> Iterator[Violation]:
    """A job of a lane begins after the end of every job stored before it: told by revisions, so by no clock."""
    lanes: dict[Lane, list[tuple[int, str]]] = defaultdict(list)
    lane_of = {receipt.job: receipt.uid for receipt in history.receipts if not receipt.duplicate}
    lane_of |= {run.job: run.uid for run in history.runs}
    for job, uid in lane_of.items():
        tried, place = history.tries[uid], order_of(history, job)
        if tried.entity is not None and place is not None:
            lanes[tried.priority, tried.entity].append((place, job))
    for jobs in lanes.values():
        ended, ended_by = 0, ""
        for _, job in sorted(jobs):
            begun = next((one.revision for one in history.versions.get(job, ()) if one.status == "processing"), None)
            if begun is not None and begun < ended:
                yield Violation(
                    "jobs begin in order", job, f"it began before {ended_by}, which was stored before it, ended"
                )
            end = history.end(job)
            if end is not None and end.revision > ended:
                ended, ended_by = end.revision, job


def order_of(history: History, job: str) -> int | None:
    """The sequence of the job's message in its queue; None where it never began, and its id does not tell."""
    for version in history.versions.get(job, ()):
        if version.order is not None:
            return version.order
    number = job.rpartition("-")[2]
    return int(number) if number.isdigit() and not job.startswith(("at-", "replay-")) else None


def jobs_are_stored_in_the_order_of_submits(history: History) -> Iterator[Violation]:
    """What one publisher submits for one entity, waiting for each answer, is stored in that order."""
    last: dict[tuple[str, str, str], tuple[int, str]] = {}
    for receipt in history.receipts:
        tried, place = history.tries[receipt.uid], order_of(history, receipt.job)
        # A delayed one is stored when it is due, a keyed one perhaps by an answer that was lost.
        if tried.entity is None or place is None or tried.door == "delayed" or receipt.duplicate:
            continue
        lane = (tried.publisher, tried.priority, tried.entity)
        before, job = last.get(lane, (0, ""))
        if place <= before:
            yield Violation("jobs are stored in the order of submits", receipt.job, f"submitted after {job}")
        last[lane] = (place, receipt.job)


def delayed_jobs_are_never_early(history: History) -> Iterator[Violation]:
    """No handler of a delayed job begins before it is due."""
    for run in history.runs:
        due = next((version.due for version in history.versions.get(run.job, ()) if version.due), None)
        if due is not None and run.wall < datetime.fromisoformat(due).timestamp():
            yield Violation("delayed jobs are never early", run.job, f"it began {run.wall}, and was due at {due}")
