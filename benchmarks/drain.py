"""Measure how fast queued no-op jobs are drained, beside a bare nats-py loop that does the same writes, in one run.

    python benchmarks/drain.py [--jobs 20000] [--rounds 3]
    python benchmarks/drain.py --side ack-only --side saq --side jsjobs
    python benchmarks/drain.py --jobs 10000 --against 200000 --rounds 5   # is the rate flat?

`jsjobs` runs jobs without an entity, from a parallel lane, `jsjobs-ordered` jobs with one, from the shards: each is a worker
process as users start it. `bare` subscribes to the same shards with plain nats-py and, for each message, writes a first
entry (compare-and-set), then a second one, then acks: no history, no fencing, no validation, no handler. Each runs in a
process of its own, on uvloop, on a fresh server.
"""

from __future__ import annotations

import argparse

from harness import catalogue, figures
from harness.catalogue import BARE, ORDERED, OURS
from harness.rounds import Plan, one_drain, take_turns
from harness.servers import Servers, stoppable


def main() -> None:
    """Let the sides take turns, and print their medians and the ratios to the first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--side", action="append", choices=catalogue.NAMES, help="instead of bare and both lanes of jsjobs"
    )
    parser.add_argument("--against", type=int, help="compare jsjobs with itself at this number of jobs instead")
    arguments = parser.parse_args()
    sizes = {f"{name} {arguments.jobs}": arguments.jobs for name in arguments.side or (BARE, ORDERED, OURS)}
    if arguments.against:
        sizes = {f"{OURS} {jobs}": jobs for jobs in (arguments.jobs, arguments.against)}
    with stoppable(), Servers() as servers:
        plan = Plan(servers)
        found = take_turns(
            list(sizes), arguments.rounds, lambda name: one_drain(plan, name.split()[0], sizes[name]), what="drain"
        )
    print(f"medians of {arguments.rounds}:")
    first = figures.median(next(iter(found.values())), "rate")
    for name, rounds in found.items():
        rate = figures.median(rounds, "rate")
        print(f"{name.split()[0]:20} {sizes[name]:9,} jobs {rate:8,.0f}/s   ratio {rate / first:.2f}")


if __name__ == "__main__":
    main()
