"""Figures of notebook 05: how good, how sure, how honest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kneeclip.canvas import FAINT, GRADE_COLOURS, INK, grade_name, new_picture, styled, write_values
from kneeclip.resampling import BINS, calibration_gap


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
    figure, axes = new_picture(3.9, 4.2, 2, 1, caption=world, sharex=True, height_ratios=(3, 1))
    _draw_reliability(*axes[:, 0], np.asarray(p, float), np.asarray(grades))
    figure.align_ylabels()
    return figure


@styled
def calibration(p, grades, curve: Mapping[str, Sequence], *, at: float, fitted: float | None = None, world: str = ""):
    """The reliability of p (N, K) at one temperature, beside what all temperatures do. Notebook: 05.

    Parameters
    ----------
    p : array (N, K)
        Probabilities at the temperature `at`.
    curve : mapping
        ``temperature`` -> (T,) values, and ``accuracy`` and ``ece`` -> (T,) each.
    fitted : float, optional
        The temperature that was fitted on other images.

    Returns
    -------
    Figure
    """
    figure, axes = new_picture(8.0, 4.2, 2, 2, caption=world, height_ratios=(3, 1), width_ratios=(1, 1.15))
    axes[0, 0].sharex(axes[1, 0])
    axes[0, 0].tick_params(labelbottom=False)
    _draw_reliability(*axes[:, 0], np.asarray(p, float), np.asarray(grades))
    spec = axes[0, 1].get_gridspec()[:, 1]
    for ax in axes[:, 1]:
        ax.remove()
    ax = figure.add_subplot(spec)
    ax.tick_params(labelsize=8.5, color=FAINT)
    ax.grid(True, color="#e5e5e5", linewidth=0.8)
    ax.plot(curve["temperature"], curve["accuracy"], color="#0072b2", label="accuracy")
    ax.plot(curve["temperature"], curve["ece"], color="#d55e00", linestyle="--", label="ECE")
    ax.axvline(at, color=INK, linewidth=1, label=f"shown on the left: {at:.2f}")
    if fitted is not None:
        ax.axvline(fitted, color="#009e73", linestyle=":", linewidth=2, label=f"fitted on tune: {fitted:.2f}")
    ax.set(xlabel="temperature (logits divided by it)", ylabel="accuracy, ECE", ylim=(0, 1), xscale="log")
    ticks = [t for t in (0.25, 0.5, 1, 2, 4) if curve["temperature"][0] <= t <= curve["temperature"][-1]]
    ax.set_xticks(ticks, [f"{t:g}" for t in ticks])
    ax.set_xticks([], minor=True)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.02), ncols=2)
    return figure


def _draw_reliability(above, below, p: np.ndarray, grades: np.ndarray) -> None:
    top, (bins, gap) = p.max(1), calibration_gap(p, grades)
    counts, tops, gaps = (np.bincount(bins, x, minlength=BINS) for x in (None, top, gap))
    with np.errstate(invalid="ignore"):
        accuracy, confidence = (tops + gaps) / counts, tops / counts
    ece = np.abs(gaps).sum() / len(p)
    above.plot([0, 1], [0, 1], color=FAINT, linestyle="--", linewidth=1, label="calibrated")
    edges = np.arange(BINS) / BINS
    above.bar(edges, accuracy, 1 / BINS, align="edge", color="#56b4e9", edgecolor="white", label="accuracy in the bin")
    above.plot(confidence, accuracy, "o", color=INK, markersize=3.5, label="at the bin's mean probability")
    above.set(ylabel="share of images graded right", ylim=(0, 1.03), title=f"ECE {ece:.3f} (n = {len(p):,})")
    above.legend(loc="lower left", bbox_to_anchor=(0, 1.08))
    below.bar(edges, counts, 1 / BINS, align="edge", color=FAINT, edgecolor="white")
    below.set(xlabel="probability of the predicted grade", ylabel="images", xlim=(0, 1))


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
