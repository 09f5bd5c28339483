"""At the end nothing is left, and every process ended when it was told to."""

from collections.abc import Iterator

from survival.checks.violation import Violation
from survival.history import History


def nothing_is_left(history: History) -> Iterator[Violation]:
    """Queues, dead letters and schedules are empty, nothing is in flight, and no process had to be killed at the end."""
    if not history.leftovers:
        yield Violation("nothing is left", "", "nobody looked")
    for where, count in history.leftovers.items():
        if count:
            yield Violation("nothing is left", "", f"{where}: {count}")
    for name in history.stuck:
        yield Violation("nothing is left", "", f"{name} did not end when it was told to")
