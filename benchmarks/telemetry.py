"""Measure what telemetry costs a worker: off, beside the same code without its hooks, and on, beside off.

    python benchmarks/telemetry.py [--jobs 20000] [--rounds 5]

`workloads/telemetry.py` says what is compared.
"""

from __future__ import annotations

import argparse

from harness.rounds import Plan
from harness.servers import Servers, stoppable
from workloads import telemetry


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=telemetry.JOBS)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with stoppable(), Servers() as servers:
        found = telemetry.measure(Plan(servers, arguments.rounds, arguments.jobs / telemetry.JOBS))
    print("\n".join(telemetry.report(found)))


if __name__ == "__main__":
    main()
