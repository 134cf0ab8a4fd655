"""Figures of notebook 02, first half: unit vectors in the plane, and what the image tower is given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from kneeclip.canvas import FAINT, INK, new_picture, show_knee, styled

_PROMPT = "#d55e00"
_DASHES = ("-", "--", ":", "-.", (0, (6, 2)))
_BEHIND = dict(boxstyle="round,pad=0.15", facecolor="white", edgecolor="none")


@styled
def plane(X, T, *, scale: float | None = None, world: str = "") -> Figure:
    """Images and prompts as unit vectors with their angles and, given a scale, what the softmax makes of them.

    Parameters
    ----------
    X : array (N, 2)
        Unit rows: images. Notebook 02 has two.
    T : array (K, 2)
        Unit rows: prompts.
    scale : float, optional
        A logit scale from 1 to 100: adds the probability of each image's nearest prompt against the scale, and
        marks it here.

    Notes
    -----
    Notebook: 02.
    """
    X, T = np.asarray(X, float), np.asarray(T, float)
    S, panels = X @ T.T, 1 if scale is None else 2
    figure, axes = new_picture(4.2 * panels, 3.7, 1, panels, caption=world)
    ax = axes[0, 0]
    turn = np.linspace(0, np.pi / 2, 90)
    ax.plot(np.cos(turn), np.sin(turn), color=FAINT, linestyle=":", linewidth=1)
    at = {"image": np.degrees(np.arctan2(X[:, 1], X[:, 0])), "prompt": np.degrees(np.arctan2(T[:, 1], T[:, 0]))}
    for rows, name, colour, dash in ((X, "image", INK, "-"), (T, "prompt", _PROMPT, "--")):
        for i, (x, y) in enumerate(rows):
            ax.plot([0, x], [0, y], color=colour, linestyle=dash, linewidth=1.8)
            ax.plot([x], [y], "o" if name == "image" else "s", color=colour, markersize=6)
            ax.annotate(
                f"{name} {i}", (x, y), (7 * x, 7 * y), textcoords="offset points", color=colour, fontsize=8.5,
                ha="left" if x > 0.1 else "center", va="center" if x > 0.1 else "bottom",
            )  # fmt: skip
    vectors = np.radians(np.concatenate([*at.values()]))
    pairs = [(i, j) for i in range(len(X)) for j in range(len(T))]
    pairs.sort(key=lambda pair: abs(at["image"][pair[0]] - at["prompt"][pair[1]]))  # wide angles on the outside
    for r, (i, j) in zip(np.linspace(0.46, 0.82, len(pairs)), pairs, strict=True):
        start, end = at["image"][i], at["prompt"][j]
        turn = np.radians(np.linspace(start, end, 40))
        text = f"{abs(end - start):.0f}°, cos {S[i, j]:.2f}"
        narrow = abs(end - start) < 25  # no room for the words on its arc: at the tips, and the words beyond them
        r = 0.92 if narrow else r
        ax.plot(r * np.cos(turn), r * np.sin(turn), color=FAINT, linewidth=0.9)
        if narrow:
            middle = turn.mean()
            ax.text(1.04 * np.cos(middle), 1.04 * np.sin(middle), text, fontsize=8, ha="left", va="center")
        else:
            free = turn[20:] if (i, j) == pairs[-1] else turn  # of two free places the widest takes the other one
            clear = free[np.abs(free[:, None] - vectors).min(1).argmax()]  # on the arc, farthest from every vector
            ax.text(r * np.cos(clear), r * np.sin(clear), text, fontsize=8, ha="center", va="center", bbox=_BEHIND)
    ax.set(xlim=(-0.16, 1.3), ylim=(-0.1, 1.16), aspect="equal", xlabel="first coordinate", ylabel="second coordinate")
    ax.set_title("Two images and two prompts" if (len(X), len(T)) == (2, 2) else "Unit vectors")
    if scale is not None:
        _sharpened(axes[0, 1], S, scale)
    return figure


def _sharpened(ax, S: np.ndarray, scale: float) -> None:
    scales = np.geomspace(1, 100, 120)

    def nearest(row, by):
        e = np.exp(np.multiply.outer(by, row - row.max()))
        return 1 / e.sum(-1)  # the largest probability

    for i, row in enumerate(S):
        label = f"image {i}: cosines {', '.join(f'{c:.2f}' for c in row)}"
        ax.plot(scales, nearest(row, scales), color=INK, linestyle=_DASHES[i % len(_DASHES)], label=label)
        ax.plot([scale], [nearest(row, scale)], "o", color=INK, markersize=6)
        at = (scale, nearest(row, scale))
        ax.annotate(f"{at[1]:.2f}", at, (6, -10), textcoords="offset points", fontsize=8.5)
    ax.axvline(scale, color=_PROMPT, linestyle="--", linewidth=1.2, zorder=1)
    ax.axhline(1 / S.shape[1], color=FAINT, linestyle=":", linewidth=1.2, zorder=1, label="a flat guess")
    ax.set_xscale("log")
    ax.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    ax.set_xticks([], minor=True)
    ax.set(xlim=(0.9, 130), ylim=(0.28, 1.04), xlabel="logit scale", ylabel="probability of the nearest prompt")
    ax.set_title(f"Softmax at scale {scale:.3g}")
    ax.legend(loc="lower right")


@styled
def preprocessing(film, resized, box, cropped, scalings: Mapping[str, Sequence], *, world: str = "") -> Figure:
    """The steps from a film to the image tower: resize, centre crop, normalise. Notebook: 02.

    Parameters
    ----------
    film, resized, cropped : PIL images or uint8 arrays
    box : (left, top, right, bottom)
        What the crop keeps of `resized`, in pixels.
    scalings : mapping
        Name -> (mean, standard deviation), in shares of white; one line each.
    """
    figure, axes = new_picture(10.2, 2.7, 1, 4, caption=world, width_ratios=(1.35, 1.35, 0.95, 1.6))
    names = ("1 · the film", "2 · resized", "3 · cropped")
    for ax, image, name in zip(axes[0], (film, resized, cropped), names, strict=False):
        show_knee(ax, image)
        height, width = np.asarray(image).shape
        ax.set_title(f"{name}: {width} × {height} px")
        ax.grid(False)
    left, top, right, bottom = box
    height, width = np.asarray(resized).shape
    lost = dict(facecolor="none", edgecolor="#e69f00", hatch="////", linewidth=0)
    for x, wide in ((0, left), (right, width - right)):
        axes[0, 1].add_patch(mpl.patches.Rectangle((x - 0.5, -0.5), wide, height, **lost))
    for y, high in ((0, top), (bottom, height - bottom)):
        axes[0, 1].add_patch(mpl.patches.Rectangle((-0.5, y - 0.5), width, high, **lost))
    axes[0, 1].set_xlabel("hatched: cut off")
    ax, grey = axes[0, 3], np.arange(256)
    for i, (name, (mean, std)) in enumerate(scalings.items()):
        ax.plot(grey, (grey / 255 - mean) / std, color=INK, linestyle=_DASHES[i % len(_DASHES)], label=name)
    ax.set(xlabel="grey level (0 to 255)", ylabel="value the tower reads", xlim=(0, 255))
    ax.set_title("4 · three channels, normalised")
    ax.legend(loc="lower right", labelspacing=0.2, borderaxespad=0.1, handlelength=2.4)
    return figure


@styled
def joint_pixels(views: Sequence[tuple], *, world: str = "") -> Figure:
    """The same joint at several sizes, pixel by pixel, with the edges of the tower's patches. Notebook: 02.

    Parameters
    ----------
    views : sequence of (title, image, mask, patch)
        uint8 (S, S), bool (S, S) of what to outline and to zoom in on, and the side of a patch in pixels.
    """
    figure, axes = new_picture(4.1 * len(views), 3.1, 1, len(views), caption=world)
    for ax, (title, image, mask, patch) in zip(axes[0], views, strict=True):
        size, (rows, columns) = len(image), np.nonzero(mask)
        show_knee(ax, image)
        ax.contour(np.asarray(mask, float), levels=[0.5], colors=_PROMPT, linewidths=1.5)
        for edge in np.arange(0, size + 1, patch) - 0.5:
            ax.axvline(edge, color="white", linewidth=0.8)
            ax.axhline(edge, color="white", linewidth=0.8)
        middle = (rows.min() + rows.max()) / 2
        ax.set_xlim(columns.min() - 0.06 * size, columns.max() + 0.06 * size)
        ax.set_ylim(middle + 0.16 * size, middle - 0.16 * size)
        ax.set_title(title)
    return figure
