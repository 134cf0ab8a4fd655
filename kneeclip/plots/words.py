"""Figures of notebook 02, second half: what the texts say, and who grades best with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from kneeclip.canvas import FAINT, INK, new_picture, styled, write_values


@styled
def similarity_map(matrix, labels, *, columns=None, title: str = "", world: str = "") -> Figure:
    """Cosines (R, C) as a heat map with their values, the largest of each row framed. Notebook: 02.

    Parameters
    ----------
    matrix : array (R, C)
    labels : sequence of R str
    columns : sequence of C str, optional
        `labels` again if nothing is given.
    """
    matrix, columns = np.asarray(matrix, float), list(labels if columns is None else columns)
    rows, cols = matrix.shape
    width = 0.62 * cols + 0.075 * max(map(len, labels)) + 1.5
    slanted = max(map(len, columns)) > 6
    figure, axes = new_picture(max(width, 3.4), 0.42 * rows + (1.6 if slanted else 1.1), caption=world)
    ax = axes[0, 0]
    mesh = ax.imshow(matrix, cmap="cividis", aspect="auto")
    write_values(ax, mesh, matrix, lambda i, j: f"{matrix[i, j]:.2f}")
    for i, j in enumerate(matrix.argmax(1)):  # two values may look alike at two decimals
        ax.add_patch(mpl.patches.Rectangle((j - 0.46, i - 0.44), 0.92, 0.88, fill=False, edgecolor="#d55e00", lw=2))
    ax.set_xticks(range(cols), columns, **(dict(rotation=35, ha="right", rotation_mode="anchor") if slanted else {}))
    ax.set_yticks(range(rows), list(labels))
    ax.set_title(title)
    scale = figure.colorbar(mesh, ax=ax, label="cosine similarity", shrink=0.9)
    scale.ax.tick_params(labelsize=8.5)
    return figure


@styled
def tokens(rows: Sequence[tuple], *, limit: int = 77, title: str = "", world: str = "") -> Figure:
    """Texts cut into tokens, each with its id; those that don't fit are hatched. Notebook: 02.

    Parameters
    ----------
    rows : sequence of (pieces, ids)
        The tokens of each text in letters and in numbers, start and end among them.
    limit : int
        How many the text tower reads. A tokenizer that cuts keeps the end token, in the last of these places.
    """
    across, boxes, y = 128, [], 0.0  # letters in a line
    for pieces, ids in rows:
        x = 0.0
        for i, (piece, number) in enumerate(zip(pieces, ids, strict=True)):
            wide = max(len(piece), len(str(number))) + 1.2
            if x + wide > across:
                x, y = 0.0, y + 2.4
            lost = len(ids) > limit and limit - 1 <= i < len(ids) - 1
            boxes.append((x, y, wide, piece, number, lost))
            x += wide + 0.3
        y += 3.0
    figure, axes = new_picture(9.6, 0.19 * y + 0.5, caption=world)
    ax = axes[0, 0]
    for x, top, wide, piece, number, lost in boxes:
        style = dict(facecolor="#fbe3d6", edgecolor="#d55e00", hatch="////") if lost else dict(facecolor="#e8eef4")
        ax.add_patch(mpl.patches.Rectangle((x, top), wide, 2, linewidth=0.5, **({"edgecolor": FAINT} | style)))
        plain = dict(boxstyle="square,pad=0.05", facecolor="#fbe3d6", edgecolor="none") if lost else None
        middle = dict(x=x + wide / 2, ha="center", va="center", family="monospace", bbox=plain)
        ax.text(y=top + 0.6, s=piece.replace("$", r"\$"), fontsize=8.5, color=INK, **middle)
        ax.text(y=top + 1.5, s=str(number), fontsize=8, color=FAINT, **middle)
    ax.set(xlim=(-0.5, across + 0.5), ylim=(y - 0.6, -0.2), title=title)
    ax.set_axis_off()
    return figure


@styled
def text_order(cosines: Mapping[str, np.ndarray], *, world: str = "") -> Figure:
    """Cosines (K, K) of each set's texts, as a map and against how many grades apart they are. Notebook: 02."""
    shown = {name: np.asarray(matrix, float) for name, matrix in cosines.items()}
    low = min(matrix.min() for matrix in shown.values())
    figure, axes = new_picture(2.05 * len(shown) + 0.6, 4.3, 2, len(shown), caption=world)
    for (above, below), (name, matrix) in zip(axes.T, shown.items(), strict=True):
        K = len(matrix)
        above.imshow(matrix, cmap="cividis", vmin=low, vmax=1)
        above.grid(False)
        above.set(xticks=range(K), yticks=range(K), xlabel="KL grade")
        above.set_title(name)
        i, j = np.triu_indices(K, 1)
        apart, values = j - i, matrix[i, j]
        below.plot(apart, values, "o", color=INK, markersize=4, alpha=0.7)
        steps = np.unique(apart)
        below.plot(steps, [values[apart == step].mean() for step in steps], color="#d55e00", linestyle="--")
        below.set(xlabel="grades apart", xticks=steps, ylim=(min(low, 0) - 0.08, 1.08))
    axes[0, 0].set_ylabel("KL grade")
    axes[1, 0].set_ylabel("cosine of two texts")
    figure.colorbar(axes[0, -1].get_images()[0], ax=list(axes[0]), label="cosine", shrink=0.9).ax.tick_params(
        labelsize=8.5
    )
    return figure


@styled
def negation(cosines: Mapping[str, Mapping[str, float]], counts: Mapping[str, Sequence], *, world: str = "") -> Figure:
    """How near a denied finding stays to the finding, and what that does to the grades given. Notebook: 02.

    Parameters
    ----------
    cosines : mapping
        Finding -> how it is denied -> the cosine of that text with the one that affirms the finding.
    counts : mapping
        Whose grades -> (K,) counts of knees.
    """
    figure, axes = new_picture(9.2, 3.2, 1, 2, caption=world, width_ratios=(1, 1.1))
    left, right = axes[0]
    marks = ("o", "s", "^", "D")
    for y, row in enumerate(cosines.values()):
        left.plot([min(row.values()), max(row.values())], [y, y], color="#cccccc", linewidth=2, zorder=1)
        for (way, value), mark in zip(row.items(), marks, strict=False):
            filled = INK if mark == "o" else "white"
            left.plot([value], [y], mark, color=INK, markerfacecolor=filled, markersize=7, label=None if y else way)
    left.set_yticks(range(len(cosines)), [f"“… {name}”" for name in cosines])
    left.set(xlabel="cosine with the text that affirms it", ylim=(len(cosines) - 0.5, -0.5), xlim=(None, 1.04))
    left.grid(False, axis="y")
    left.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, handletextpad=0.3, borderaxespad=0.2)
    wide, grades = 0.8 / len(counts), range(len(next(iter(counts.values()))))
    for i, (name, row) in enumerate(counts.items()):
        x = np.array(grades) + (i - (len(counts) - 1) / 2) * wide
        face, hatch = (("#333333", ""), ("#bbbbbb", "////"), ("white", "...."), ("#888888", "xx"))[i % 4]
        right.bar(x, row, wide, label=name, facecolor=face, hatch=hatch, edgecolor=INK, linewidth=0.6)
    n = {int(np.sum(row)) for row in counts.values()}
    right.set(xlabel="KL grade", ylabel=f"images (n = {max(n):,})", xticks=grades)
    right.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)
    right.grid(False, axis="x")
    return figure


@styled
def standings(rows: Sequence[tuple], *, boards: tuple[str, str], world: str = "") -> Figure:
    """Two boards of the same names side by side, joined by lines, with their intervals. Notebook: 02.

    Parameters
    ----------
    rows : sequence of (name, first, second)
        Each of the two a (value, low, high).
    boards : (str, str)
        What the boards were scored on.
    """
    figure, axes = new_picture(6.4, 3.6, caption=world)
    ax, dashes = axes[0, 0], ("-", "--", ":", "-.", (0, (6, 2)))
    for i, (_, *both) in enumerate(rows):
        shift = 0.03 * (i - (len(rows) - 1) / 2)
        values = [value for value, _, _ in both]
        ax.plot([shift, 1 + shift], values, color=INK, linestyle=dashes[i % 5], linewidth=1.2, zorder=2)
        for x, (value, low, high) in enumerate(both):
            ax.plot([x + shift] * 2, [low, high], color=FAINT, linewidth=1, zorder=1)
            ax.plot([x + shift], [value], "o", color=INK, markersize=5, zorder=3)
    for x, side in ((0, "right"), (1, "left")):
        order = sorted(rows, key=lambda row: -row[1 + x][0])
        heights = _spread([row[1 + x][0] for row in order], 0.055 * _span(rows))
        for place, (row, y) in enumerate(zip(order, heights, strict=True), 1):
            text = f"{place}. {row[0]} {row[1 + x][0]:.3f}".replace("$", r"\$")
            ax.text(x + (0.12 if x else -0.12), y, text, ha=side, va="center", fontsize=8.5)
    ax.set(xlim=(-0.75, 1.75), ylabel="QWK and its 95 % interval", xticks=[0, 1])
    ax.set_xticks([0, 1], boards)
    ax.grid(False, axis="x")
    return figure


def _span(rows) -> float:
    ends = [end for _, *both in rows for _, low, high in both for end in (low, high)]
    return max(ends) - min(ends)


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Heights in falling order, moved down where the one above would be written over."""
    out: list[float] = []
    for y in heights:
        out.append(min(y, out[-1] - gap) if out else y)
    lift = np.mean(heights) - np.mean(out)
    return [y + lift for y in out]


@styled
def picked(first, second, *, boards: tuple[str, str], world: str = "") -> Figure:
    """Many contestants (N,) scored twice, and how the winners of the first board do on the second. Notebook: 02."""
    first, second = np.asarray(first, float), np.asarray(second, float)
    won = first == first.max()
    figure, axes = new_picture(5.4, 4.0, caption=world)
    ax = axes[0, 0]
    ax.plot(first, second, "o", color=FAINT, markersize=3, alpha=0.35, label=f"a set (n = {len(first):,})")
    ax.axvline(first.mean(), color=INK, linestyle="--", linewidth=1, label="mean of all")
    ax.axhline(second.mean(), color=INK, linestyle="--", linewidth=1)
    label = f"the best on the first board ({won.sum()})"
    ax.plot(first[won], second[won], "*", color="#d55e00", markersize=11, markeredgecolor=INK, label=label)
    ax.set(xlabel=f"QWK on {boards[0]}", ylabel=f"QWK on {boards[1]}")
    ax.xaxis.set_major_locator(MaxNLocator(5))
    ax.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, handletextpad=0.3, columnspacing=1, borderaxespad=0.2)
    return figure
