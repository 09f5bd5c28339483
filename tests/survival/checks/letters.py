"""Every dead job has one letter, and nobody else has any."""

from collections import Counter
from collections.abc import Iterator

from survival.checks.violation import Violation
from survival.history import History

RULE = "dead jobs have one letter"


def dead_jobs_have_one_letter(history: History) -> Iterator[Violation]:
    """See the module; a letter tells as many attempts as the entry."""
    counts = Counter(letter.job for letter in history.letters)
    for job, count in counts.items():
        if count > 1:
            yield Violation(RULE, job, f"it has {count}")
    for letter in history.letters:
        end = history.end(letter.job)
        if end is None or end.status != "failed":
            yield Violation(RULE, letter.job, f"it has one, and is {end.status if end else 'unknown'}")
        elif letter.attempts != end.attempts:
            yield Violation(RULE, letter.job, f"it tells {letter.attempts} attempts, the entry {end.attempts}")
    for job in history.versions:
        end = history.end(job)
        if end is not None and end.status == "failed" and not counts[job]:
            yield Violation(RULE, job, "it has none")
