"""`just survival`: a run of any length, the checker's verdict as JSON, exit code 1 if a rule was broken."""

import argparse
import importlib.metadata
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from jsjobs.embedded.nats import find_binary
from survival.checker import check
from survival.history import History, read_history
from survival.interrupted import CODE, run_until_told
from survival.run import Outcome, Settings, run


def say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def summary(settings: Settings, outcome: Outcome, history: History) -> dict[str, object]:
    """What is known of the run, and the verdict on each rule."""
    broken = check(history)
    ends = Counter(versions[-1].status for versions in history.versions.values())
    return {
        "settings": asdict(settings),
        "versions": versions(),
        "seconds": round(outcome.seconds),
        "drained_within_seconds": round(outcome.drained_within, 1),
        "jobs_accepted": outcome.accepted,
        "jobs_known": len(history.versions),
        "handlers_begun": len(history.runs),
        "entries_written": sum(len(versions) for versions in history.versions.values()),
        "ends": dict(ends),
        "letters": len(history.letters),
        "cancels": dict(Counter(cancel.answer for cancel in history.cancels)),
        "effects_refused": sum(not effect.accepted for effect in history.effects),
        "faults": sum(outcome.faults.values()),
        "faults_by_kind": dict(sorted(outcome.faults.items())),
        "processes_started_again": outcome.ended_by_themselves,
        "consumers_woken": outcome.woken,
        "rules": {rule: "held" if not found else [asdict(one) for one in found] for rule, found in broken.items()},
        "verdict": "broken" if any(broken.values()) else "held",
    }


def versions() -> dict[str, str]:
    server = subprocess.run([find_binary(), "--version"], capture_output=True, text=True, check=True).stdout
    packages = {name: importlib.metadata.version(name) for name in ("jsjobs", "nats-py")}
    return {"nats-server": server.split()[-1], "python": sys.version.split()[0], **packages}


def main() -> int:
    parser = argparse.ArgumentParser(prog="just survival", description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--jobs", type=int, help="to be accepted at least (default: 120 a second)")
    parser.add_argument("--faults", type=int, help="to be done (default: one in 5.5 seconds)")
    parser.add_argument("--servers", type=int, choices=(1, 3), default=1)
    parser.add_argument(
        "--folder", type=Path, help="for the record; a new one in the system's temporary folder if not given"
    )
    parser.add_argument("--check", action="store_true", help="only check the record in --folder again")
    given = parser.parse_args()
    seconds = given.minutes * 60
    folder = given.folder or Path(tempfile.mkdtemp(prefix=f"survival-{given.servers}-{given.seed}-"))
    if given.check:
        broken = check(read_history(folder))
        told = {rule: [asdict(one) for one in found] for rule, found in broken.items()}
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        return int(any(broken.values()))
    folder.mkdir(parents=True, exist_ok=True)
    settings = Settings(
        seed=given.seed,
        servers=given.servers,
        seconds=seconds,
        jobs=given.jobs or int(seconds * 120),
        faults=given.faults or int(seconds / 5.5),
    )
    say(f"the record is in {folder}")
    outcome = run_until_told(run(settings, folder.resolve(), say))
    if outcome is None:
        return CODE
    shutil.rmtree(folder / "servers", ignore_errors=True)
    say("checking")
    began = time.monotonic()
    told = summary(settings, outcome, read_history(folder))
    say(f"checked in {time.monotonic() - began:.0f} s")
    text = json.dumps(told, indent=2)
    (folder / "summary.json").write_text(text)
    sys.stdout.write(f"{text}\n")
    return int(told["verdict"] != "held")


if __name__ == "__main__":
    sys.exit(main())
