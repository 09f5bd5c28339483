"""The parallel lanes are served fairly, and by every slot there is."""

from collections.abc import Iterator

from survival.checks.violation import Violation
from survival.history import History

SLACK = 5.0
"""Seconds beside `ack_wait` in which whatever was hurt must have found its way back."""


def slots_come_back(history: History) -> Iterator[Violation]:
    """At the end as many jobs run at once as all workers have slots."""
    begun, slots = history.gathered
    if begun != slots:
        yield Violation("slots come back", "", f"{begun} jobs ran at once, and there are {slots} slots")


def partitions_take_turns(history: History) -> Iterator[Violation]:
    """No partition that has jobs is forgotten while others of its lane are served."""
    for name, seconds in history.missed_turns.items():
        if seconds > history.ack_wait + SLACK:
            yield Violation("partitions take turns", "", f"{name} was not served for {seconds} s, others were")


def requests_are_answered(history: History) -> Iterator[Violation]:
    """Once nothing is hurt any more, no request stands beside jobs that wait."""
    for name, seconds in history.unanswered.items():
        if seconds > SLACK:
            yield Violation("requests are answered", "", f"one of {name} stood beside waiting jobs for {seconds} s")
