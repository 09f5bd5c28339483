"""Medians, scatter and ratios; numbers as tables show them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Rounds = Sequence[dict[str, Any]]
"""What was found of one side, round by round."""


def of(rounds: Rounds, name: str) -> list[float]:
    """One figure, round by round."""
    return [float(found[name]) for found in rounds]


def median(rounds: Rounds, name: str) -> float:
    """Over the rounds."""
    return statistics.median(of(rounds, name))


def quantile(seconds: Iterable[float], share: float) -> float:
    """Of the values, the one below which this share of them lies; their first tenth warms up."""
    values = list(seconds)
    ordered = sorted(values[len(values) // 10 :])
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


@dataclass(frozen=True)
class Ratio:
    """A comparison that is asked for, and its bound."""

    what: str
    value: float
    bound: float
    at_most: bool = False
    rounds: tuple[float, ...] = ()
    """In each round, where both sides took turns."""
    unit: str = ""

    @property
    def held(self) -> bool:
        """Whether it is within its bound."""
        return self.value <= self.bound if self.at_most else self.value >= self.bound

    def row(self) -> str:
        """As a line of a table."""
        scatter = f"{min(self.rounds):.2f} to {max(self.rounds):.2f}" if len(self.rounds) > 1 else ""
        sign = "at most" if self.at_most else "at least"
        value = f"{self.value:.2f}{self.unit}"
        return f"| {self.what} | {sign} {self.bound:g}{self.unit} | {value} | {scatter} | {'yes' if self.held else '**no**'} |"


def ratio(what: str, one: Rounds, other: Rounds, bound: float, *, name: str = "rate", at_most: bool = False) -> Ratio:
    """One side's median over another's, and the same within each round."""
    pairs = zip(of(one, name), of(other, name), strict=False)
    rounds = tuple(mine / theirs for mine, theirs in pairs)
    return Ratio(what, median(one, name) / median(other, name), bound, at_most=at_most, rounds=rounds)


def scatter(rounds: Rounds, name: str, show: Callable[[float], str]) -> str:
    """The smallest and the largest of the rounds."""
    values = of(rounds, name)
    return f"{show(min(values))} to {show(max(values))}" if len(values) > 1 else ""


def count(value: float) -> str:
    """A number of jobs, or of jobs per second."""
    return f"{value:,.0f}"


def milliseconds(value: float) -> str:
    """From seconds."""
    return f"{value * 1e3:.2f}" if value < 0.1 else f"{value * 1e3:.0f}"


def megabytes(value: float) -> str:
    """From bytes."""
    return f"{value / 2**20:.0f}"


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Markdown."""
    return [
        "| " + " | ".join(heads) + " |",
        "|" + "---|" * len(heads),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
