"""Figures of notebook 05 that hold results against each other: ranks, intervals, published numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from kneeclip.canvas import ARM_COLOURS, FAINT, INK, draw_dot, new_picture, styled
from kneeclip.errors import KneeError

NAMES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro-F1",
    "qwk": "QWK",
    "mae": "MAE (KL grades)",
    "auc_kl2": "AUC for KL ≥ 2",
}
#: (colour, marker, dash) of whatever is compared and is no arm: each tells them apart without the others.
KINDS = (
    ("#0072b2", "o", "-"),
    ("#d55e00", "s", "--"),
    ("#009e73", "D", "-."),
    ("#cc79a7", "^", ":"),
    ("#7d7c78", "v", (0, (6, 2))),
    ("#e69f00", "P", (0, (1, 2))),
    ("#56b4e9", "X", (0, (3, 1, 1, 1))),
)


@styled
def rankings(rows: Sequence[Mapping], metrics: Sequence[str] = ("accuracy", "qwk"), *, world: str = "") -> Figure:
    """Who is best, by one metric and by another: two orders, and lines from each place to the other. Notebook: 05.

    Parameters
    ----------
    rows : sequence of dict
        ``name``, the two metrics, and where known ``ci``: metric -> [low, high]; ``look`` (int), the colour of a grader
        that stands in several figures.
    metrics : two names
        For MAE less is better, for the others more.
    """
    if not rows:
        raise KneeError("there is nobody to rank")
    n = len(rows)

    def look(i):
        return KINDS[rows[i].get("look", i) % len(KINDS)]

    figure, axes = new_picture(9.2, 0.42 * n + 1.2, 1, 3, caption=world, width_ratios=(3, 0.8, 3), sharey=True)
    left, between, right = axes[0]
    place = {}
    for ax, metric in ((left, metrics[0]), (right, metrics[1])):
        order = sorted(range(n), key=lambda i: rows[i][metric] * (1 if metric == "mae" else -1))
        place[metric] = {i: y for y, i in enumerate(order)}
        for i, y in place[metric].items():
            colour, marker, _ = look(i)
            interval = (rows[i].get("ci") or {}).get(metric)
            if interval is not None:
                ax.plot(interval, [y, y], color=colour, linewidth=2)
            ax.plot(rows[i][metric], y, marker, color=colour, markersize=7, markeredgecolor="white")
            text = f"{rows[i][metric]:.3f}"
            ax.annotate(text, (rows[i][metric], y), (0, 6), textcoords="offset points", ha="center", fontsize=8.5)
        ax.set(xlabel=f"{NAMES.get(metric, metric)}", ylim=(n - 0.4, -0.7), yticks=range(n))
        ax.grid(False, axis="y")
        ax.margins(x=0.14)
    for i in range(n):
        colour, _, dash = look(i)
        between.plot([0, 1], [place[m][i] for m in metrics], color=colour, linestyle=dash, linewidth=2)
    between.set_axis_off()
    left.set_yticklabels([rows[i]["name"] for i in place[metrics[0]]])
    right.tick_params(labelleft=False)
    twin = right.secondary_yaxis("right")
    twin.set_yticks(range(n), [rows[i]["name"] for i in place[metrics[1]]])
    twin.tick_params(length=0, labelsize=8.5)
    twin.spines[:].set_visible(False)
    return figure


@styled
def interval_widths(rows: Sequence[Sequence], *, xlabel: str, world: str = "") -> Figure:
    """The same estimates with intervals from resampling images and from resampling patients. Notebook: 05.

    Parameters
    ----------
    rows : sequence of (label, value, (low, high) by image, (low, high) by patient)
    """
    figure, axes = new_picture(8.4, 0.5 * len(rows) + 1.3, caption=world)
    ax = axes[0, 0]
    styles = (("by image", "#d55e00", "s", "--"), ("by patient", "#0072b2", "o", "-"))
    for y, (_, value, *intervals) in enumerate(rows):
        for (label, colour, marker, dash), interval, dy in zip(styles, intervals, (-0.16, 0.16), strict=True):
            ax.plot(interval, [y + dy] * 2, color=colour, linestyle=dash, linewidth=2)
            ax.plot(value, y + dy, marker, color=colour, markersize=6, markeredgecolor="white")
            if y == 0:
                ax.plot([], [], color=colour, marker=marker, linestyle=dash, linewidth=2, label=label)
        image, patient = (high - low for low, high in intervals)
        text = f"{image:.3f}, {patient:.3f}: × {patient / image:.2f}" if image else ""
        ax.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    ax.annotate(
        "width by image, by patient: ratio", (1.01, -0.6), xycoords=("axes fraction", "data"), fontsize=8.5, color=FAINT
    )
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.4, -0.7))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0), ncols=2)
    ax.grid(False, axis="y")
    return figure


@styled
def forest(
    rows: Sequence[Sequence], *, xlabel: str, reference: float | Sequence[float] | None = None,
    thin: Sequence[Sequence[float] | None] = (), form: str = ".3f", dashed: str = "",
    world: str = "",
) -> Figure:  # fmt: skip
    """Estimates with their intervals, one a line. Notebook: 05.

    Parameters
    ----------
    rows : sequence of (label, value, low, high) or (label, value, low, high, colour)
        From the top down; low and high may be None.
    reference : float, or one for each row, optional
        Where a dashed line stands: 0 for differences, a published result.
    thin : sequence of (low, high) or None, optional
        A second interval for each row, drawn thinly below the first; `world` says which is which.
    form : format of the numbers beside the rows
    dashed : str, optional
        What the reference is, written above the rows.
    """
    if not len(rows):
        raise KneeError("there is no estimate to draw")
    figure, axes = new_picture(6.4, (0.38 if thin else 0.3) * len(rows) + 1.0, caption=world)
    ax = axes[0, 0]
    for y, (_, value, low, high, *colour) in enumerate(rows):
        draw_dot(ax, value, y, None if low is None else (low, high), colour[0] if colour else "#0072b2")
        text = f"{value:{form}}" if low is None else f"{value:{form}}  [{low:{form}}, {high:{form}}]"
        ax.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
        if isinstance(reference, Sequence):
            ax.plot([reference[y]] * 2, [y - 0.5, y + 0.5], color=FAINT, linestyle="--", linewidth=1, zorder=0)
    for y, interval in enumerate(thin):
        if interval is not None:
            ax.plot(interval, [y + 0.25] * 2, color=INK, linewidth=0.9)
    if reference is not None and not isinstance(reference, Sequence):
        ax.axvline(reference, color=FAINT, linestyle="--", linewidth=1, zorder=0)
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.4, -0.6), title=f"dashed: {dashed}" if dashed else "")
    ax.grid(False, axis="y")
    return figure


@styled
def published(
    rows: Sequence[Sequence], *, xlabel: str, highlight: str = "", band: Sequence[float] | None = None, world: str = ""
) -> Figure:
    """Published results with their intervals, marked by what they may be compared with. Notebook: 05.

    Parameters
    ----------
    rows : sequence of (label, value, low, high, kind)
        From the top down; rows of one `kind` (str) share a shade and a marker.
    highlight : str
        The label that stands out, in the colour of CLIP-KOA.
    band : (low, high), optional
        An interval to hold the others against, shaded.
    """
    if not len(rows):
        raise KneeError("there is no estimate to draw")
    kinds = list(dict.fromkeys(row[4] for row in rows))
    figure, axes = new_picture(8.6, 0.29 * len(rows) + 0.22 * len(kinds) + 1.0, caption=world)
    ax = axes[0, 0]
    looks = [(INK, "o", INK), (INK, "s", "white"), (FAINT, "D", FAINT), (FAINT, "^", "white")]  # shade, marker, face
    for y, (label, value, low, high, kind) in enumerate(rows):
        colour, marker, face = looks[kinds.index(kind) % len(looks)]
        if label == highlight:
            colour = face = ARM_COLOURS["clip_koa"]
        ax.plot((low, high), [y, y], color=colour, linewidth=2)
        ax.plot([value], [y], marker, color=colour, markersize=6, markerfacecolor=face)
        text = f"{value:.1%}  [{low:.1%}, {high:.1%}]"
        ax.annotate(text, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=8.5)
    for (colour, marker, face), kind in zip(looks, kinds, strict=False):
        ax.plot([], [], color=colour, marker=marker, markerfacecolor=face, linewidth=2, label=kind)
    if band is not None:
        ax.axvspan(*band, color="#eeeeee", zorder=0)
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0))
    ax.set_yticks(range(len(rows)), [row[0] for row in rows])
    ax.set(xlabel=xlabel, ylim=(len(rows) - 0.4, -0.6))
    ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.grid(False, axis="y")
    return figure
