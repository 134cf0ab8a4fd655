"""Figures of notebook 01: knees, their parts, how the grades are distributed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patheffects import Normal, Stroke
from matplotlib.ticker import PercentFormatter
from sklearn.isotonic import isotonic_regression

from kneeclip.canvas import FAINT, GRADE_COLOURS, INK, grade_name, new_picture, show_knee, styled
from kneeclip.errors import KneeError

MARGIN = 0.45  # of a labelled knee's width, for the names beside it
HALO = [Stroke(linewidth=2.6, foreground="white"), Normal()]  # an arrow that shows on light and dark


@styled
def knee_grid(
    images: Sequence, grades=None, titles=None, *, columns: int = 5, side: float | None = None, world: str = ""
) -> Figure:
    """Thumbnails, each framed in the colour of its grade. Notebook: 01.

    Parameters
    ----------
    images : sequence of N PIL images or uint8 arrays (H, W)
    grades : sequence of N int, optional
    titles : sequence of N str, optional
        What stands above each knee; its grade if nothing is given.
    side : float, optional
        Of each knee, in inches.
    """
    if not len(images):
        raise KneeError("there is no image to show")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    if titles is None:
        titles = [""] * len(images) if grades is None else [grade_name(g) for g in grades]
    lines = max(t.count("\n") + 1 for t in titles) if any(titles) else 0
    side = side or (1.45 if columns > 3 else 3.0)  # a few knees are there to be looked at closely
    height = (side + 0.15 * lines) * rows + (0.25 if world else 0)
    figure, axes = new_picture(side * columns, height, rows, columns, caption=world)
    for i, ax in enumerate(axes.flat):
        if i >= len(images):
            ax.set_axis_off()
            continue
        show_knee(ax, images[i], None if grades is None else grades[i])
        ax.set_title(titles[i], loc="center", fontsize=9, pad=3 if grades is None else 5)  # clear of the frame
    return figure


@styled
def labelled(
    images: Sequence, labels: Sequence[Mapping[str, tuple[float, float]]], titles: Sequence[str], *, world: str = ""
) -> Figure:
    """Knees whose parts are named in the margins, a line from each name to its place. Notebook: 01.

    Parameters
    ----------
    images : sequence of N uint8 arrays (H, W)
    labels : sequence of N mappings
        Name -> (x, y) of its place, as shares of the image's width and height from the upper left corner. Names of
        places in the left half stand on the left.
    titles : sequence of N str
    """
    sides = [[any((x < 0.5) == left for x, _ in parts.values()) for left in (True, False)] for parts in labels]
    widths = [1 + MARGIN * sum(both) for both in sides]
    figure, axes = new_picture(
        2.7 * sum(widths), 2.7 + 0.6, 1, len(images), caption=world, gridspec_kw={"width_ratios": widths}
    )
    for ax, image, parts, title, (has_left, has_right) in zip(axes[0], images, labels, titles, sides, strict=True):
        show_knee(ax, image)
        height, width = np.asarray(image).shape[:2]
        ax.set(xlim=(-MARGIN * width * has_left, (1 + MARGIN * has_right) * width), ylim=(height, 0))
        ax.spines[:].set_visible(False)
        ax.set_title(title, x=(0.5 + MARGIN * has_left) / (1 + MARGIN * (has_left + has_right)), loc="center")
        for left in (True, False):
            own = sorted((y, x, name) for name, (x, y) in parts.items() if (x < 0.5) == left)
            if not own:
                continue
            for place, (y, x, name) in zip(_apart([y for y, _, _ in own]), own, strict=True):
                ax.annotate(
                    name,
                    (x * width, y * height),
                    ((-0.04 if left else 1.04) * width, place * height),
                    ha="right" if left else "left",
                    va="center",
                    arrowprops={"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0, "path_effects": HALO},
                )
    return figure


def _apart(heights: Sequence[float], least: float = 0.15) -> np.ndarray:
    """Ascending heights (0 to 1), moved as little as keeps neighbours `least` apart and all on the page."""
    steps = least * np.arange(len(heights))
    return steps + isotonic_regression(np.asarray(heights) - steps, y_min=0.05, y_max=0.95 - steps[-1:].sum())


@styled
def class_balance(counts: Mapping[str, Sequence[int]], *, world: str = "") -> Figure:
    """How the grades are distributed in each split: split -> (K,) counts of images. Notebook: 01."""
    figure, axes = new_picture(2.6 * len(counts) + 0.6, 2.8, 1, len(counts), caption=world, sharey=True)
    for ax, (split, row) in zip(axes[0], counts.items(), strict=True):
        row = np.asarray(row)
        share = row / max(row.sum(), 1)
        ax.bar(range(len(row)), share, color=GRADE_COLOURS[: len(row)], edgecolor=INK, linewidth=0.6)
        for k, n in enumerate(row):
            ax.annotate(f"{n:,}", (k, share[k]), (0, 2), textcoords="offset points", ha="center", fontsize=8)
        ax.set(title=f"{split} (n = {row.sum():,})", xlabel="KL grade", xticks=range(len(row)))
        ax.grid(False, axis="x")
        ax.margins(y=0.12)
    axes[0, 0].set_ylabel("share of the split's images")
    axes[0, 0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    return figure


@styled
def phantom_comparison(real, phantom, stats: Mapping) -> Figure:
    """Real radiographs above phantoms, and where their unlabelled statistics part. Notebook: 01.

    Parameters
    ----------
    real, phantom : (N, S, S) and (M, S, S) uint8
        The first 16 of each are shown.
    stats : mapping
        ``real``, ``phantom`` and ``distances``, from `kneeclip.realism.compare`.
    """
    shown, colours = 16, {"real": INK, "phantom": "#d55e00"}
    worlds = "real knees (Chen 2018) and phantom knees"
    figure, axes = new_picture(9.6, 7.4, 3, 1, caption=worlds, height_ratios=[1, 1, 1.5])
    for ax, (name, images) in zip(axes[:2, 0], (("real", real), ("phantom", phantom)), strict=True):
        few = np.asarray(images)[:shown]
        few = np.concatenate([few, np.full((-len(few) % 8, *few.shape[1:]), 255, np.uint8)])
        few = np.pad(few, ((0, 0), (2, 2), (2, 2)), constant_values=255)
        rows = few.reshape(-1, 8, *few.shape[1:]).swapaxes(1, 2)  # (rows, S, 8, S)
        ax.imshow(rows.reshape(-1, 8 * few.shape[2]), cmap="gray", vmin=0, vmax=255)
        ax.grid(False)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
        ax.set_ylabel(name.upper(), color=colours[name], fontweight="bold")
    below = axes[2, 0].get_subplotspec()
    axes[2, 0].remove()
    left, middle, right = below.subgridspec(1, 3).subplots()
    for name, dash in (("real", "-"), ("phantom", "--")):
        s, line = stats[name], {"color": colours[name], "linestyle": dash}
        left.plot(np.convolve(s["histogram"], np.ones(5) / 5, "same"), label=name, **line)
        middle.plot(s["frequency"], s["spectrum"], label=name, **line)
        for gap in ("gap_medial", "gap_lateral"):
            width = np.sort(s[gap][np.isfinite(s[gap])])
            faint = {"alpha": 1 if gap == "gap_medial" else 0.5, "label": f"{name}, {gap[4:]}"}
            right.plot(width, np.linspace(0, 1, len(width)), **line, **faint)
    d = stats["distances"]
    left.set(title=f"Grey levels: W1 {d['histogram_w1']:.1f}", xlabel="grey level", ylabel="share of the pixels")
    middle.set(title=f"Spectrum: {d['spectrum_db']:.1f} dB apart", xscale="log", xlabel="cycles an image", ylabel="dB")
    middle.set_xticks([2, 5, 10, 20, 50], labels=["2", "5", "10", "20", "50"])
    middle.set_xticks([], minor=True)
    right.set(title="Joint space", xlabel="width (px)", ylabel="share of the knees", ylim=(0, 1))
    for ax in (left, middle, right):
        ax.grid(True, color="#e5e5e5", linewidth=0.8)
        ax.tick_params(labelsize=8.5, color=FAINT)
        ax.legend()
    return figure
