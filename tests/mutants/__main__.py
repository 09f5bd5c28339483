"""`just mutants`: each fault of the lists, one at a time; exit code 1 if one of them is not noticed by its tests."""

import argparse
import random
import sys
import time

from mutants.faults import read_faults
from mutants.run import unnoticed


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> int:
    parser = argparse.ArgumentParser(prog="just mutants", description=__doc__)
    parser.add_argument("--only", action="append", metavar="ID", help="this fault; may be given more than once")
    parser.add_argument("--some", type=int, metavar="N", help="so many, drawn by --seed")
    parser.add_argument("--seed", default="1", help="what --some draws by (default: 1)")
    parser.add_argument("--jobs", type=int, default=1, help="faults that are tried at once (default: 1)")
    parser.add_argument("--list", action="store_true", help="only say which faults there are")
    given = parser.parse_args()
    faults = read_faults()
    if unknown := [name for name in given.only or () if name not in faults]:
        parser.error(f"no fault {', '.join(unknown)}: --list names them")
    chosen = [faults[name] for name in given.only] if given.only else list(faults.values())
    if given.some is not None:
        chosen = random.Random(given.seed).sample(chosen, min(given.some, len(chosen)))
    if given.list:
        for fault in chosen:
            say(f"{fault.id}: {fault.promise}")
        return 0
    began = time.monotonic()
    missed = unnoticed(chosen, say, jobs=given.jobs)
    say(f"{len(chosen) - len(missed)} of {len(chosen)} faults were noticed, in {time.monotonic() - began:.0f} s")
    for name in missed:
        say(f"unnoticed: {name}; `just mutants --only {name}` tries it again")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
