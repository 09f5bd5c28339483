"""Pictures of the figures."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_OURS, _OTHER = "#d1495b", "#8d99ae"
_LINES = ("#d1495b", "#8d99ae", "#30638e", "#edae49")


def _figure(height: float) -> tuple[Any, Any]:
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and only a full run draws

    mpl.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    return plt.subplots(figsize=(7, height), layout="constrained")


def _save(figure: Any, file: Path) -> None:
    from matplotlib import pyplot as plt  # noqa: PLC0415

    # No date and no version in it: the same figures are the same file.
    figure.savefig(file, dpi=90, metadata={"Software": None})
    plt.close(figure)


def bars(file: Path, title: str, unit: str, values: Mapping[str, Sequence[float]], *, ours: str) -> None:
    """A bar for the median of each, a thin line from its smallest round to its largest."""
    figure, axes = _figure(0.9 + 0.36 * len(values))
    for place, (label, rounds) in enumerate(values.items()):
        middle = statistics.median(rounds)
        axes.barh(place, middle, color=_OURS if ours in label else _OTHER)
        axes.plot([min(rounds), max(rounds)], [place, place], color="black", linewidth=1)
        shown = f"{middle:,.0f}" if middle >= 100 else f"{middle:.2f}"
        axes.annotate(shown, (max(rounds), place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8)
    axes.set_yticks(range(len(values)), list(values), fontsize=8)
    axes.set_xlabel(unit)
    axes.margins(x=0.12)
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    _save(figure, file)


def lines(
    file: Path,
    title: str,
    labels: tuple[str, str],
    values: Mapping[str, Mapping[float, Sequence[float]]],
    *,
    log: bool = False,
) -> None:
    """A line of medians for each, over numbers; its scatter shaded."""
    figure, axes = _figure(3)
    for color, (label, points) in zip(_LINES, values.items(), strict=False):
        places = sorted(points)
        axes.plot(places, [statistics.median(points[x]) for x in places], marker="o", ms=3, color=color, label=label)
        low, high = [min(points[x]) for x in places], [max(points[x]) for x in places]
        axes.fill_between(places, low, high, color=color, alpha=0.15)
    if log:
        axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel(labels[0])
    axes.set_ylabel(labels[1])
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    if len(values) > 1:
        axes.legend(fontsize=8, frameon=False)
    _save(figure, file)
