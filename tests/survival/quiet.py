"""Six times workers and server are killed while jobs are published; then nobody publishes, and all jobs must end soon.

    just survival-quiet --runs 20 --seed 7

nats-server has faults that any further publish heals: only silence shows them.
"""

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from survival.checker import check
from survival.history import read_history
from survival.interrupted import CODE, run_until_told
from survival.nemesis import kill_at_once
from survival.recording import record_letters, record_versions
from survival.run import Accepted, Settings, drained, staged, woken

KILLS = 6
JOBS = 3000
SECONDS = 12.0
ACK_WAIT = 4.0
LETTERS_WAIT = 30.0
"""The `ack_wait` of the routers' consumer: a letter whose acknowledgement died with the server comes once more."""
QUIET = 10.0
"""Seconds beside `ack_wait` in which all jobs end after the last fault."""


@dataclass
class Told:
    """What came of a run."""

    seed: int
    jobs: int
    ended_within: float
    """Seconds from the end of the last fault until no job was left; as long as it was waited for, where one was,"""
    stored_within: float
    """and until no dead letter was on its way."""
    left: dict[str, int]
    woken: dict[str, int]
    """How often each consumer was woken that had jobs and delivered none."""
    broken: dict[str, list[object]]

    @property
    def held(self) -> bool:
        in_time = self.ended_within <= ACK_WAIT + QUIET and self.stored_within <= LETTERS_WAIT + QUIET
        return in_time and not self.broken and not self.left


async def run_quiet(seed: int, folder: Path, say: Callable[[str], None], *, servers: int = 1) -> Told:
    """Do it once."""
    draw = random.Random(f"{seed}/quiet/{servers}")
    settings = Settings(seed=seed, servers=servers, seconds=SECONDS, jobs=JOBS, ack_wait=ACK_WAIT, quick=True)
    async with staged(settings, folder) as stage:
        accepted, began = Accepted(folder), time.monotonic()
        for number in range(KILLS - 1):
            await asyncio.sleep(max(0.0, began + (number + draw.uniform(0.3, 1)) * SECONDS / KILLS - time.monotonic()))
            await kill_at_once(stage, draw)
        async with asyncio.timeout(120):
            while accepted.count() < JOBS:  # noqa: ASYNC110 - other processes count them
                await asyncio.sleep(0.1)
        await stage.processes.stop("publisher")
        await kill_at_once(stage, draw)
        last = time.monotonic()
        say(f"seed {seed}: {accepted.count()} jobs, and now silence")
        seen = {"jobs": 0.0, "letters": 0.0}

        def note(left: dict[str, int]) -> None:
            for name, count in left.items():
                if count:
                    what = "letters" if name.startswith(stage.names.dead_stream) else "jobs"
                    seen[what] = time.monotonic() - last

        left = await drained(stage.connection, stage.names, 60, on_look=note)
        for kind in ("worker", "router"):
            await stage.processes.stop(kind)
        stage.journal.note("leftovers", left=left)
        await record_versions(stage.servers.url, stage.names, folder)
        await record_letters(stage.servers.postgres.url, stage.names, folder)
        jobs = accepted.count()
        accepted.close()
    broken = {rule: [asdict(one) for one in found] for rule, found in check(read_history(folder)).items() if found}
    waiting = {name: count for name, count in left.items() if count}
    return Told(seed, jobs, round(seen["jobs"], 1), round(seen["letters"], 1), waiting, woken(folder), broken)


def main() -> int:
    parser = argparse.ArgumentParser(prog="just survival-quiet", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each further one has the next")
    parser.add_argument("--runs", type=int, default=1)
    parser.add_argument("--servers", type=int, choices=(1, 3), default=1)
    given = parser.parse_args()
    all_held = True
    for seed in range(given.seed, given.seed + given.runs):
        folder = Path(tempfile.mkdtemp(prefix=f"survival-quiet-{given.servers}-{seed}-"))
        told = run_until_told(run_quiet(seed, folder.resolve(), _say, servers=given.servers))
        if told is None:
            return CODE
        all_held = all_held and told.held
        sys.stdout.write(json.dumps({"held": told.held, **asdict(told)}) + "\n")
        sys.stdout.flush()
        if told.held:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            _say(f"the record is in {folder}")
    return int(not all_held)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


if __name__ == "__main__":
    sys.exit(main())
