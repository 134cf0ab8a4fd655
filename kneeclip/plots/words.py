"""Figures of notebook 02: what the cosines say."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from kneeclip.canvas import new_picture, styled, write_values


@styled
def similarity_map(matrix, labels, *, columns=None, title: str = "", world: str = "") -> Figure:
    """Cosines (R, C) as a heat map with their values. Notebook: 02.

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
    ax.set_xticks(range(cols), columns, **(dict(rotation=35, ha="right", rotation_mode="anchor") if slanted else {}))
    ax.set_yticks(range(rows), list(labels))
    ax.set_title(title)
    scale = figure.colorbar(mesh, ax=ax, label="cosine similarity", shrink=0.9)
    scale.ax.tick_params(labelsize=8.5)
    return figure
