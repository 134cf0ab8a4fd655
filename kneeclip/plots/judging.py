"""Figures of notebook 05: how good, how sure, how honest."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kneeclip.canvas import FAINT, GRADE_COLOURS, INK, draw_dot, grade_name, new_picture, styled, write_values
from kneeclip.errors import KneeError


@styled
def confusion(matrix, *, rows: str = "true KL grade", columns: str = "predicted KL grade", world: str = "") -> Figure:
    """A confusion matrix (K, K), by default the truth as rows: counts, and their share of the row. Notebook: 05."""
    matrix = np.asarray(matrix)
    n = matrix.sum(1)
    share = matrix / np.maximum(n, 1)[:, None]
    figure, axes = new_picture(0.82 * len(n) + 1.5, 0.62 * len(n) + 1.1, caption=world)
    ax = axes[0, 0]
    mesh = ax.imshow(share, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    write_values(ax, mesh, share, lambda i, j: f"{matrix[i, j]:,}\n{share[i, j]:.0%}")
    ax.set(xlabel=columns, ylabel=f"{rows} (its images)", xticks=range(len(n)))
    ax.set_yticks(range(len(n)), [f"{k} ({count:,})" for k, count in enumerate(n)])
    ax.set_title(f"n = {n.sum():,}, on the diagonal {np.trace(matrix) / max(n.sum(), 1):.1%}")
    scale = figure.colorbar(mesh, ax=ax, label="share of the row", format=PercentFormatter(1, decimals=0))
    scale.ax.tick_params(labelsize=8.5)
    return figure


@styled
def reliability(p, grades, *, world: str = "") -> Figure:
    """Accuracy against the top probability (N, K) in 15 equal bins, above the counts. Notebook: 05."""
    p, grades = np.asarray(p, float), np.asarray(grades)
    top, right = p.max(1), p.argmax(1) == grades
    bins = np.clip(np.ceil(top * 15) - 1, 0, 14).astype(int)  # the bins of evaluation's ECE
    counts = np.bincount(bins, minlength=15)
    with np.errstate(invalid="ignore"):
        accuracy, confidence = (np.bincount(bins, x, minlength=15) / counts for x in (right, top))
    ece = np.nansum(np.abs(accuracy - confidence) * counts) / len(p)
    figure, axes = new_picture(3.9, 4.2, 2, 1, caption=world, sharex=True, height_ratios=(3, 1))
    above, below = axes[:, 0]
    above.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="calibrated")
    edges = np.arange(15) / 15
    above.bar(edges, accuracy, 1 / 15, align="edge", color="#56b4e9", edgecolor="white", label="accuracy in the bin")
    above.plot(confidence, accuracy, "o", color=INK, markersize=3.5, label="at the bin's mean probability")
    above.set(ylabel="share of images graded right", ylim=(0, 1), title=f"ECE {ece:.3f} (n = {len(p):,})")
    above.legend(loc="lower left", bbox_to_anchor=(0, 1.08))
    below.bar(edges, counts, 1 / 15, align="edge", color=FAINT, edgecolor="white")
    below.set(xlabel="probability of the predicted grade", ylabel="images", xlim=(0, 1))
    figure.align_ylabels()
    return figure


@styled
def forest(rows: Sequence[Sequence], *, xlabel: str, reference: float | None = None, world: str = "") -> Figure:
    """Estimates with their intervals, one a line. Notebook: 05.

    Parameters
    ----------
    rows : sequence of (label, value, low, high) or (label, value, low, high, colour)
        From the top down; low and high may be None.
    reference : float, optional
        Where a dashed line stands: 0 for differences, a published result.
    """
    if not len(rows):
        raise KneeError("there is no estimate to draw")
    figure, axes = new_picture(6.4, 0.3 * len(rows) + 1.0, caption=world)
    ax = axes[0, 0]
    for y, (_, value, low, high, *colour) in enumerate(rows):
        draw_dot(ax, value, y, None if low is None else (low, high), colour[0] if colour else "#0072b2")
        text = f"{value:.3f}" if low is None else f"{value:.3f}  [{low:.3f}, {high:.3f}]"
        ax.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    if reference is not None:
        ax.axvline(reference, color=FAINT, linestyle="--", linewidth=1, zorder=0)
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.4, -0.6))
    ax.grid(False, axis="y")
    return figure


@styled
def scores(p, grades, *, world: str = "") -> Figure:
    """Distribution of the expected grade Σₖ k·pₖ, p (N, K), for each true grade. Notebook: 05."""
    p, grades = np.asarray(p, float), np.asarray(grades)
    K = p.shape[1]
    expected, edges = p @ np.arange(K), np.linspace(0, K - 1, 10 * (K - 1) + 1)
    figure, axes = new_picture(6.0, 0.62 * K + 0.9, caption=world)
    ax = axes[0, 0]
    for k in range(K):
        own = expected[grades == k]
        shares = np.histogram(own, edges)[0] / max(len(own), 1)
        height = 0.85 * shares / max(shares.max(), 1e-9)
        ax.stairs(k + height, edges, baseline=k, fill=True, color=GRADE_COLOURS[k], zorder=2)
        ax.stairs(k + height, edges, baseline=k, color=INK, linewidth=0.7, zorder=3)
        if len(own):
            ax.plot([np.median(own)] * 2, [k, k + 0.9], color="#d55e00", linewidth=2, zorder=4)
    ax.plot([], [], color="#d55e00", linewidth=2, label="median")
    ax.legend(loc="lower right", bbox_to_anchor=(1, 0.99), borderaxespad=0)
    ax.set_yticks(range(K), [f"{grade_name(k)} (n = {(grades == k).sum():,})" for k in range(K)])
    ax.set(xlabel="expected grade (KL grades)", ylabel="true grade", xlim=(0, K - 1), ylim=(-0.1, K), xticks=range(K))
    return figure
