"""Arrays in, a Figure out: every figure of the notebooks, in one visual language.

A grade and an arm have the same colour everywhere; the grades run from light to dark, so that they keep their
order in grey print. No function touches pyplot: the last line of a cell shows its figure once, and only once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kneeclip.canvas import (
    ARM_COLOURS,
    FAINT,
    GRADE_COLOURS,
    INK,
    LINES,
    METRICS,
    draw_dot,
    grade_name,
    line_of,
    new_picture,
    show_knee,
    styled,
    write_values,
)
from kneeclip.errors import KneeError


@styled
def knee_grid(images: Sequence, grades=None, titles=None, *, columns: int = 5, world: str = "") -> Figure:
    """Thumbnails, each framed in the colour of its grade. Notebook: 01.

    Parameters
    ----------
    images : sequence of N PIL images or uint8 arrays (H, W)
    grades : sequence of N int, optional
    titles : sequence of N str, optional
        What stands above each knee; its grade if nothing is given.
    """
    if not len(images):
        raise KneeError("there is no image to show")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    if titles is None:
        titles = [""] * len(images) if grades is None else [grade_name(g) for g in grades]
    lines = max(t.count("\n") + 1 for t in titles) if any(titles) else 0
    side = 1.45 if columns > 3 else 3.0  # inches: a few knees are there to be looked at closely
    height = (side + 0.15 * lines) * rows + (0.25 if world else 0)
    figure, axes = new_picture(side * columns, height, rows, columns, caption=world)
    for i, ax in enumerate(axes.flat):
        if i >= len(images):
            ax.set_axis_off()
            continue
        show_knee(ax, images[i], None if grades is None else grades[i])
        ax.set_title(titles[i], loc="center", fontsize=9, pad=3)
    return figure


@styled
def regions(image, masks: Mapping[str, Sequence], *, world: str = "") -> Figure:
    """A knee, and the same knee with its regions outlined: name -> bool array (H, W). Notebooks: 01, 05."""
    figure, axes = new_picture(7.6, 3.6, 1, 2, caption=world)
    colours = ("#d55e00", "#0072b2", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
    for ax in axes[0]:
        show_knee(ax, image)
    for (_, mask), colour in zip(masks.items(), colours, strict=False):
        axes[0, 1].contour(np.asarray(mask, float), levels=[0.5], colors=colour, linewidths=1.6)
    handles = [mpl.lines.Line2D([], [], color=c, label=n) for n, c in zip(masks, colours, strict=False)]
    figure.legend(handles=handles, loc="outside right center")
    return figure


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
def view_pair(image, flipped, p, p_flip, *, world: str = "") -> Figure:
    """One knee, its mirror image, and the probabilities (K,) of both views. Notebook: 04."""
    p, p_flip = np.asarray(p, float), np.asarray(p_flip, float)
    figure, axes = new_picture(7.6, 2.6, 1, 3, caption=world, width_ratios=(1, 1, 1.7))
    for ax, picture, row, view in zip(axes[0], (image, flipped), (p, p_flip), ("original", "flipped"), strict=False):
        show_knee(ax, picture)
        ax.set_title(f"{view}: {grade_name(row.argmax())} ({row.max():.0%})", loc="center")
    ax, k = axes[0, 2], np.arange(len(p))
    empty, colours = dict(facecolor="none", edgecolor=INK, linewidth=0.6), GRADE_COLOURS[: len(k)]
    hatches = [INK if grade < 2 else "white" for grade in k]  # a hatch has its bar's edge colour
    ax.bar(k - 0.2, p, 0.38, color=colours, edgecolor=INK, linewidth=0.6)
    ax.bar(k + 0.2, p_flip, 0.38, color=colours, edgecolor=hatches, linewidth=0, hatch="////")
    ax.bar(k + 0.2, p_flip, 0.38, **empty)
    handles = [mpl.patches.Patch(**empty, label="original"), mpl.patches.Patch(**empty, hatch="////", label="flipped")]
    ax.legend(handles=handles, ncols=2, loc="lower right", bbox_to_anchor=(1, 0.99), borderaxespad=0)
    ax.set(xlabel="KL grade", ylabel="probability", xticks=k, ylim=(0, 1))
    ax.grid(False, axis="x")
    return figure


@styled
def similarity_map(matrix, labels, *, columns=None, title: str = "", world: str = "") -> Figure:
    """Cosines (R, C) as a heat map with their values. Notebook: 02.

    Parameters
    ----------
    matrix : array (R, C)
    labels : sequence of R str
    columns : sequence of C str, optional
        `labels` again if nothing is given.
    """
    matrix, columns = np.asarray(matrix, float), list(labels if columns is None else columns)
    rows, cols = matrix.shape
    width = 0.62 * cols + 0.075 * max(map(len, labels)) + 1.5
    slanted = max(map(len, columns)) > 6
    figure, axes = new_picture(max(width, 3.4), 0.42 * rows + (1.6 if slanted else 1.1), caption=world)
    ax = axes[0, 0]
    mesh = ax.imshow(matrix, cmap="cividis", aspect="auto")
    write_values(ax, mesh, matrix, lambda i, j: f"{matrix[i, j]:.2f}")
    ax.set_xticks(range(cols), columns, **(dict(rotation=35, ha="right", rotation_mode="anchor") if slanted else {}))
    ax.set_yticks(range(rows), list(labels))
    ax.set_title(title)
    scale = figure.colorbar(mesh, ax=ax, label="cosine similarity", shrink=0.9)
    scale.ax.tick_params(labelsize=8.5)
    return figure


@styled
def history(rows: Sequence[Mapping], *, steps: Sequence[Mapping] = (), world: str = "") -> Figure:
    """Learning curves: losses, metrics on *tune* and the learning rate. Notebook: 03.

    Parameters
    ----------
    rows : sequence of dict
        One an epoch, as `train` records them: `step` or `epoch`, and any of the names in LINES and `lr`.
    steps : sequence of dict, optional
        One a step: drawn faintly behind the losses.
    """
    x_name = "step" if all("step" in row for row in rows) else "epoch"
    losses = [name for name in LINES if not name.startswith("tune_") and any(name in row for row in rows)]
    if all(row.get("original") == row.get("total") for row in rows):
        losses = [name for name in losses if name != "original"]  # in a one-view arm it is the total
    tuned = [name for name in LINES if name.startswith("tune_") and any(name in row for row in rows)]
    panels = [(losses, "mean loss (nats)"), (tuned, "on tune, original view")]
    panels += [(["lr"], "learning rate")] if any("lr" in row for row in rows) else []
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        raise KneeError("these rows hold nothing to draw", remedy="pass run.history")
    figure, axes = new_picture(3.1 * len(panels), 3.1, 1, len(panels), caption=world)
    for ax, (names, label) in zip(axes[0], panels, strict=True):
        for name in names:
            colour, dash = LINES.get(name, (INK, "-"))
            if x_name == "step" and label.endswith("(nats)"):
                ax.plot(*line_of(steps, "step", name), color=colour, alpha=0.25, linewidth=0.8)
            text = name.removeprefix("tune_")
            line = ax.plot(*line_of(rows, x_name, name), linestyle=dash, color=colour, marker="o", markersize=3)
            line[0].set_label(METRICS.get(text, text))
        if names != ["lr"]:
            ax.legend(handlelength=2.6, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1)
        ax.set(xlabel=x_name, ylabel=label)
        ax.ticklabel_format(axis="y", scilimits=(-3, 4))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


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
def arms(rows: Sequence[Mapping], *, world: str = "") -> Figure:
    """Accuracy, QWK and flip agreement of each arm, with intervals. Notebooks: 04, 05.

    Parameters
    ----------
    rows : sequence of dict
        `arm`, a value for each metric, and `ci`: metric -> [low, high]. Rows of one arm (seeds) share its line.
    """
    names = list(dict.fromkeys(row["arm"] for row in rows))
    metrics = [m for m in METRICS if any(row.get(m) is not None for row in rows)]
    if not metrics:
        raise KneeError(f"these rows hold none of {', '.join(METRICS)}")
    most = max(sum(row["arm"] == name for row in rows) for name in names)
    height = (0.3 + 0.07 * (most - 1)) * len(names) + 1.0
    figure, axes = new_picture(2.4 * len(metrics) + 0.8, height, 1, len(metrics), caption=world, sharey=True)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for y, name in enumerate(names):
            own = [row for row in rows if row["arm"] == name and row.get(metric) is not None]
            for i, row in enumerate(own):
                at = y + (i - (len(own) - 1) / 2) * 0.6 / most
                draw_dot(ax, row[metric], at, (row.get("ci") or {}).get(metric), ARM_COLOURS.get(name, INK))
        ax.set(xlabel=METRICS[metric], ylim=(len(names) - 0.4, -0.6))
        ax.set_yticks(range(len(names)), names)
        ax.xaxis.set_major_locator(MaxNLocator(4))
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


@styled
def identity(disagreement, symmetric, averaged, bhattacharyya, *, world: str = "") -> Figure:
    """The Symmetry Loss taken apart, ½ L_symmetry = CE of averaged logits + Bhattacharyya distance. Notebook: 04.

    Parameters
    ----------
    disagreement : array (N,)
        How far the two views' logits lie apart.
    symmetric, averaged, bhattacharyya : array (N,)
        The three terms, in nats: the mean cross-entropy of both views, the cross-entropy of their averaged
        logits, and the distance of their probabilities.
    """
    figure, axes = new_picture(5.6, 3.4, caption=world)
    ax, x = axes[0, 0], np.asarray(disagreement, float)
    averaged, bhattacharyya = np.asarray(averaged, float), np.asarray(bhattacharyya, float)
    ax.fill_between(x, averaged, averaged + bhattacharyya, color="#e69f00", alpha=0.25, linewidth=0)
    ax.plot(x, symmetric, color="#0072b2", label="½ Symmetry Loss: mean CE of both views")
    ax.plot(x, averaged, color=INK, linestyle="--", label="CE of the averaged logits")
    ax.plot(x, bhattacharyya, color="#d55e00", linestyle=":", linewidth=2, label="Bhattacharyya distance (shaded)")
    ax.set(xlabel="disagreement of the two views (logits)", ylabel="loss (nats)", xlim=(x.min(), x.max()))
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
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
