"""Figures of a study's report: every variant with its runs, the weights, the shares, the looks at `tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from kneeclip.canvas import ARM_COLOURS, FAINT, INK, METRICS, new_picture, styled
from kneeclip.errors import KneeError
from kneeclip.plots.comparing import KINDS

COLOURS = {**ARM_COLOURS, "nonsense": INK}


@styled
def study_arms(rows: Sequence[Mapping], *, world: str = "") -> Figure:
    """Accuracy, QWK and flip agreement of every variant, its runs as small dots. Notebook: 05.

    Parameters
    ----------
    rows : sequence of dict
        From `kneeclip.report.make_report`: ``label``, ``arm``, ``original``, ``averaged`` and ``flip_agreement``.
        Filled: the original view; hollow: flip-averaged.
    """
    if not rows:
        raise KneeError("there is no variant to draw")
    figure, axes = new_picture(9.6, 0.42 * len(rows) + 1.3, 1, 3, caption=world, sharey=True)
    for ax, metric in zip(axes[0], ("accuracy", "qwk", "flip_agreement"), strict=True):
        for y, row in enumerate(rows):
            colour = COLOURS[row["arm"]]
            views = [(row, -0.14, colour)] if metric == "flip_agreement" else []
            views = views or [(row["original"], -0.14, colour), (row["averaged"], 0.18, "white")]
            for view, shift, face in views:
                score = view[metric]
                if score is None or score["value"] is None:
                    continue
                if score["ci"]:
                    ax.plot(score["ci"], [y + shift] * 2, color=colour, linewidth=2, solid_capstyle="butt")
                ax.plot(score["by_run"], [y + shift] * len(score["by_run"]), "|", color=FAINT, markersize=6)
                ax.plot(score["value"], y + shift, "o", color=colour, markerfacecolor=face, markersize=6)
        ax.set(xlabel=METRICS[metric], ylim=(len(rows) - 0.4, -0.6))
        ax.set_yticks(range(len(rows)), [row["label"] for row in rows])
        ax.grid(False, axis="y")
    axes[0, 0].plot([], [], "o", color=INK, label="original view")
    axes[0, 0].plot([], [], "o", color=INK, markerfacecolor="white", label="flip-averaged")
    axes[0, 0].plot([], [], "|", color=FAINT, label="one run")
    axes[0, 0].legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1.0)).set_in_layout(False)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))  # room for the legend
    return figure


@styled
def study_lines(
    lines: Mapping[str, Sequence[Mapping]], *, xlabel: str, metrics: Sequence[str] = ("accuracy", "flip_agreement"),
    log: bool = True, untouched: Mapping[str, float] | None = None, world: str = "",
) -> Figure:  # fmt: skip
    """Metrics over a weight, or over the share of the training patients. Notebook: 05.

    Parameters
    ----------
    lines : mapping of label -> sequence of dict
        ``x`` and, for each metric, ``value``, ``ci`` and perhaps ``by_run``, drawn as small hollow markers
        where there are no more than two lines; one line each.
    untouched : metric -> value, optional
        Of the model before any training, as a dotted line.
    """
    figure, axes = new_picture(8.4, 3.4, 1, len(metrics), caption=world)
    for ax, metric in zip(axes[0], metrics, strict=True):
        for i, (label, points) in enumerate(lines.items()):
            colour, marker, dash = KINDS[i % len(KINDS)]
            points = sorted((p for p in points if p[metric]["ci"]), key=lambda p: p["x"])
            few = len(lines) <= 2  # the runs of more lines would hide each other
            beside = 1.06 ** (2 * i - 1) if few and log else 1  # a few pixels: two lines may meet
            x = [p["x"] * beside for p in points]
            low, high = [p[metric]["ci"][0] for p in points], [p[metric]["ci"][1] for p in points]
            ax.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
            value = [p[metric]["value"] for p in points]
            ax.plot(x, value, color=colour, marker=marker, linestyle=dash, markersize=8 if few else 6, label=label)
            for at, p in zip(x, points, strict=True) if few else ():  # on top: a run may lie where the mean does
                own = p[metric].get("by_run", ())
                hollow = dict(linestyle="", marker=marker, markersize=4, markerfacecolor="white", zorder=4)
                ax.plot([at] * len(own), own, color=colour, markeredgewidth=1, **hollow)
        if untouched:
            ax.axhline(untouched[metric], color=INK, linestyle=":", linewidth=1, label="before any training")
        ax.set(xlabel=xlabel, ylabel=METRICS[metric])
        if log:
            ax.set_xscale("log")
            ticks = sorted({p["x"] for points in lines.values() for p in points})
            ax.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
            ax.minorticks_off()
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside upper left", ncols=3)
    return figure


@styled
def study_looks(curves: Sequence[Mapping], *, world: str = "") -> Figure:
    """What `tune` said at each look, over the views that had been trained on; the mean of an arm's runs. Notebook: 05.

    Parameters
    ----------
    curves : sequence of dict
        ``arm``, ``label``, ``views`` and, of the same length, ``tune_accuracy`` and ``tune_qwk``.
    """
    figure, axes = new_picture(8.4, 3.6, 1, 2, caption=world)
    for ax, metric in zip(axes[0], ("tune_accuracy", "tune_qwk"), strict=True):
        for i, curve in enumerate(curves):
            colour, (_, marker, dash) = COLOURS[curve["arm"]], KINDS[i % len(KINDS)]
            ax.plot(curve["views"], curve[metric], color=colour, marker=marker, linestyle=dash, label=curve["label"])
        ax.set(xlabel="views trained on", ylabel=metric.replace("tune_", "").replace("qwk", "QWK") + " on tune")
    axes[0, 0].legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1.0)).set_in_layout(False)
    lines = -(-len(curves) // 4)
    figure.get_layout_engine().set(rect=(0, 0, 1, 1 - 0.22 * lines / figure.get_figheight()))  # room for the legend
    return figure
