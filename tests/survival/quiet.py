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
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from jsjobs.jetstream.api.consumers import list_consumers
from jsjobs.jetstream.api.types import ConsumerInfo
from jsjobs.model.errors import JobError
from jsjobs.model.lanes import QUEUES
from survival.checker import check
from survival.history import read_history
from survival.interrupted import CODE, run_until_told
from survival.nemesis import Stage, kill_at_once
from survival.run import Accepted, Settings, drained, staged, to_its_end, woken
from survival.turns import Turns

KILLS = 6
JOBS = 3000
SECONDS = 12.0
ACK_WAIT = 4.0
LETTERS_WAIT = 30.0
"""The `ack_wait` of the routers' consumer: a letter whose acknowledgement died with the server comes once more."""
LOOKS_EVERY = 0.25
QUIET = 10.0
"""Seconds beside `ack_wait` in which all jobs end after the last fault,"""
STILL = 5.0
"""and in which a shard goes on that has jobs."""


@dataclass
class Told:
    """What came of a run."""

    seed: int
    servers: int
    jobs: int
    ended_within: float
    """Seconds from the end of the last fault until no job was left; as long as it was waited for, where one was,"""
    stored_within: float
    """and until no dead letter was on its way."""
    longest_still: float
    """Seconds for which a shard had jobs and none moved, at most,"""
    stillest: str
    """and that shard."""
    left: dict[str, int]
    woken: dict[str, int]
    """How often each consumer was woken that had jobs and delivered none."""
    broken: dict[str, list[object]]

    @property
    def held(self) -> bool:
        # Three copies of all on two cores: how long a backlog takes says nothing there, but no shard may stand still.
        in_time = self.ended_within <= ACK_WAIT + QUIET if self.servers == 1 else not self.left
        goes_on = self.longest_still <= ACK_WAIT + STILL
        return (
            in_time
            and goes_on
            and self.stored_within <= LETTERS_WAIT + max(QUIET, self.ended_within)
            and not self.broken
        )


class Stillness:
    """How long each shard or partition stood still though it had jobs, of which the longest time counts."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._since: dict[str, tuple[tuple[int, ...], float]] = {}
        self.longest = 0.0
        self.shard = ""

    async def watch(self) -> None:
        """Look until cancelled; what cannot be asked now stands as still as it was."""
        names, connection = self._stage.names, self._stage.connection
        while True:
            with suppress(JobError):
                for queue in QUEUES:
                    async for info in list_consumers(connection, names.queue(queue)):
                        self._see(info)
            await asyncio.sleep(LOOKS_EVERY)

    def _see(self, info: ConsumerInfo) -> None:
        name, now = info.name, time.monotonic()
        at = (info.delivered.consumer_seq, info.ack_floor.stream_seq, info.num_pending)
        before, since = self._since.get(name, (None, now))
        if at != before or not (info.num_pending or info.num_ack_pending):
            since = now
        self._since[name] = at, since
        if now - since > self.longest:
            self.longest, self.shard = now - since, name


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

        stillness = Stillness(stage)
        turns = Turns(stage)
        watching = [asyncio.create_task(one.watch()) for one in (stillness, turns)]
        left = await drained(stage.connection, stage.names, 60, on_look=note)
        watching[0].cancel()
        await to_its_end(stage, turns, settings)
        watching[1].cancel()
        jobs = accepted.count()
        accepted.close()
    broken = {rule: [asdict(one) for one in found] for rule, found in check(read_history(folder)).items() if found}
    waiting = {name: count for name, count in left.items() if count}
    return Told(
        seed,
        servers,
        jobs,
        round(seen["jobs"], 1),
        round(seen["letters"], 1),
        round(stillness.longest, 1),
        stillness.shard,
        waiting,
        woken(folder),
        broken,
    )


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
