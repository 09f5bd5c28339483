"""A good history, made by hand, for tests to break."""

from typing import Any

from survival.history import Absence, Cancel, Effect, History, Letter, Receipt, Run, Try, Version

LANE = ("normal", "e1")
WALL = 1000.0
"""The wall clock is so far ahead of the monotonic one."""


def version(revision: int, status: str, *, at: float, attempts: int = 1, **given: Any) -> Version:
    facts: dict[str, Any] = {
        "revision": revision,
        "stored": WALL + at,
        "status": status,
        "attempts": attempts,
        "max_attempts": 3,
        "order": None,
        "due": None,
        "error": None,
        "errors": (),
        "statuses": (status,),
        "result": None,
        "digest": f"{revision}",
        **given,
    }
    return Version(**facts)


def run(job: str, uid: str, fence: int, began: float, ended: float, **given: Any) -> Run:
    facts: dict[str, Any] = {"lane": LANE, "attempt": 1, "pid": 1, "wall": WALL + began, "outcome": "done", **given}
    return Run(job=job, uid=uid, fence=fence, began=began, ended=ended, **facts)


def good() -> History:
    """Four jobs of one entity: one completes, one retries, one dies, one is cancelled; and a delayed one of another."""
    history = History(ack_wait=4)
    for number, kind in enumerate(("ok", "flaky", "dies", "ok"), start=1):
        uid = f"p.{number}"
        history.tries[uid] = Try(uid, "p", kind, priority=LANE[0], entity=LANE[1], key="k" if number == 1 else None)
        history.receipts.append(Receipt(uid, f"normal-{number}"))
    history.tries["p.5"] = Try("p.5", "p", door="delayed", priority="normal", entity="e2")
    history.receipts.append(Receipt("p.5", "at-x"))
    history.tries["p.6"] = Try("p.6", "p", priority="normal", entity="e2")
    history.refused.add("p.6")
    history.versions = {
        "normal-1": [
            version(10, "processing", at=1, order=1),
            version(11, "complete", at=2, order=1, result={"fence": 10}),
        ],
        "normal-2": [
            version(20, "processing", at=3, order=2),
            version(21, "queued", at=4, order=2, error="it was planned to fail"),
            version(22, "processing", at=5, attempts=2, order=2),
            version(23, "queued", at=5.5, attempts=1, order=2),
            version(24, "processing", at=6, attempts=2, order=2),
            version(25, "complete", at=7, attempts=2, order=2, result={"fence": 24}),
        ],
        "normal-3": [
            version(30, "processing", at=8, order=3),
            version(31, "failed", at=9, order=3, errors=("it was planned to die",), digest="dead"),
            version(32, "failed", at=10, order=3, errors=("it was planned to die",), digest="dead", expires=True),
        ],
        "normal-4": [version(40, "cancelled", at=3, attempts=0)],
        "at-x": [
            version(50, "queued", at=1, attempts=0, due="1970-01-01T00:17:00+00:00"),
            version(51, "processing", at=20.5, order=9, due="1970-01-01T00:17:00+00:00"),
            version(52, "complete", at=21, order=9, due="1970-01-01T00:17:00+00:00", result={"fence": 51}),
        ],
    }
    history.runs = [
        run("normal-1", "p.1", 10, 1.1, 1.9),
        run("normal-2", "p.2", 20, 3.1, 3.9, outcome="RuntimeError"),
        run("normal-2", "p.2", 22, 5.1, 5.4, attempt=2, outcome="interrupted"),
        run("normal-2", "p.2", 24, 6.1, 6.9, attempt=2),
        run("normal-3", "p.3", 30, 8.1, 8.9, outcome="RuntimeError"),
        run("at-x", "p.5", 51, 20.6, 20.9, lane=("normal", "e2")),
    ]
    for job, fence in (("normal-1", 10), ("normal-2", 24), ("at-x", 51)):
        history.effects += [Effect(job, fence, "begin", True), Effect(job, fence, "final", True)]
    history.cancels = [Cancel("normal-4", "cancelled", 3.0), Cancel("normal-1", "ended", 3.0)]
    history.asked = {"normal-4", "normal-1"}
    history.letters = [Letter("normal-3", 1, "MaxRetries")]
    history.leftovers = {"JOBS_NORMAL": 0}
    history.gathered = 40, 40
    history.missed_turns = {"normal-parallel-0": 8.9}
    history.unanswered = {"normal-parallel-0": 4.9}
    return history


def taken_over(*, frozen: bool) -> History:
    """A good history, but that job 1's worker ran on while another took the job over and completed it."""
    history = good()
    history.versions["normal-1"] = [
        version(10, "processing", at=1, order=1),
        version(12, "processing", at=5.2, attempts=2, order=1),
        version(13, "complete", at=5.8, attempts=2, order=1, result={"fence": 12}),
    ]
    # The others of its entity are out of the way.
    history.runs = [one for one in history.runs if one.lane != LANE]
    history.runs += [
        run("normal-1", "p.1", 10, 1.1, 5.5, outcome="interrupted"),
        run("normal-1", "p.1", 12, 5.3, 5.7, attempt=2, pid=2),
    ]
    history.effects = [one for one in history.effects if one.job != "normal-1"]
    history.effects += [Effect("normal-1", 12, "begin", True), Effect("normal-1", 12, "final", True)]
    if frozen:
        history.absences = {1: [Absence(1, 1.2, 5.4)]}
    return history
