"""Figures of notebook 03: how a training goes, and how it goes wrong."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator

from kneeclip.canvas import FAINT, INK, LINES, METRICS, line_of, new_picture, styled
from kneeclip.errors import KneeError

#: (colour, dash, marker) of the curves of one axis: three ways to tell them apart in print.
CURVES = [
    ("#0072b2", "-", "o"),
    ("#009e73", "--", "s"),
    ("#e69f00", "-.", "^"),
    ("#d55e00", (0, (6, 2)), "D"),
    ("#cc79a7", ":", "v"),
    ("#56b4e9", (0, (1, 1)), "P"),
]


@styled
def history(
    rows: Sequence[Mapping], *, steps: Sequence[Mapping] = (), rates: Sequence[float] = (), world: str = ""
) -> Figure:
    """Learning curves: losses, metrics on *tune* and the learning rate. Notebook: 03.

    Parameters
    ----------
    rows : sequence of dict
        One an epoch, as `train` records them: `step` or `epoch`, and any of the names in LINES and `lr`. None yet,
        while the first epoch runs: then the steps alone are drawn.
    steps : sequence of dict, optional
        One a step: drawn faintly behind the losses.
    rates : sequence of float, optional
        The learning rate of every step of the run, the ones to come as well.
    """
    x_name = "step" if all("step" in row for row in rows) else "epoch"
    behind = steps if x_name == "step" else []
    losses = [name for name in LINES if not name.startswith("tune_") and any(name in row for row in (*rows, *behind))]
    if all(row.get("original") == row.get("total") for row in (*rows, *behind)):
        losses = [name for name in losses if name != "original"]  # in a one-view arm it is the total
    tuned = [name for name in LINES if name.startswith("tune_") and any(name in row for row in rows)]
    panels = [(losses, "mean loss (nats)"), (tuned, "on tune, original view")]
    panels += [(["lr"], "learning rate")] if rates or any("lr" in row for row in rows) else []
    panels = [panel for panel in panels if panel[0]]
    if not panels:
        raise KneeError("these rows hold nothing to draw", remedy="pass run.history")
    figure, axes = new_picture(3.1 * len(panels), 3.1, 1, len(panels), caption=world)
    for ax, (names, label) in zip(axes[0], panels, strict=True):
        for name in names:
            colour, dash = LINES.get(name, (INK, "-"))
            if label.endswith("(nats)"):
                x, y = line_of(behind, "step", name)  # steps are counted from 0, and drawn from 1
                ax.plot([step + 1 for step in x], y, color=colour, alpha=0.25, linewidth=0.8)
            if name == "lr" and rates:
                ax.plot(range(1, len(rates) + 1), rates, color=FAINT, linewidth=1.2)
            text = name.removeprefix("tune_")
            joined = "" if name == "lr" and rates else dash  # between epochs the rate does not run straight
            line = ax.plot(*line_of(rows, x_name, name), linestyle=joined, color=colour, marker="o", markersize=3)
            line[0].set_label("loss" if name == "total" and len(names) == 1 else METRICS.get(text, text))
        if names != ["lr"]:
            ax.legend(handlelength=2.6, ncols=2, loc="lower left", bbox_to_anchor=(0, 1), columnspacing=1)
        ax.set(xlabel=x_name, ylabel=label)
        ax.ticklabel_format(axis="y", scilimits=(-3, 4))
        ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure


@styled
def loss_curves(
    curves: Mapping[str, Sequence[float]],
    *,
    on_top: Mapping[str, Sequence[float]] | None = None,
    references: Mapping[str, float] | None = None,
    xlabel: str = "step",
    world: str = "",
) -> Figure:
    """Losses by step of several runs on one axis. Notebook: 03.

    Parameters
    ----------
    curves : label -> losses of steps 1, 2, … in nats
    on_top : label -> losses, optional
        Drawn as large open rings, so that a curve beneath them shows.
    references : label -> loss, optional
        Horizontal lines, written at their right end.
    xlabel : str
        May say how many images a step holds.
    """
    figure, axes = new_picture(6.4, 3.3, caption=world)
    _losses(axes[0, 0], curves, on_top or {}, references or {})
    axes[0, 0].set_xlabel(xlabel)
    return figure


@styled
def schedule(
    rates: Sequence[float],
    curves: Mapping[str, Sequence[float]],
    *,
    warm: int,
    chosen: str = "",
    references: Mapping[str, float] | None = None,
    world: str = "",
) -> Figure:
    """A run's learning rate by step, beside the losses of runs, one of them in bold. Notebook: 03.

    Parameters
    ----------
    rates : learning rate of steps 1, 2, …
    curves : label -> losses of steps 1, 2, …
    warm : int
        Steps of the warm-up, shaded.
    chosen : the label of the run that `rates` belong to
    """
    figure, axes = new_picture(8.6, 3.3, 1, 2, caption=world, width_ratios=(1, 1.5))
    left, right = axes[0]
    left.axvspan(0.5, warm + 0.5, color="#56b4e9", alpha=0.2, linewidth=0)
    left.plot(range(1, len(rates) + 1), rates, color=INK, marker="o", markersize=3.5)
    left.set(xlabel="step", ylabel="learning rate", xlim=(0.5, len(rates) + 0.5))
    left.set_ylim(0, 1.12 * max(rates))
    left.set_title(f"warm-up (shaded): {warm} of {len(rates)} steps")
    left.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    left.yaxis.set_major_locator(MaxNLocator(5))
    left.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    _losses(right, curves, {}, references or {}, chosen)
    return figure


def _losses(ax, curves, on_top, references, chosen="") -> None:
    if not any(len(values) for values in (*curves.values(), *on_top.values())):
        raise KneeError("there is no loss to draw", remedy='pass {"a run": [row["total"] for row in run.steps]}')
    last = max(len(values) for values in (*curves.values(), *on_top.values()))
    for i, (name, values) in enumerate(curves.items()):
        colour, dash, marker = CURVES[i % len(CURVES)]
        faint = bool(chosen) and name != chosen
        line = ax.plot(range(1, len(values) + 1), values, color=colour, linestyle=dash, marker=marker, markersize=4)
        line[0].set(label=name, alpha=0.3 if faint else 1, linewidth=2.6 if name == chosen else 1.6)
    for name, values in on_top.items():
        ring = dict(linestyle="", marker="o", markersize=11, markerfacecolor="none", markeredgewidth=1.6)
        ax.plot(range(1, len(values) + 1), values, color="#d55e00", label=name, **ring)
    highest = max([ax.dataLim.y1, *references.values()])
    spread = references and highest > 5 * max(references.values())  # a leap far above what is compared: logarithmic
    if spread:
        ax.set_yscale("log")
    for i, (name, value) in enumerate(sorted(references.items(), key=lambda reference: -reference[1])):
        ax.axhline(value, color=INK, linestyle=("--", ":")[i % 2], linewidth=1.1, zorder=1)
        ax.annotate(name, (1.01, value), (0, (-2, 2)[i % 2]), xycoords=("axes fraction", "data"), fontsize=8.5,
                    textcoords="offset points", va=("bottom", "top")[i % 2], color=INK)  # fmt: skip
    ax.set(xlabel="step", ylabel="loss of the step (nats)", xlim=(0.5, last + 0.5))
    if spread:
        ax.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_minor_locator(NullLocator())
    else:
        ax.set_ylim(0, 1.08 * highest)
    ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, columnspacing=1.2)
