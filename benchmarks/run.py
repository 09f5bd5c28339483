"""Run all benchmarks; tables and plots go to `docs/benchmarks.md`, the figures to `docs/benchmarks/results.json`.

    python benchmarks/run.py                         # everything, about half an hour
    python benchmarks/run.py --quick                 # an impression in minutes, printed only
    python benchmarks/run.py --only drain,latency --rounds 3 --no-peers --dry
    python benchmarks/run.py --rewrite               # the page again, from the figures of the last run

A part that is measured again with `--only` replaces that part of the page alone; its date stands there.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from harness import catalogue, figures, machine, pages, taking_part
from harness.rounds import Plan
from harness.servers import Servers, stoppable
from workloads import backlog, cancels, drain, enqueue, failures, latency, payloads, scale, telemetry, workers

DOCS = Path(__file__).parents[1] / "docs"
PAGE = DOCS / "benchmarks.md"
PLOTS = DOCS / "benchmarks"
RESULTS = PLOTS / "results.json"
WORKLOADS: dict[str, ModuleType] = {
    "drain": drain,
    "enqueue": enqueue,
    "latency": latency,
    "backlog": backlog,
    "failures": failures,
    "payloads": payloads,
    "workers": workers,
    "scale": scale,
    "telemetry": telemetry,
    "cancelling": cancels,
}
QUICK = 0.05
Result = dict[str, Any]
"""What was found, on which machine, in how many seconds."""


def measure(names: list[str], arguments: argparse.Namespace) -> Iterator[tuple[str, Result]]:
    """Measure the parts that are asked for, one after the other."""
    peers = () if arguments.no_peers else catalogue.PEERS
    taking = taking_part.installed(("jsjobs", "bare", *peers))
    with stoppable(), Servers() as servers:
        plan = Plan(servers, arguments.rounds, arguments.factor, tuple(filter(catalogue.is_peer, taking)))
        for name in names:
            load, began = os.getloadavg()[0], time.monotonic()
            found = WORKLOADS[name].measure(plan)
            took = round(time.monotonic() - began)
            print(f"{name}: {took} s\n", flush=True)
            on = machine.describe(servers, taking) | {"Load before": f"{load:.1f}"}
            yield name, {"found": found, "machine": on, "seconds": took}


def section(name: str, result: dict[str, Any]) -> list[str]:
    """Return one part of the page."""
    lines = list(WORKLOADS[name].report(result["found"]))
    if hasattr(WORKLOADS[name], "plot"):
        lines += ["", f"![{WORKLOADS[name].TITLE}](benchmarks/{name}.png)"]
    return lines


def summary(results: dict[str, Any]) -> list[str]:
    """Return a table of the bounds that are asked for, and what was found."""
    asked = [
        one
        for name, result in results.items()
        if hasattr(WORKLOADS[name], "ratios")
        for one in WORKLOADS[name].ratios(result["found"])
    ]
    heads = ["| same run, medians | asked | found | in the rounds | held |", "|---|---|---|---|---|"]
    return [*heads, *(one.row() for one in asked)]


def machines(results: dict[str, Any]) -> list[str]:
    """Return where, when and with what it was measured."""
    last = max((result["machine"] for result in results.values()), key=lambda on: on["Date"])
    lines = figures.table(("", ""), [(key, value) for key, value in last.items() if key != "Load before"])
    others = [
        f"{name} {result['machine']['Date']} ({result['machine']['Sources']}, load before {result['machine']['Load before']})"
        for name, result in results.items()
    ]
    return [*lines, "", f"Measured: {'; '.join(others)}."]


def write(results: dict[str, Any]) -> None:
    """Write the page, the plots and the figures."""
    PLOTS.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(_rounded(results), separators=(",", ":")) + "\n", encoding="utf-8")
    text = pages.put(PAGE.read_text(encoding="utf-8"), "machine", machines(results))
    text = pages.put(text, "asked", summary(results))
    for name, result in results.items():
        text = pages.put(text, name, section(name, result))
        if hasattr(WORKLOADS[name], "plot"):
            WORKLOADS[name].plot(result["found"], PLOTS)
    PAGE.write_text(text, encoding="utf-8")


def _rounded(value: Any) -> Any:
    """Round to five digits: more would be noise."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, dict):
        return {key: _rounded(one) for key, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


def main() -> None:
    """Measure, then write or print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help=f"of {', '.join(WORKLOADS)}, with commas between them")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--factor", type=float, default=1.0, help="of the usual numbers of jobs")
    parser.add_argument("--quick", action="store_true", help="one round, a twentieth of the jobs, nothing is written")
    parser.add_argument("--no-peers", action="store_true", help="leave out the other libraries")
    parser.add_argument("--dry", action="store_true", help="print, and write nothing")
    parser.add_argument("--rewrite", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.rounds, arguments.factor, arguments.dry = 1, QUICK, True
    names = arguments.only.split(",") if arguments.only else list(WORKLOADS)
    if unknown := set(names) - set(WORKLOADS):
        parser.error(f"there is no {', '.join(sorted(unknown))}")
    before = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    if arguments.rewrite:
        try:
            write(before)
        except ImportError as error:
            sys.exit(f"the tables say what each library does, so all that were measured must be installed: {error}")
        return
    results = {}
    for name, result in measure(names, arguments):
        results[name] = result
        if not arguments.dry:  # after each part: what stops a later one costs only that
            all_of_them = before | results
            write({part: all_of_them[part] for part in WORKLOADS if part in all_of_them})
    if arguments.dry:
        print("\n".join(summary(results)))
        for name, result in results.items():
            print(f"\n## {WORKLOADS[name].TITLE}\n", *section(name, result), sep="\n")


if __name__ == "__main__":
    main()
