"""Measure how long an idle worker takes to start a job, and its submitter to get the result, across processes.

    python benchmarks/latency.py [--jobs 2000]

The worker runs in a process of its own. One job at a time is submitted, each once the one before has started; then others,
each once the result of the one before is there.
`raw` is the floor: a message through the same stream and shard to a bare nats-py subscriber, published to callback.
Both clocks are this machine's.
"""

from __future__ import annotations

import argparse

from harness.catalogue import ACK_ONLY, OURS
from harness.rounds import Plan
from harness.servers import Servers, stoppable
from workloads import latency


def main() -> None:
    """Measure both, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2000)
    jobs = parser.parse_args().jobs
    with stoppable(), Servers() as servers:
        plan = Plan(servers, factor=jobs / latency.JOBS)
        found = {name: latency.one(plan, name) for name in (ACK_ONLY, OURS)}
    print(f"{jobs} jobs, one at a time, across processes:")
    for text, name, kind in (
        ("raw publish to callback", ACK_ONLY, "starts"),
        ("submit to handler start", OURS, "starts"),
        ("submit to result", OURS, "results"),
    ):
        p50, p99 = found[name][f"{kind} p50"], found[name][f"{kind} p99"]
        print(f"{text:24} p50 {p50 * 1e3:6.2f} ms   p99 {p99 * 1e3:6.2f} ms")


if __name__ == "__main__":
    main()
