"""Figures of the second half of notebook 05: where did it look, what does it know, what does it get wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure

from kneeclip.canvas import FAINT, GRADE_COLOURS, INK, draw_dot, grade_name, new_picture, show_knee, styled
from kneeclip.errors import KneeError

GRADE_MARKERS = ("o", "s", "D", "^", "X")
HELD = ((0.5, "-"), (0.8, "--"))  # the contours of a map hold these shares of its relevance


@styled
def relevance_maps(images: Sequence, regions, maps: Mapping[str, Sequence], titles=None, *, world: str = "") -> Figure:
    """Knees with their regions outlined, and below the contours of each kind of map. Notebook: 05.

    Parameters
    ----------
    images : sequence of N images (H, W)
    regions : (N, H, W) bool
    maps : mapping of name -> (N, H, W), or (H, W) for one map used on all
        Not negative. Drawn are the smallest areas that hold 50 % (shaded) and 80 % of the map.
    titles : sequence of N str, optional
    """
    regions = np.asarray(regions, float)
    rows = 1 + len(maps)
    figure, axes = new_picture(1.25 * len(images) + 0.5, 1.3 * rows + 0.8, rows, len(images), caption=world)
    names = ["where signs\ncan appear", *maps]
    shown = [regions, *(np.broadcast_to(np.asarray(m, float), regions.shape) for m in maps.values())]
    outline = [patheffects.withStroke(linewidth=2.8, foreground="black")]
    for row, name, layer in zip(axes, names, shown, strict=True):
        row[0].set_ylabel(name)
        for ax, image, plane in zip(row, images, layer, strict=True):
            show_knee(ax, image)
            ax.grid(False)
            if layer is regions:
                held, colour = {0.5: "-"}, "#56b4e9"
            else:
                held, colour = {_level(plane, share): dash for share, dash in HELD[::-1]}, "#e69f00"
                half = _level(plane, 0.5)
                if plane.min() < half < plane.max():
                    ax.contourf(plane, levels=[half, plane.max()], colors=[colour], alpha=0.3)
            held = {level: dash for level, dash in held.items() if plane.min() < level < plane.max()}
            if held:  # a plateau, such as an even map, has no smallest area that holds half of it
                looks = {"colors": colour, "linewidths": 1.3, "linestyles": list(held.values())}
                ax.contour(plane, levels=list(held), **looks).set_path_effects(outline)
    for ax, title in zip(axes[0], titles or [""] * len(images), strict=True):
        ax.set_title(title, loc="center", fontsize=8.5, pad=3)
    handles = [mpl.lines.Line2D([], [], color=INK, linestyle=dash, label=f"holds {share:.0%}") for share, dash in HELD]
    figure.legend(handles=handles, loc="outside upper right", ncols=2)
    return figure


@styled
def map_scores(rows: Sequence[tuple[str, Mapping]], *, world: str = "") -> Figure:
    """How well maps point at the regions: lift and pixel AUC with intervals, one map a line. Notebook: 05.

    Parameters
    ----------
    rows : sequence of (name, report)
        A report of `kneeclip.explain.scores`: ``lift`` and ``auc``, each with ``value`` and ``ci``.
    """
    if not rows:
        raise KneeError("there is no map to score")
    figure, axes = new_picture(8.4, 0.34 * len(rows) + 1.2, 1, 2, caption=world, sharey=True)
    labels = ("lift (share of the map ÷ share of the area)", "pixel AUC")
    for ax, metric, label, even in zip(axes[0], ("lift", "auc"), labels, (1, 0.5), strict=True):
        for y, (_, report) in enumerate(rows):
            draw_dot(ax, report[metric]["value"], y, report[metric]["ci"], "#0072b2")
            text = f"{report[metric]['value']:.2f}"
            ax.annotate(
                text, (report[metric]["value"], y), (0, 6), textcoords="offset points", ha="center", fontsize=8.5
            )
        ax.axvline(even, color=FAINT, linestyle="--", linewidth=1, zorder=0)
        ax.annotate("an even map", (even, -0.62), (3, 0), textcoords="offset points", fontsize=8, color=FAINT)
        ax.set(xlabel=label, ylim=(len(rows) - 0.4, -0.9))
        ax.margins(x=0.1)
        ax.grid(False, axis="y")
    axes[0, 0].set_yticks(range(len(rows)), [name for name, _ in rows])
    axes[0, 0].set_title(f"n = {rows[0][1]['n']:,} images of {rows[0][1]['n_patients']:,} patients")
    return figure


@styled
def interventions(rows: Sequence[Sequence], *, world: str = "") -> Figure:
    """What one change of the anatomy does to the grade: by the rule, and by the model. Notebook: 05.

    Parameters
    ----------
    rows : sequence of (name, rule, model, low, high)
        Mean changes in KL grades; low and high are the model's interval.
    """
    figure, axes = new_picture(7.2, 0.32 * len(rows) + 1.2, caption=world)
    ax = axes[0, 0]
    for y, (_, rule, model, low, high) in enumerate(rows):
        first = y == 0
        ax.plot([model, rule], [y, y], color="#cccccc", linewidth=1, zorder=1)
        ax.plot(rule, y, "D", color="white", markeredgecolor=INK, markersize=7, label="the rule" if first else None)
        draw_dot(ax, model, y, (low, high), "#0072b2")
    ax.plot([], [], "o-", color="#0072b2", label="the model, expected grade (95 % interval)")
    ax.axvline(0, color=FAINT, linestyle="--", linewidth=1, zorder=0)
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.set(xlabel="mean change of the grade (KL grades)", ylim=(len(rows) - 0.4, -0.6))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    ax.grid(False, axis="y")
    return figure


@styled
def embedding_map(points, grades, texts, shares: Sequence[float], *, world: str = "") -> Figure:
    """Images (N, 2) and the K prompts (K, 2) on two principal axes; a colour and a marker a grade. Notebook: 05.

    Parameters
    ----------
    shares : two floats
        Share of the images' variance along each axis.
    """
    points, grades, texts = np.asarray(points), np.asarray(grades), np.asarray(texts)
    figure, axes = new_picture(6.6, 4.6, caption=world)
    ax = axes[0, 0]
    size, corners = np.ptp(np.concatenate([points, texts]), axis=0), np.array([(1, 1), (1, -1), (-1, 1), (-1, -1)])
    for k in range(len(texts)):
        own = points[grades == k]
        style = {"color": GRADE_COLOURS[k], "marker": GRADE_MARKERS[k], "edgecolor": INK, "linewidth": 0.4}
        ax.scatter(*own.T, s=26, label=f"{grade_name(k)} (n = {len(own):,})", **style)
        ax.scatter(*texts[k], s=260, marker="*", color=GRADE_COLOURS[k], edgecolor="#d55e00", linewidth=1.3, zorder=4)
        others = (np.concatenate([points, np.delete(texts, k, 0)]) - texts[k]) / size
        corner = max(corners, key=lambda c, others=others: np.abs(others - 0.06 * c).max(1).min())  # the emptiest
        ax.annotate(grade_name(k), texts[k], corner * (9, 6), textcoords="offset points", color="#d55e00",
                    ha="left" if corner[0] > 0 else "right", va="bottom" if corner[1] > 0 else "top", zorder=5,
                    path_effects=[patheffects.withStroke(linewidth=2.5, foreground="white")], weight="bold",
                    )  # fmt: skip
    ax.scatter([], [], s=160, marker="*", color="white", edgecolor="#d55e00", label="the five prompts")
    ax.set(xlabel=f"first principal axis ({shares[0]:.0%} of the variance)")
    ax.set(ylabel=f"second principal axis ({shares[1]:.0%})")
    figure.legend(loc="outside right upper")
    return figure


@styled
def own_knee(image, p, notes: Sequence[str] = (), *, world: str = "") -> Figure:
    """One image, the probability of each grade (K,), and what is to be said about it. Notebook: 05."""
    p = np.asarray(p, float)
    figure, axes = new_picture(7.2, 3.1 + 0.22 * len(notes), 1, 2, caption=world, width_ratios=(1, 1.3))
    show_knee(axes[0, 0], image)
    ax = axes[0, 1]
    ax.barh(range(len(p)), p, color=GRADE_COLOURS[: len(p)], edgecolor=INK, linewidth=0.6)
    for k, share in enumerate(p):
        ax.annotate(f"{share:.0%}", (share, k), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    ax.set_yticks(range(len(p)), [grade_name(k) for k in range(len(p))])
    ax.set(xlabel="probability", xlim=(0, 1.12), ylim=(len(p) - 0.4, -0.6))
    ax.set_xticks(np.arange(0, 1.01, 0.25), [f"{x:.0%}" for x in np.arange(0, 1.01, 0.25)])
    ax.grid(False, axis="y")
    if notes:
        figure.suptitle("\n".join(notes), x=0.01, ha="left", fontsize=9, color="#b03a00")
    return figure


def _level(plane: np.ndarray, share: float) -> float:
    """The height above which a map holds `share` of its sum."""
    heights = np.sort(plane.ravel())[::-1]
    held = np.cumsum(heights) / heights.sum()
    return heights[np.searchsorted(held, share)]
