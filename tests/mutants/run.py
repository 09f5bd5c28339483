"""Tries faults: first that the tests named beside them pass without one, then each fault by itself."""

import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from mutants.faults import ROOT, Fault, UnfitError
from mutants.trial import MOST_SECONDS, Copy


def unnoticed(
    faults: Sequence[Fault],
    say: Callable[[str], None],
    *,
    jobs: int = 1,
    source: Path = ROOT,
    most_seconds: float = MOST_SECONDS,
) -> dict[str, str]:
    """Try the faults, and tell of each; those that no test noticed, with the reason.

    Args:
        faults: Which.
        say: Takes a line for each.
        jobs: How many to try at once.
        source: The tree that is copied.
        most_seconds: Of one test; what takes longer has noticed nothing.
    """
    with tempfile.TemporaryDirectory(prefix="jsjobs-mutants-") as folder:
        sound = Copy(Path(folder, "sound"))
        sound.make(source)
        tests = sorted({test for fault in faults for test in fault.tests})
        ran = sound.run(tests, most_seconds=most_seconds)
        sick = {test: why for test in tests if (why := _why_not_sound(test, ran.passed, {**ran.failed, **ran.odd}))}
        for why in sick.values():
            say(f"without any fault: {why}")
        if sick:
            say(ran.said)

        def tried(fault: Fault) -> tuple[str, str | None]:
            if found := [test for test in fault.tests if test in sick]:
                return fault.id, f"{found[0]} does not pass without it: it proves nothing"
            copy = Copy(Path(folder, fault.id))
            try:
                return fault.id, _missed(fault, copy, sound, say, most_seconds)
            finally:
                shutil.rmtree(copy.folder, ignore_errors=True)  # all together they fill a disk

        with ThreadPoolExecutor(jobs) as threads:
            results = dict(threads.map(tried, faults))
    return {name: why for name, why in results.items() if why is not None}


def _missed(fault: Fault, copy: Copy, sound: Copy, say: Callable[[str], None], most_seconds: float) -> str | None:
    """Why no test noticed the fault; None where one did."""
    copy.make(sound.folder)
    try:
        copy.put(fault)
    except UnfitError as error:
        say(f"UNFIT      {error}")
        return str(error)
    ran = copy.run(fault.tests, until_first=True, most_seconds=most_seconds)
    if ran.failed:
        test, message = next(iter(ran.failed.items()))
        say(f"noticed    {fault.id}: {test}: {message[:160]}")
        return None
    why = "; ".join(f"{test}: {what[:200]}" for test, what in ran.odd.items()) or "all its tests pass"
    say(f"UNNOTICED  {fault.id}: {fault.promise}: {why}")
    return why


def _why_not_sound(test: str, passed: frozenset[str], others: dict[str, str]) -> str | None:
    """A node id without parameters stands for all of them."""

    def is_its(name: str) -> bool:
        return name == test or name.startswith(f"{test}[")

    if bad := [f"{name}: {what[:300]}" for name, what in others.items() if is_its(name)]:
        return bad[0]
    return None if any(map(is_its, passed)) else f"{test}: there is no such test"
