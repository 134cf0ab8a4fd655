"""The figure of docs/scaling.md: what grows with the number of images, and what it runs into."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from kneeclip.canvas import FAINT, new_picture, styled
from kneeclip.errors import KneeError

LOOKS = (
    ("#d55e00", "s", "--"),
    ("#cc79a7", "^", ":"),
    ("#999999", "v", (0, (1, 1))),
    ("#0072b2", "o", "-"),
    ("#56b4e9", "D", "-."),
)
MARKS = {
    "seconds": {"a minute": 60, "an hour": 3600, "a day": 86_400},
    "bytes": {"100 MB: the largest header of a safetensors file": 1e8, "16 GB": 16e9, "80 GB": 80e9},
}


@styled
def scaling(rows: Sequence[Mapping], *, world: str = "") -> Figure:
    """Seconds and bytes of an epoch's parts over the number of images, both axes in powers of ten.

    Parameters
    ----------
    rows : sequence of dict
        ``images``, and ``seconds`` and ``bytes``: what -> number, the same keys in every row.
    """
    if not rows:
        raise KneeError("there is no size to draw")
    figure, axes = new_picture(9.4, 4.3, 1, 2, caption=world)
    sizes = [row["images"] for row in rows]
    for ax, unit in zip(axes[0], MARKS, strict=True):
        values = {name: [row[unit][name] for row in rows] for name in rows[0][unit]}
        for (name, line), (colour, marker, dash) in zip(values.items(), LOOKS, strict=False):
            ax.plot(sizes, line, color=colour, marker=marker, linestyle=dash, markersize=5, label=name)
        low, high = min(map(min, values.values())), max(map(max, values.values()))
        for name, height in MARKS[unit].items():
            if low < height < 10 * high:
                ax.axhline(height, color=FAINT, linewidth=0.8, zorder=0)
                ax.annotate(name, (0, height), (4, -3), xycoords=("axes fraction", "data"), va="top",
                            textcoords="offset points", fontsize=8, color=FAINT)  # fmt: skip
        ax.set(xscale="log", yscale="log", xlabel="images", ylabel=unit)
        ax.set_xticks(sizes, [f"{n / 1e6:g} M" if n >= 1e6 else f"{n:,}" for n in sizes])
        ax.minorticks_off()
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1.0))
    return figure
