"""Figures of notebook 04 that hold training sets, weights and arms against each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kneeclip.canvas import ARM_COLOURS, FAINT, INK, METRICS, new_picture, styled
from kneeclip.errors import KneeError

#: Right and left knees: colour and marker.
SIDES = {"right": ("#0072b2", "o", "right knees"), "left": ("#d55e00", "s", "left knees")}
#: What a model was trained on: colour, marker, dash.
TRAINED = (("#0072b2", "o", "-"), ("#d55e00", "s", "--"), ("#009e73", "D", "-."))


@styled
def one_sided(rows: Sequence[Mapping], *, majority: float | None = None, world: str = "") -> Figure:
    """Accuracy on right and on left knees for each training set, and how often a knee keeps its grade when mirrored.

    Parameters
    ----------
    rows : sequence of dict
        From `kneeclip.probe.one_sided`: ``trained_on``, ``n_train``, ``right``, ``left``, ``gap``,
        ``flip_agreement`` (or None) and ``ci``.
    majority : float, optional
        Accuracy of always saying the commonest grade, drawn as a dashed line.

    Notes
    -----
    Notebook: 04.
    """
    if not rows:
        raise KneeError("there is no training set to draw")
    figure, axes = new_picture(8.6, 0.62 * len(rows) + 1.25, 1, 2, caption=world, sharey=True, width_ratios=(2, 1))
    left, right = axes[0]
    for y, row in enumerate(rows):
        left.plot([row["left"], row["right"]], [y + 0.13, y - 0.13], color=FAINT, linewidth=0.8, zorder=1)
        for side, shift in (("right", -0.13), ("left", 0.13)):
            colour, marker, _ = SIDES[side]
            left.plot(row["ci"][side], [y + shift] * 2, color=colour, linewidth=2.4, solid_capstyle="butt")
            left.plot(row[side], y + shift, marker, color=colour, markersize=8, markeredgecolor="white")
        apart = f"{round(100 * (row['left'] - row['right']), 1) + 0.0:+.1f}".replace("-", "−")  # + 0.0: no "−0.0"
        weight = "bold" if min(row["ci"]["gap"]) > 0 or max(row["ci"]["gap"]) < 0 else "normal"
        left.annotate(f"{apart} points", (1.0, y), xycoords=("axes fraction", "data"), ha="right", va="center",
                      weight=weight, bbox=dict(facecolor="white", edgecolor="none", pad=1.5))  # fmt: skip
        if row["flip_agreement"] is None:
            right.annotate("every knee is turned\nthe same way", (0.5, y), xycoords=("axes fraction", "data"),
                           ha="center", va="center", fontsize=8.5, color=FAINT)  # fmt: skip
        else:
            right.plot(row["ci"]["flip_agreement"], [y, y], color=INK, linewidth=2.4, solid_capstyle="butt")
            right.plot(row["flip_agreement"], y, "D", color=INK, markersize=7, markeredgecolor="white")
            text, inside = f"{row['flip_agreement']:.2f}", row["flip_agreement"] > 0.6
            shift, align = ((-10, 0), "right") if inside else ((10, 0), "left")
            right.annotate(text, (row["flip_agreement"], y), shift, textcoords="offset points", ha=align, va="center")
    if majority is not None:
        left.axvline(majority, color=FAINT, linestyle="--", linewidth=1, zorder=0)
        left.annotate("always the commonest grade", (majority, 0.02), (4, 0), xycoords=("data", "axes fraction"),
                      textcoords="offset points", fontsize=8.5, color=FAINT)  # fmt: skip
    ends = [end for row in rows for side in SIDES for end in row["ci"][side]] + ([] if majority is None else [majority])
    low, high = min(ends), max(ends)
    left.set(xlabel="accuracy on knees of new patients", xlim=(low - 0.02, high + 0.35 * (high - low)))
    left.set_yticks(range(len(rows)), [f"{row['trained_on']}\n({row['n_train']:,} images)" for row in rows])
    left.set_ylim(len(rows) - 0.45, -0.5)
    left.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    left.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    left.annotate("left − right", (1.0, 1.02), xycoords="axes fraction", ha="right", va="bottom")
    right.set(xlabel="flip agreement", xlim=(min(0.45, *_agreements(rows)) - 0.03, 1.02))
    handles = [
        Line2D([], [], color=c, marker=m, markersize=8, linewidth=2.4, label=name) for c, m, name in SIDES.values()
    ]
    left.legend(
        handles=handles, title="tested on", alignment="left", ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0)
    )
    right.set_title("same grade when mirrored", color=INK)
    for ax in (left, right):
        ax.grid(False, axis="y")
    return figure


def _agreements(rows) -> list[float]:
    return [end for row in rows if row["flip_agreement"] is not None for end in row["ci"]["flip_agreement"]]


@styled
def weights(rows: Sequence[Mapping], *, world: str = "") -> Figure:
    """Accuracy and flip agreement over the weight of the Consistency Loss. Notebook: 04.

    Parameters
    ----------
    rows : sequence of dict
        ``trained_on``, ``weight``, ``accuracy``, ``flip_agreement`` and ``ci``; one line for each ``trained_on``.
    """
    names, steps = list(dict.fromkeys(r["trained_on"] for r in rows)), sorted({r["weight"] for r in rows})
    figure, axes = new_picture(7.6, 3.3, 1, 2, caption=world)
    for ax, metric in zip(axes[0], ("accuracy", "flip_agreement"), strict=True):
        for i, name in enumerate(names):
            colour, marker, dash = TRAINED[i % len(TRAINED)]
            own = sorted((row for row in rows if row["trained_on"] == name), key=lambda row: row["weight"])
            x = [steps.index(row["weight"]) for row in own]
            low, high = zip(*(row["ci"][metric] for row in own), strict=True)
            ax.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            ax.plot(x, [row[metric] for row in own], color=colour, marker=marker, linestyle=dash, label=name)
        ax.set(xlabel="weight of the Consistency Loss", ylabel=METRICS[metric])
        ax.set_xticks(range(len(steps)), [f"{step:g}" for step in steps])
        ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes[0, 1].set_ylim(top=1.01)
    axes[0, 0].legend(title="trained on", alignment="left", ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


@styled
def differences(
    rows: Sequence[Mapping], metrics: Sequence[str] = ("accuracy", "flip_agreement"), *, world=""
) -> Figure:
    """Each arm minus its controls, in points, with paired intervals. Notebook: 04.

    Parameters
    ----------
    rows : sequence of dict
        From `kneeclip.ablation.compare_arms`: ``arm``, ``minus``, ``metric``, ``difference``, ``ci``. `canonical` may
        have none of a metric: it knows one view only, and the panel says so.
    metrics : names of the metrics to draw, one panel each; all are shares and drawn in points of 100
    """
    rows = [row for row in rows if row["metric"] in metrics]
    if not rows:
        raise KneeError(f"these rows hold no difference of {', '.join(metrics)}")
    arms, controls = (list(dict.fromkeys(row[key] for row in rows)) for key in ("arm", "minus"))
    arms.sort(key=list(ARM_COLOURS).index)
    figure, axes = new_picture(
        3.4 * len(metrics) + 1, 0.42 * len(arms) + 1.3, 1, len(metrics), caption=world, sharey=True
    )
    for ax, metric in zip(axes[0], metrics, strict=True):
        ax.axvline(0, color=FAINT, linestyle="--", linewidth=1, zorder=0)
        for row in (row for row in rows if row["metric"] == metric):
            i = controls.index(row["minus"])
            y, colour = arms.index(row["arm"]) + (i - (len(controls) - 1) / 2) * 0.34, ARM_COLOURS[row["arm"]]
            ax.plot(100 * np.array(row["ci"]), [y, y], color=colour, linewidth=2, linestyle=("-", (0, (2, 1)))[i % 2])
            face = colour if i % 2 == 0 else "white"
            ax.plot(100 * row["difference"], y, "os"[i % 2], markersize=6, color=colour, markerfacecolor=face)
        if "canonical" in arms and not any(row["arm"] == "canonical" and row["metric"] == metric for row in rows):
            where = {"transform": ax.get_yaxis_transform(), "ha": "center", "va": "center"}
            ax.text(0.5, arms.index("canonical"), "every knee is turned the same way", fontsize=8, color=FAINT, **where)
        ax.set(xlabel=f"difference in {METRICS[metric]} (points)", ylim=(len(arms) - 0.4, -0.6))
        ax.set_yticks(range(len(arms)), arms)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(False, axis="y")
    looks = [dict(marker="o", linestyle="-"), dict(marker="s", linestyle=(0, (2, 1)), markerfacecolor="white")]
    handles = [Line2D([], [], color=INK, label=f"minus {c}", **looks[i % 2]) for i, c in enumerate(controls)]
    axes[0, 0].legend(handles=handles, ncols=2, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


@styled
def gain(shares, p_values: Mapping[str, Sequence[float]], *, world: str = "") -> Figure:
    """p-value of a paired test over the share of images on which two models differ. Notebook: 04.

    Parameters
    ----------
    shares : array (N,)
        Share of all images that exactly one of the two models gets right.
    p_values : mapping of label -> array (N,)
        One line for each reading of the gain; NaN where the gain needs more differing images than that.
    """
    figure, axes = new_picture(6.0, 3.3, caption=world)
    ax = axes[0, 0]
    for (colour, _, dash), (label, values) in zip(TRAINED, p_values.items(), strict=False):
        ax.plot(100 * np.asarray(shares), values, color=colour, linestyle=dash, label=label)
    ax.axhline(0.05, color=FAINT, linestyle=":", linewidth=1.2)
    ax.annotate(
        "0.05", (1.0, 0.05), (-3, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right"
    )
    ax.set(xlabel="images that only one of the two models gets right (% of all)", ylabel="p-value (exact McNemar)")
    ax.set(xlim=(0, 100 * max(shares)), ylim=(0, None))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure
