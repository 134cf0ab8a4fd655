"""Arrays in, a Figure out: every figure of the notebooks, in one visual language, one file a notebook.

A grade and an arm have the same colour everywhere; the grades run from light to dark, so that they keep their
order in grey print. No function touches pyplot: the last line of a cell shows its figure once, and only once.
"""

from kneeclip.canvas import ARM_COLOURS, GRADE_COLOURS
from kneeclip.plots.judging import confusion, forest, reliability, scores
from kneeclip.plots.knees import class_balance, knee_grid, phantom_comparison, regions
from kneeclip.plots.learning import history
from kneeclip.plots.views import arms, identity, view_pair
from kneeclip.plots.words import similarity_map

__all__ = [
    "ARM_COLOURS",
    "GRADE_COLOURS",
    "arms",
    "class_balance",
    "confusion",
    "forest",
    "history",
    "identity",
    "knee_grid",
    "phantom_comparison",
    "regions",
    "reliability",
    "scores",
    "similarity_map",
    "view_pair",
]
