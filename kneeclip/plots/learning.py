"""Figures of notebook 03: how a training went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kneeclip.canvas import INK, LINES, METRICS, line_of, new_picture, styled
from kneeclip.errors import KneeError


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
