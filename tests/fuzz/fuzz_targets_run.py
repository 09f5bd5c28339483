"""Feed every fuzz target with many inputs, then a real server with hostile traffic; `just fuzz`.

    python tests/fuzz/fuzz_targets_run.py --count 1000000 --seed 7          # all of them
    python tests/fuzz/fuzz_targets_run.py --target headers --count 50000    # one
    python tests/fuzz/fuzz_targets_run.py --target headers --input "b'...'" # one input again, with the traceback of its crash

The same seed and count give the same inputs. A crash ends the run with exit code 1, and its input is printed.
"""

import argparse
import ast
import contextlib
import io
import math
import sys
import time
import traceback

import bucket_targets
import caller_targets
import hostile_traffic
import payload_targets
import request_targets
import wire_targets
from target import Outcome, Target, fuzzed

MODULES = (wire_targets, request_targets, bucket_targets, payload_targets, caller_targets)
TARGETS = {each.name: each for module in MODULES for each in module.TARGETS}
SLOWEST = 2.0
"""Seconds of processor time that one input may take."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=1_000_000, help="inputs in all")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", choices=TARGETS, help="only this one")
    parser.add_argument("--input", help="the repr of one input, for --target")
    parser.add_argument("--messages", type=int, default=30_000, help="hostile messages to a real server; 0: none")
    given = parser.parse_args()
    if given.input is not None:
        print("taken" if TARGETS[given.target].run(ast.literal_eval(given.input)) else "refused")
        return 0
    chosen = [TARGETS[given.target]] if given.target else list(TARGETS.values())
    is_sound = pure(chosen, given.seed, given.count)
    if given.messages and not given.target:
        is_sound &= hostile_traffic.run(given.seed, given.messages)
    return 0 if is_sound else 1


def pure(targets: list[Target], seed: int, count: int) -> bool:
    """Feed targets; whether nothing crashed."""
    whole, began, is_sound, total = sum(each.weight for each in targets), time.monotonic(), True, 0
    print(f"seed {seed}\n{'target':26}{'inputs':>10}{'taken':>10}{'refused':>10}{'crashes':>9}{'slowest':>12}")
    for target in targets:
        with quiet():
            outcome = fuzzed(target, seed, math.ceil(count * target.weight / whole))
        total += outcome.count
        columns = (outcome.count, outcome.taken, outcome.refused)
        slowest = f"{outcome.slowest * 1000:.1f} ms"
        print(
            f"{target.name:26}{''.join(f'{each:10,}' for each in columns)}{len(outcome.crashes):9}{slowest:>12}",
            flush=True,
        )
        is_sound &= report(target, outcome)
    print(f"{total:,} inputs in {time.monotonic() - began:.0f} s")
    return is_sound


@contextlib.contextmanager
def quiet():
    """What targets print is looked at by them, and shown to nobody."""
    with contextlib.redirect_stdout(io.TextIOWrapper(Sink(), "utf-8", line_buffering=False)):
        yield


class Sink(io.RawIOBase):
    """Takes everything."""

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        return len(data)


def report(target: Target, outcome: Outcome) -> bool:
    for data, error in outcome.crashes:
        print(f"\nCRASH of {target.name}: {type(error).__name__}: {str(error)[:300]}")
        traceback.print_exception(error, limit=-6, file=sys.stdout)
        print(f'again: python tests/fuzz/fuzz_targets_run.py --target "{target.name}" --input {shown(data)}\n')
    if outcome.slowest > SLOWEST:
        print(f"TOO SLOW, {target.name}: {outcome.slowest:.1f} s for {shown(outcome.slowest_input)}")
    return not outcome.crashes and outcome.slowest <= SLOWEST


def shown(data: bytes) -> str:
    return repr(repr(data))


if __name__ == "__main__":
    sys.exit(main())
