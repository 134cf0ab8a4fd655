"""A slider around a plot: plain ipywidgets, redrawn when the mouse is let go.

A page without a kernel shows no slider, so notebooks put a still picture beneath each board.
"""

from __future__ import annotations

from collections.abc import Callable

import ipywidgets
from IPython.display import display
from matplotlib.figure import Figure


def board(draw: Callable[..., Figure], **ranges: tuple[float, float, float, float]) -> ipywidgets.VBox:
    """Sliders above a figure.

    Parameters
    ----------
    draw : callable
        Takes one keyword for each slider and returns a Figure.
    **ranges : (start, lowest, highest, step)
        One slider for each, called by its keyword.

    Returns
    -------
    ipywidgets.VBox
        Show it as the last line of a cell.

    Notes
    -----
    Notebook: 01.
    """
    sliders = {
        name: ipywidgets.FloatSlider(
            value=start,
            min=low,
            max=high,
            step=step,
            description=name.replace("_", " "),
            continuous_update=False,
            readout_format=".2f",
            style={"description_width": "14em"},
            layout={"width": "32em"},
        )
        for name, (start, low, high, step) in ranges.items()
    }
    picture = ipywidgets.interactive_output(lambda **values: display(draw(**values)), sliders)
    return ipywidgets.VBox([*sliders.values(), picture])
