"""Figures of notebook 01: how far readers agree, and what a split by image leaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MultipleLocator, PercentFormatter

from kneeclip.canvas import FAINT, INK, new_picture, styled

BLUE, ORANGE = "#0072b2", "#d55e00"


@styled
def kappa_spread(draws: Mapping[str, Sequence[float]], *, seen: float | None = None, world: str = "") -> Figure:
    """How much two readers' kappa (quadratic weights) varies with the knees that they happen to grade. Notebook: 01.

    Parameters
    ----------
    draws : mapping of str to (B,) kappas
        How the knees were drawn, and how many -> kappa of each draw. Three at most.
    seen : float, optional
        A kappa to mark: that of the knees on the page.
    """
    figure, axes = new_picture(7.4, 3.6, caption=world)
    ax = axes[0, 0]
    lowest = min(float(np.quantile(kappas, 0.005)) for kappas in draws.values())
    edges = np.linspace(np.floor(lowest * 10) / 10, 1, 41)
    looks = ((ORANGE, "-", "////"), (BLUE, "--", None), ("#009e73", ":", None))
    for (name, kappas), (colour, dash, hatch) in zip(draws.items(), looks, strict=False):
        low, high = np.quantile(kappas, [0.025, 0.975])
        shares = np.histogram(kappas, edges)[0] / len(kappas)
        label = f"{name}: 95 % between {low:.2f} and {high:.2f}"
        ax.stairs(shares, edges, color=colour, linestyle=dash, linewidth=1.6, hatch=hatch, label=label)
    if seen is not None:
        ax.axvline(seen, color=INK, linewidth=1.2, label=f"on this page: {seen:.2f}")
    ax.set(xlabel="κ of the two readers, quadratic weights", ylabel="share of the draws", ylim=(0, None))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    figure.legend(*ax.get_legend_handles_labels(), loc="outside upper left")
    return figure


@styled
def ceiling(
    between: Sequence[float], with_rule: Mapping[str, Sequence[float]], *, seen: int | None = None, world: str = ""
) -> Figure:
    """How often one grader agrees with a reader, against how often the two readers agree. Notebook: 01.

    Parameters
    ----------
    between : (M,) float
        Share of the knees to which two readers give the same grade, for M pairs of readers.
    with_rule : mapping of str to (M,) float
        Name -> share of the knees to which the grader and that reader of the pair give the same grade.
    seen : int, optional
        A pair to mark.
    """
    figure, axes = new_picture(4.6, 4.0, caption=world)
    ax, x = axes[0, 0], np.asarray(between)
    for (name, y), colour, marker, dash in zip(with_rule.items(), (ORANGE, BLUE), "os", ("-", "--"), strict=False):
        ax.plot(x, y, color=colour, marker=marker, linestyle=dash, markersize=5, label=name)
        if seen is not None:
            ax.plot(x[seen], y[seen], marker, markersize=11, markerfacecolor="none", markeredgecolor=INK)
    lowest = np.floor(10 * min(x.min(), *(np.min(y) for y in with_rule.values()))) / 10
    ax.plot([lowest, 1], [lowest, 1], color=FAINT, linestyle=":", label="if agreement were a ceiling")
    ax.set(xlabel="the two readers give the same grade", ylabel="the rule and one reader give the same grade")
    ax.set(xlim=(lowest, 1), ylim=(lowest, 1), aspect="equal")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(loc="lower right")
    return figure


@styled
def leak(rows: Sequence[tuple], *, chance: float, n: int, world: str = "") -> Figure:
    """Accuracy under a split that leaks and under one that does not, and the difference. Notebook: 01.

    Parameters
    ----------
    rows : sequence of (classifier, leaky, clean, (gain, low, high))
        ``leaky`` and ``clean`` are (R,) accuracies, one a repetition; gain is their mean difference, with its interval.
    chance : float
        Accuracy of always saying the most common grade.
    n : int
        Knees that were graded.
    """
    figure, axes = new_picture(9.0, 0.75 * len(rows) + 1.4, 1, 2, caption=world, sharey=True, width_ratios=(1.25, 1))
    left, right = axes[0]
    for y, (_, leaky, clean, (gain, low, high)) in enumerate(rows):
        for values, up, colour, marker in ((leaky, -0.15, ORANGE, "o"), (clean, 0.15, BLUE, "s")):
            left.plot(values, np.full(len(values), y + up), marker, color=colour, markersize=4, alpha=0.45)
            left.plot(np.mean(values), y + up, marker, color=colour, markersize=9, markeredgecolor=INK)
        right.plot([low, high], [y, y], color=INK, linewidth=2)
        right.plot(gain, y, "D", color=INK, markersize=6)
        right.annotate(f"{100 * gain:+.1f}", (gain, y), (0, 7), textcoords="offset points", ha="center")
    for label, colour, marker in (("images shuffled", ORANGE, "o"), ("patients kept together", BLUE, "s")):
        left.plot([], [], marker, color=colour, markersize=8, markeredgecolor=INK, label=label)
    left.axvline(chance, color=FAINT, linestyle="--", linewidth=1, label="always the most common grade")
    right.axvline(0, color=FAINT, linestyle="--", linewidth=1)
    left.set_yticks(range(len(rows)), [row[0] for row in rows])
    left.set(xlabel=f"accuracy (n = {n:,})", ylim=(len(rows) - 0.5, -0.5))
    left.xaxis.set_major_locator(MultipleLocator(0.05))
    left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    right.set(xlabel="accuracy gained by the leak (points), 95 % interval")
    right.xaxis.set_major_formatter(PercentFormatter(1, decimals=0, symbol=""))
    for ax in (left, right):
        ax.grid(False, axis="y")
    figure.legend(*left.get_legend_handles_labels(), loc="outside upper center", ncols=3)
    return figure
