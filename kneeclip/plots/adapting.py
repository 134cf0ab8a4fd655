"""Figures of notebook 06: what each rung of the ladder costs, what it learns and what it forgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib import patheffects
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kneeclip.canvas import FAINT, INK, new_picture, styled
from kneeclip.errors import KneeError

#: Colour and marker of a rung, the same in every figure.
RUNG_LOOKS = {
    "zero-shot": ("#666666", "X"),
    "probe": ("#e69f00", "s"),
    "lora": ("#cc79a7", "D"),
    "last_k": ("#009e73", "^"),
    "full": ("#0072b2", "o"),
}
#: (colour, hatch) of what lies in memory during a step.
MEMORY = {
    "weights": ("#bbbbbb", ""),
    "gradients": ("#e69f00", "///"),
    "moments": ("#56b4e9", "..."),
    "kept": ("#0072b2", "\\\\\\"),
}
#: (colour, dash, marker) of the curves of one axis.
CURVES = (("#0072b2", "-", "o"), ("#d55e00", "--", "s"), ("#009e73", "-.", "^"))
#: Size of a marker that holds a number; a triangle has less room inside.
SEEDED = {"^": 16, "D": 12}
KEPT = {"weights": "weights", "gradients": "gradients", "moments": "AdamW's moments", "kept": "activations kept"}
UNITS = {"MiB": 2**20, "GiB": 2**30}


@styled
def ladder(rows: Sequence[Mapping], tasks: Mapping[str, str], *, world: str = "") -> Figure:
    """One panel a task, one line a rung: accuracy and its interval. Notebook: 06.

    Parameters
    ----------
    rows : sequence of dict
        ``adapt`` (or ``name``, where it is another), ``trained``, and for each task ``(value, low, high)``.
    tasks : key of the rows -> what its axis says
    """
    if not rows:
        raise KneeError("there is no rung to draw")
    figure, axes = new_picture(8.8, 0.42 * len(rows) + 1.15, 1, len(tasks), caption=world, sharey=True)
    for ax, (task, label) in zip(axes[0], tasks.items(), strict=True):
        start = next((row[task][0] for row in rows if row["adapt"] == "zero-shot"), None)
        if start is not None:
            ax.axvline(start, color=FAINT, linestyle="--", linewidth=1, zorder=0)
        for y, row in enumerate(rows):
            colour, marker = RUNG_LOOKS.get(row["adapt"], (INK, "o"))
            value, low, high = row[task]
            ax.plot([low, high], [y, y], color=colour, linewidth=2.4, solid_capstyle="butt")
            ax.plot(value, y, marker, color=colour, markersize=8, markeredgecolor="white")
        ax.set(xlabel=label)
        ax.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(False, axis="y")
    axes[0, 0].set_yticks(range(len(rows)), [f"{_name(row)}\n({row['trained']:,} trained)" for row in rows])
    axes[0, 0].set_ylim(len(rows) - 0.45, -0.55)
    axes[0, 0].set_title("dashed: before fine-tuning")
    return figure


@styled
def memory(ledgers: Mapping[str, Sequence[Mapping]], *, unit: str = "MiB", world: str = "") -> Figure:
    """What a step holds in memory at each rung, as stacked bars; one panel a model. Notebook: 06.

    Parameters
    ----------
    ledgers : panel's title -> rows
        Each a dict of ``adapt`` and the bytes of `kneeclip.adapting.ledger`.
    unit : "MiB" or "GiB"
    """
    bytes_each = UNITS[unit]
    tallest = max(len(rows) for rows in ledgers.values())
    figure, axes = new_picture(8.8, 0.45 * tallest + 1.45, 1, len(ledgers), caption=world)
    for ax, (title, rows) in zip(axes[0], ledgers.items(), strict=True):
        for y, row in enumerate(rows):
            start = 0.0
            for part, (colour, hatch) in MEMORY.items():
                width = row[part] / bytes_each
                ax.barh(y, width, left=start, height=0.62, color=colour, hatch=hatch, edgecolor="white", linewidth=0.6,
                        label=KEPT[part] if y == 0 else None)  # fmt: skip
                start += width
            ax.annotate(f"{start:,.1f}" if start < 100 else f"{start:,.0f}", (start, y), (4, 0), va="center",
                        textcoords="offset points", fontsize=8.5)  # fmt: skip
        longest = max(sum(row[part] for part in MEMORY) for row in rows) / bytes_each
        ax.set(xlabel=f"{title} ({unit})", xlim=(0, 1.16 * longest), ylim=(len(rows) - 0.5, -0.5))
        ax.set_yticks(range(len(rows)), [_name(row) for row in rows])
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.grid(False, axis="y")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), ncols=4, loc="outside upper left", columnspacing=1.2)
    return figure


@styled
def learnt_and_kept(rows: Sequence[Mapping], *, labels: tuple[str, str], world: str = "") -> Figure:
    """One dot a run: what it learnt to the right, what it kept upwards. Notebook: 06.

    Parameters
    ----------
    rows : sequence of dict
        ``adapt``, ``learnt`` and ``kept``, both shares, and perhaps ``seed``, which then stands in the dot; the
        run called zero-shot is where all began.
    labels : what the two axes say
    """
    figure, axes = new_picture(6.2, 4.0, caption=world)
    ax = axes[0, 0]
    for name in dict.fromkeys(row["adapt"] for row in rows):
        colour, marker = RUNG_LOOKS.get(name, (INK, "o"))
        own = [row for row in rows if row["adapt"] == name]
        x, y = [row["learnt"] for row in own], [row["kept"] for row in own]
        seeds = f", {len(own)} seeds" if len(own) > 1 else ""
        numbered = any(row.get("seed", "") != "" for row in own)
        shape = dict(linestyle="", markersize=SEEDED.get(marker, 13), alpha=0.75) if numbered else dict(linestyle="")
        shape = {"markersize": 9} | shape
        ax.plot(x, y, marker, color=colour, markeredgecolor="white", label=f"{name}{seeds}", **shape)
        seeds_at: dict[tuple, list[str]] = {}
        for row in own:
            seeds_at.setdefault((row["learnt"], row["kept"]), []).append(str(row.get("seed", "")))
        for place, which in seeds_at.items():  # two seeds may fall on one dot
            ax.annotate(", ".join(filter(None, which)), place, (0, -2 if marker == "^" else -0.5),
                        textcoords="offset points", ha="center", va="center", color=INK, fontsize=8, zorder=5,
                        path_effects=[patheffects.withStroke(linewidth=2, foreground="white")])  # fmt: skip
        if name == "zero-shot":
            ax.axhline(y[0], color=FAINT, linestyle="--", linewidth=1, zorder=0)
            ax.axvline(x[0], color=FAINT, linestyle="--", linewidth=1, zorder=0)
    ax.set(xlabel=labels[0], ylabel=labels[1])
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.set_major_locator(MaxNLocator(6, steps=(1, 2, 5, 10)))
    ax.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0), columnspacing=1.2)
    return figure


@styled
def drift(runs: Mapping[str, Sequence[float]], *, stopped: int, xlabel: str = "step", world: str = "") -> Figure:
    """How far the losses of runs are from those of one that was never stopped, step by step. Notebook: 06.

    Parameters
    ----------
    runs : label -> differences of steps 1, 2, … in nats
    stopped : the step in which the runs were stopped, drawn as a vertical line
    """
    figure, axes = new_picture(6.4, 3.1, caption=world)
    ax = axes[0, 0]
    for (colour, dash, marker), (name, apart) in zip(CURVES, runs.items(), strict=False):
        steps = range(1, len(apart) + 1)
        ax.plot(steps, apart, color=colour, linestyle=dash, marker=marker, markersize=5, label=name)
    ax.axvline(stopped, color=FAINT, linestyle=":", linewidth=1.4, zorder=0)
    ax.annotate("stopped", (stopped, 0.97), (4, 0), xycoords=("data", "axes fraction"), textcoords="offset points",
                va="top", color=FAINT)  # fmt: skip
    ax.set(xlabel=xlabel, ylabel="difference in loss (nats)")
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


@styled
def wise_ft(
    alphas: Sequence[float], curves: Mapping[str, Sequence[tuple]], *, chosen: float | None = None, world: str = ""
) -> Figure:
    """Accuracy of the models on the line between two models' weights, one curve a task; its chord dotted. Notebook: 06.

    Parameters
    ----------
    alphas : N numbers from 0 (before fine-tuning) to 1 (after)
    curves : task -> N times (value, low, high)
    chosen : one of the alphas, drawn as a vertical line with the values there
    """
    figure, axes = new_picture(6.8, 3.6, caption=world)
    ax = axes[0, 0]
    highest = -np.inf if chosen is None else max(np.interp(chosen, alphas, [v[0] for v in c]) for c in curves.values())
    for (colour, dash, marker), (task, values) in zip(CURVES, curves.items(), strict=False):
        value, low, high = (np.array(part) for part in zip(*values, strict=True))
        ax.fill_between(alphas, low, high, color=colour, alpha=0.13, linewidth=0)
        ax.plot(alphas, value, color=colour, linestyle=dash, marker=marker, markersize=5, label=task)
        ax.plot(alphas[:: len(alphas) - 1], value[:: len(value) - 1], color=colour, linestyle=":", linewidth=1)
        if chosen is not None:
            at = float(np.interp(chosen, alphas, value))
            beside = (6, 6 if at == highest else -14)  # two values may lie close: one stands above, the others below
            ax.annotate(f"{at:.1%}", (chosen, at), beside, textcoords="offset points", color=colour, weight="bold",
                        path_effects=[patheffects.withStroke(linewidth=3, foreground="white")], zorder=5)  # fmt: skip
    if chosen is not None:
        ax.axvline(chosen, color=INK, linewidth=1.1, zorder=0)
        ax.set_title(f"α = {chosen:g}", loc="right")
    ax.set(xlabel="α (0: before fine-tuning, 1: after)", ylabel="accuracy, 95 % interval shaded", xlim=(-0.03, 1.1))
    ax.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    ax.legend(ncols=1, loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure


def _name(row: Mapping) -> str:
    return row.get("name", row["adapt"])
