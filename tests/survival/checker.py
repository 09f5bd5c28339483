"""All rules over one history."""

from collections.abc import Callable, Iterator
from itertools import islice

from survival.checks.attempts import attempts_are_bounded, runs_are_claimed
from survival.checks.cancels import cancels_are_true
from survival.checks.effects import effects_are_fenced
from survival.checks.ends import accepted_jobs_end, ends_have_a_cause, ends_never_change, every_version_was_seen
from survival.checks.lanes import (
    delayed_jobs_are_never_early,
    jobs_are_stored_in_the_order_of_submits,
    jobs_begin_in_order,
    runs_do_not_overlap,
)
from survival.checks.leftovers import nothing_is_left
from survival.checks.letters import dead_jobs_have_one_letter
from survival.checks.receipts import receipts_are_true
from survival.checks.slots import partitions_take_turns, requests_are_answered, slots_come_back
from survival.checks.violation import Violation
from survival.history import History

SHOWN = 50
"""Violations of one rule that are told: one is enough to fail."""
RULES: tuple[Callable[[History], Iterator[Violation]], ...] = (
    accepted_jobs_end,
    ends_never_change,
    every_version_was_seen,
    ends_have_a_cause,
    attempts_are_bounded,
    runs_are_claimed,
    effects_are_fenced,
    runs_do_not_overlap,
    jobs_begin_in_order,
    jobs_are_stored_in_the_order_of_submits,
    delayed_jobs_are_never_early,
    receipts_are_true,
    cancels_are_true,
    dead_jobs_have_one_letter,
    slots_come_back,
    partitions_take_turns,
    requests_are_answered,
    nothing_is_left,
)


def check(history: History) -> dict[str, list[Violation]]:
    """What breaks each rule, by the rule's name."""
    return {rule.__name__: list(islice(rule(history), SHOWN)) for rule in RULES}
