"""Arrays in, a Figure out: every figure of the notebooks, in one visual language, one file a notebook.

A grade and an arm have the same colour everywhere; the grades run from light to dark, so that they keep their
order in grey print. No function touches pyplot: the last line of a cell shows its figure once, and only once.
"""

from kneeclip.canvas import ARM_COLOURS, GRADE_COLOURS
from kneeclip.plots.ablations import differences, gain, one_sided, weights
from kneeclip.plots.adapting import RUNG_LOOKS, drift, ladder, learnt_and_kept, memory, wise_ft
from kneeclip.plots.comparing import forest, interval_widths, published, rankings
from kneeclip.plots.explaining import embedding_map, interventions, map_scores, own_knee, relevance_maps
from kneeclip.plots.growth import scaling
from kneeclip.plots.judging import calibration, confusion, reliability, scores
from kneeclip.plots.knees import class_balance, knee_grid, labelled, phantom_comparison
from kneeclip.plots.learning import history, loss_curves, schedule
from kneeclip.plots.readers import ceiling, kappa_spread, leak
from kneeclip.plots.studies import study_arms, study_lines, study_looks
from kneeclip.plots.towers import joint_pixels, plane, preprocessing
from kneeclip.plots.views import arms, gradients, identity, view_pair, view_scatter
from kneeclip.plots.words import negation, picked, similarity_map, standings, text_order, tokens

__all__ = [
    "ARM_COLOURS",
    "GRADE_COLOURS",
    "RUNG_LOOKS",
    "arms",
    "calibration",
    "ceiling",
    "class_balance",
    "confusion",
    "differences",
    "drift",
    "embedding_map",
    "forest",
    "gain",
    "gradients",
    "history",
    "identity",
    "interval_widths",
    "interventions",
    "joint_pixels",
    "kappa_spread",
    "knee_grid",
    "labelled",
    "ladder",
    "leak",
    "learnt_and_kept",
    "loss_curves",
    "map_scores",
    "memory",
    "negation",
    "one_sided",
    "own_knee",
    "phantom_comparison",
    "picked",
    "plane",
    "preprocessing",
    "published",
    "rankings",
    "relevance_maps",
    "reliability",
    "scaling",
    "schedule",
    "scores",
    "similarity_map",
    "standings",
    "study_arms",
    "study_lines",
    "study_looks",
    "text_order",
    "tokens",
    "view_pair",
    "view_scatter",
    "weights",
    "wise_ft",
]
