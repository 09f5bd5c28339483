"""What was recorded of a run, as the checker sees it. Pure, but for `read_history`, which reads the journals."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from survival.journal import read_all

TERMINAL = frozenset({"complete", "failed", "cancelled"})


@dataclass(frozen=True, slots=True)
class Try:
    """A job that a publisher was about to submit."""

    uid: str
    publisher: str
    kind: str = "ok"
    door: str = "submit"
    priority: str = "normal"
    entity: str | None = None
    key: str | None = None


@dataclass(frozen=True, slots=True)
class Receipt:
    """A job that was acknowledged; receipts of one publisher are in the order of its submits."""

    uid: str
    job: str
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """A handler's run, from its first line to its last; or to the death of its process, where it has no end."""

    job: str
    uid: str
    lane: tuple[str, str | None]
    """Priority and entity."""
    attempt: int
    fence: int
    pid: int
    began: float
    wall: float
    ended: float
    outcome: str


@dataclass(frozen=True, slots=True)
class Version:
    """One write of a job's entry."""

    revision: int
    stored: float
    status: str
    attempts: int
    max_attempts: int
    order: int | None
    """The sequence of the job's message in its queue, once it has begun."""
    due: str | None
    error: str | None
    errors: tuple[str, ...]
    statuses: tuple[str, ...]
    result: Any
    digest: str
    worker: str | None = None
    expires: bool = False


@dataclass(frozen=True, slots=True)
class Effect:
    """What a handler did to the register; effects are in the register's order."""

    job: str
    fence: int
    what: str
    accepted: bool


@dataclass(frozen=True, slots=True)
class Cancel:
    """A cancel's answer."""

    job: str
    answer: str
    answered: float


@dataclass(frozen=True, slots=True)
class Absence:
    """A time in which a process stood still."""

    pid: int
    since: float
    until: float


@dataclass(frozen=True, slots=True)
class Letter:
    """A row of `job_dlq`."""

    job: str
    attempts: int
    reason: str


@dataclass
class History:
    """All of it."""

    ack_wait: float = 4.0
    tries: dict[str, Try] = field(default_factory=dict)
    receipts: list[Receipt] = field(default_factory=list)
    refused: set[str] = field(default_factory=set)
    """What the server refused, and nobody submitted again with success."""
    runs: list[Run] = field(default_factory=list)
    """In the order in which they began."""
    versions: dict[str, list[Version]] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    cancels: list[Cancel] = field(default_factory=list)
    asked: set[str] = field(default_factory=set)
    """Jobs that somebody tried to cancel, whatever came of it."""
    absences: dict[int, list[Absence]] = field(default_factory=dict)
    letters: list[Letter] = field(default_factory=list)
    leftovers: dict[str, int] = field(default_factory=dict)
    gathered: tuple[int, int] = (0, 0)
    """The jobs that ran at once at the end, and the slots of all workers."""
    missed_turns: dict[str, float] = field(default_factory=dict)
    """Seconds for which a partition had jobs and was not served while others of its lane were, at most."""
    unanswered: dict[str, float] = field(default_factory=dict)
    """Seconds for which, at the end, a partition had both a request and jobs, at most."""
    stuck: list[str] = field(default_factory=list)
    """Processes that did not end when they were told to."""
    deleted: Counter[str] = field(default_factory=Counter)
    """How often a job's entry was deleted by an operator before it ended: nothing is known then of what came before."""
    lost_versions: int = 0
    """Writes of the bucket that could not be read any more."""

    def end(self, job: str) -> Version | None:
        """The job's first terminal version."""
        return next((version for version in self.versions.get(job, ()) if version.status in TERMINAL), None)

    def was_absent(self, pid: int, since: float, until: float) -> bool:
        """Whether the process stood still in some part of that time."""
        return any(away.since <= until and away.until >= since for away in self.absences.get(pid, ()))


def read_history(folder: Path) -> History:
    """The history of a run, from its journals."""
    history = History()
    _read_processes(folder, history)
    _read_publishers(folder, history)
    _read_handlers(folder, history)
    _read_cancels(folder, history)
    _read_end(folder, history)
    history.effects = [
        Effect(line["job"], line["fence"], line["what"], line["accepted"]) for line in read_all(folder, "register")
    ]
    return history


def _read_processes(folder: Path, history: History) -> None:
    frozen: dict[int, float] = {}
    for line in read_all(folder, "run"):
        match line["event"]:
            case "settings":
                history.ack_wait = line["ack_wait"]
            case "frozen":
                frozen[line["pid"]] = line["at"]
            case "woken":
                _add_absence(history, line["pid"], frozen.pop(line["pid"]), line["at"])
            case "stuck":
                history.stuck.append(line["name"])
            case "gathered":
                history.gathered = line["begun"], line["slots"]
            case "turns":
                history.missed_turns, history.unanswered = line["missed"], line["unanswered"]
            case "leftovers":
                history.leftovers = line["left"]


def _add_absence(history: History, pid: int, since: float, until: float) -> None:
    history.absences.setdefault(pid, []).append(Absence(pid, since, until))


def _read_publishers(folder: Path, history: History) -> None:
    for line in read_all(folder, "publisher-*"):
        uid = line["uid"]
        match line["event"]:
            case "try":
                names = ("publisher", "kind", "door", "priority", "entity", "key")
                history.tries[uid] = Try(uid, **{name: line[name] for name in names})
            case "ack":
                history.receipts.append(Receipt(uid, line["job"], line["duplicate"]))
                history.refused.discard(uid)
            case "refused":
                history.refused.add(uid)
            case "maybe":
                history.refused.discard(uid)


def _read_handlers(folder: Path, history: History) -> None:
    died = {line["pid"]: line["at"] for line in read_all(folder, "run") if line["event"] == "ended"}
    starts: list[dict[str, Any]] = []
    ends: dict[tuple[int, str, int], dict[str, Any]] = {}
    for path in sorted(folder.glob("handlers-*.jsonl")):
        pid = int(path.stem.rpartition("-")[2])
        for line in read_all(folder, path.stem):
            match line["event"]:
                case "start":
                    starts.append(line)
                case "end":
                    ends[pid, line["job"], line["fence"]] = line
                case "stalled":
                    _add_absence(history, pid, line["since"], line["at"])
    for line in sorted(starts, key=lambda line: line["at"]):
        end = ends.get((line["pid"], line["job"], line["fence"]))
        history.runs.append(
            Run(
                line["job"],
                line["uid"],
                (line["priority"], line["lane"]),
                line["attempt"],
                line["fence"],
                line["pid"],
                line["at"],
                line["wall"],
                end["at"] if end else died[line["pid"]],
                end["outcome"] if end else "killed",
            )
        )


def _read_cancels(folder: Path, history: History) -> None:
    for line in read_all(folder, "canceller-*"):
        if line["event"] == "asked":
            history.asked.add(line["job"])
        else:
            history.cancels.append(Cancel(line["job"], line["answer"], line["at"]))


def _read_end(folder: Path, history: History) -> None:
    versions: dict[str, list[Version]] = defaultdict(list)
    for line in read_all(folder, "versions"):
        if line["event"] == "stream":
            history.lost_versions = line["deleted"]
            continue
        if line["event"] == "deleted":
            history.deleted[line["job"]] += 1
            continue
        facts = {name: line[name] for name in Version.__slots__}
        facts |= {"errors": tuple(line["errors"]), "statuses": tuple(line["statuses"])}
        versions[line["job"]].append(Version(**facts))
    history.versions = dict(versions)
    history.letters = [Letter(line["job"], line["attempts"], line["reason"]) for line in read_all(folder, "letters")]
