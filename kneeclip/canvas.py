"""The visual language of every figure: colours, dashes, fonts, and the few things that many figures draw."""

from __future__ import annotations

import functools
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

#: KL 0 to 4, light to dark (five steps of cividis, safe for the colour-blind).
GRADE_COLOURS = ("#e8d36b", "#b3a672", "#7d7c78", "#4b566d", "#00224e")
#: Okabe and Ito's palette: one colour an arm.
ARM_COLOURS = {
    "clip": "#999999",
    "flip_aug": "#e69f00",
    "symmetry": "#56b4e9",
    "consistency": "#cc79a7",
    "clip_koa": "#0072b2",
    "canonical": "#009e73",
}
#: (colour, dash) of what a run records: the dash tells the lines apart where colour is lost.
LINES = {
    "total": ("#222222", "-"),
    "original": ("#0072b2", "--"),
    "flipped": ("#56b4e9", ":"),
    "symmetry": ("#009e73", "-."),
    "consistency": ("#d55e00", (0, (6, 2))),
    "tune_accuracy": ("#0072b2", "-"),
    "tune_qwk": ("#d55e00", "--"),
    "tune_flip_agreement": ("#009e73", ":"),
}
METRICS = {"accuracy": "accuracy", "qwk": "QWK", "flip_agreement": "flip agreement", "averaged": "averaged accuracy"}
FEW = 12  # words in a panel that a description repeats: more than that is a table
INK, FAINT = "#222222", "#666666"
STYLE = {
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.labelsize": 8.5,
    "ytick.labelsize": 8.5,
    "legend.fontsize": 8.5,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "hatch.linewidth": 0.8,
}


class Picture(Figure):
    """A Figure that a notebook shows as an image even where nobody has imported pyplot."""

    alt = ""  # what a page reads out to who can't see the image

    def _repr_png_(self) -> tuple[bytes, dict]:
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue(), {"alt": self.alt}


def _tell_ipython() -> None:
    """Once pyplot is imported IPython asks matplotlib for the image of a Figure, which has no alternative text."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell is None:
        return
    formatter = shell.display_formatter.formatters["image/png"]

    def shown(figure: Picture):
        printer = formatter.type_printers.get(Figure)  # matplotlib's, with the user's settings
        found = printer(figure) if printer else figure._repr_png_()
        data, told = found if isinstance(found, tuple) else (found, {})
        return data, told | {"alt": figure.alt}

    formatter.for_type(Picture, shown)


def styled(draw):
    """Draw under STYLE, leave the user's rcParams as they were, and say in words what has been drawn."""
    what = (draw.__doc__ or "").partition("\n")[0].partition(" Notebook")[0]  # none under python -OO
    what = re.sub(r"[`*]| \((?:[NKRC2],? ?)+\)", "", what)  # shapes and marks are for who calls it

    @functools.wraps(draw)
    def wrapped(*args, **kwargs) -> Figure:
        with mpl.rc_context(STYLE):
            figure = draw(*args, **kwargs)
        figure.alt = " ".join(" ".join([what, *_words(figure)]).replace(r"\$", "$").split())
        _tell_ipython()
        return figure

    return wrapped


def _words(figure: Figure) -> Iterator[str]:
    """What each panel of a figure says in letters, and the caption, a sentence each."""
    for ax in figure.axes:
        title, legend = ax.get_title("left") or ax.get_title(), ax.get_legend()
        ticks = [label.get_text() for axis in (ax.xaxis, ax.yaxis) for label in axis.get_ticklabels()]
        said = {"across": [ax.get_xlabel()], "upwards": [ax.get_ylabel()]}
        # what begins like a number belongs to a scale
        said["names"] = [text for text in ticks if any(map(str.isalpha, text)) and text[0] not in "$0123456789−"]
        said["legend"] = [text.get_text() for text in legend.get_texts()] if legend else []
        said["written in it"] = [text.get_text() for text in ax.texts] if len(ax.texts) <= FEW else []
        told = [f"{where}: {', '.join(filter(None, texts))}" for where, texts in said.items() if any(texts)]
        if title or told:
            yield ": ".join(filter(None, [title, "; ".join(told)])) + "."
    yield from (f"{text}." for text in (figure.get_suptitle(), figure.get_supxlabel()) if text)


def new_picture(width: float, height: float, rows: int = 1, columns: int = 1, *, caption: str = "", **kwargs):
    """A Figure of `width` × `height` inches, its axes (rows, columns), and the world in its lower right corner."""
    figure = Picture(figsize=(width, height), dpi=100, facecolor="white", layout="constrained")
    figure.get_layout_engine().set(w_pad=0.08, h_pad=0.06)  # inches
    if caption:
        figure.supxlabel(caption, x=0.995, ha="right", fontsize=8, color=FAINT)
    axes = figure.subplots(rows, columns, squeeze=False, **kwargs)
    for ax in axes.flat:  # said here and not in STYLE: ticks are made when drawn, after STYLE has gone
        ax.tick_params(labelsize=8.5, color=FAINT)
        ax.grid(True, color="#e5e5e5", linewidth=0.8)
    return figure, axes


def grade_name(grade: int) -> str:
    return f"KL{int(grade)}"


def show_knee(ax, image, grade: int | None = None) -> None:
    ax.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=255)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(visible=True, color=FAINT, linewidth=0.8)
    if grade is not None:
        ax.spines[:].set(color=GRADE_COLOURS[int(grade)], linewidth=3)


def write_values(ax, mesh, shade, text) -> None:
    """Write into each cell of a heat map, in white where the cell is dark."""
    ax.grid(False)
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    for i, j in np.ndindex(shade.shape):
        red, green, blue, _ = mesh.cmap(mesh.norm(shade[i, j]))
        dark = 0.299 * red + 0.587 * green + 0.114 * blue < 0.55
        ax.text(j, i, text(i, j), ha="center", va="center", fontsize=8.5, color="white" if dark else INK)


def line_of(rows: Sequence[Mapping], x_name: str, name: str) -> tuple[list, list]:
    kept = [row for row in rows if row.get(name) is not None]
    return [row[x_name] for row in kept], [row[name] for row in kept]


def draw_dot(ax, value: float, y: float, interval, colour: str) -> None:
    if interval is not None:
        ax.plot(interval, [y, y], color=colour, linewidth=2, solid_capstyle="butt")
    ax.plot([value], [y], "o", color=colour, markersize=6, markeredgecolor="white", markeredgewidth=0.7)
