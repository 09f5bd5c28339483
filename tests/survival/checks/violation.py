"""What breaks a rule."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Violation:
    """One of them."""

    rule: str
    job: str
    """The job it is of; empty where it is of none."""
    told: str
