"""Measure how long a cancel takes until it is answered, and until the shard's next job starts, across processes.

    python benchmarks/cancel.py [--rounds 500]

`workloads/cancels.py` says what is measured.
"""

from __future__ import annotations

import argparse
import sys

from workloads import cancels


def main() -> None:
    """Measure and print; a p99 above the promised bound is an error."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=500)
    rounds = parser.parse_args().rounds
    found = cancels.find(rounds)
    print(f"{rounds} cancels of each kind (a tenth for processes), one at a time, across processes:")
    for what, seconds in found.items():
        p50, p99, most = cancels.quantiles(seconds)
        print(f"{what:<20} p50 {p50 * 1e3:6.2f} ms   p99 {p99 * 1e3:6.2f} ms   max {most * 1e3:6.2f} ms")
        if what != "waiting: cancelled" and p99 > cancels.BOUND:
            sys.exit(f"p99 is above {cancels.BOUND * 1e3:g} ms")


if __name__ == "__main__":
    main()
