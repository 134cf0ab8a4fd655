"""Figures of notebook 04: two views of one knee, and what the losses make of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kneeclip.canvas import (
    ARM_COLOURS,
    GRADE_COLOURS,
    INK,
    METRICS,
    draw_dot,
    grade_name,
    new_picture,
    show_knee,
    styled,
)
from kneeclip.errors import KneeError

#: The forms of the Consistency Loss: colour and dash.
FORMS = {
    "js": ("#0072b2", "-"),
    "kl": ("#d55e00", "--"),
    "mse": ("#009e73", "-."),
    "bhattacharyya": ("#cc79a7", ":"),
}


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
    colour, dash = FORMS["bhattacharyya"]
    ax.fill_between(x, averaged, averaged + bhattacharyya, color=colour, alpha=0.25, linewidth=0)
    ax.plot(x, symmetric, color=ARM_COLOURS["symmetry"], label="½ Symmetry Loss: mean CE of both views")
    ax.plot(x, averaged, color=INK, linestyle="--", label="CE of the averaged logits")
    ax.plot(x, bhattacharyya, color=colour, linestyle=dash, linewidth=2.2, label="Bhattacharyya distance (shaded)")
    ax.set(xlabel="how far apart the views' log-odds are", ylabel="loss (nats)", xlim=(x.min(), x.max()))
    ax.set_ylim(bottom=0)
    ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return figure


@styled
def gradients(apart, losses: Mapping, pulls: Mapping, *, world: str = "") -> Figure:
    """Each form of the Consistency Loss, and how hard it pulls, as two views drift apart. Notebook: 04.

    Parameters
    ----------
    apart : array (N,)
        Distance of the two views' log-odds, in a case of two grades.
    losses, pulls : mapping of form -> array (N,)
        The loss in nats (mse has no unit), and the size of its gradient in one view's log-odds.
    """
    figure, axes = new_picture(8.0, 3.3, 1, 2, caption=world)
    for ax, curves, label in zip(axes[0], (losses, pulls), ("loss", "|gradient| in one view's log-odds"), strict=True):
        for form, values in curves.items():
            colour, dash = FORMS[form]
            ax.plot(apart, values, color=colour, linestyle=dash, label=form, linewidth=2.2 if dash == ":" else 1.6)
        ax.set(xlabel="how far apart the views' log-odds are", ylabel=label, xlim=(min(apart), max(apart)))
        ax.set_ylim(bottom=0)
    axes[0, 0].legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


@styled
def view_scatter(pairs: Mapping[str, tuple], *, world: str = "") -> Figure:
    """Expected grades of the flipped view over those of the original view; on the dashed line both agree. Notebook: 04.

    Parameters
    ----------
    pairs : mapping of title -> (x, y)
        Expected grades (N,) of the two views, one panel each.
    """
    figure, axes = new_picture(3.5 * len(pairs) + 0.3, 3.9, 1, len(pairs), caption=world, sharey=True)
    ends = np.concatenate([np.ravel(pair) for pair in pairs.values()])
    low, high = ends.min() - 0.1, ends.max() + 0.1
    for ax, (title, (x, y)) in zip(axes[0], pairs.items(), strict=True):
        ax.plot(x, y, ".", color="#0072b2", alpha=0.2, markersize=4, markeredgewidth=0, rasterized=True)
        ax.plot([low, high], [low, high], color=INK, linestyle="--", linewidth=1)
        ax.set(xlabel="expected grade, original view", title=title, xlim=(low, high), ylim=(low, high), aspect="equal")
    axes[0, 0].set_ylabel("expected grade, flipped view")
    return figure
