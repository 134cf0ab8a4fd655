"""The figures: they draw without a warning, say what they show, and show what they were given."""

import re
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from PIL import Image

from kneeclip import plots
from kneeclip.canvas import INK
from kneeclip.errors import KneeError
from kneeclip.evaluation import evaluate

RNG = np.random.default_rng(0)
IMAGES = [RNG.integers(40, 200, (40, 40), dtype=np.uint8) for _ in range(7)]
GRADES = RNG.integers(0, 5, 300)
P = RNG.dirichlet(np.ones(5), 300) + 0.8 * np.eye(5)[GRADES]
P /= P.sum(1, keepdims=True)
COUNTS = {"train": [9, 5, 7, 3, 0], "validation": [3, 2, 2, 1, 1]}
COSINES = np.linspace(-0.2, 0.9, 6).reshape(2, 3)
ROWS = [
    {"epoch": e, "step": 10 * (e + 1), "lr": 3e-4 / (e + 1), "total": 2.0 - 0.1 * e, "consistency": 0.1, "seconds": 1.0}
    | {"tune_accuracy": 0.4 + 0.1 * e, "tune_qwk": None if e == 0 else 0.5}
    for e in range(3)
]
CURVES = {"lr 1e-5": [2.0, 1.8, 1.7], "lr 1e-2": [2.0, 3.1, 1.6]}
STEPS = [{"step": s, "epoch": s // 10, "total": 2.2 - 0.02 * s, "consistency": 0.1} for s in range(30)]
MATRIX = [[5, 1, 0, 0, 0], [2, 3, 1, 0, 0], [0, 1, 6, 1, 0], [0, 0, 0, 0, 0], [0, 0, 0, 1, 1234]]
FOREST = [("a", 0.7, 0.6, 0.8), ("b", 0.5, 0.4, 0.55, "#009e73"), ("c", 0.3, None, None)]
ARMS = [
    {"arm": arm, "accuracy": 0.6 + 0.01 * seed, "qwk": 0.8, "ci": {"accuracy": [0.55, 0.66], "qwk": None}}
    for arm in plots.ARM_COLOURS
    for seed in range(2)
]
GROWTH = [
    {"images": n, "seconds": {"decode": n / 500, "train": 1.0}, "bytes": {"pixels": 5e4 * n}} for n in (5000, 2e6)
]
CURVE = {"temperature": [0.5, 1, 2], "accuracy": [0.7] * 3, "ece": [0.2, 0.1, 0.2]}
RANKED = [
    {"name": name, "accuracy": a, "qwk": k, "ci": {"accuracy": [a - 0.1, a + 0.1]}}
    for name, a, k in (("our model", 0.7, 0.8), ("always one off (constructed)", 0.0, 0.6), ("always KL0", 0.4, 0.0))
]
WIDTHS = [("our model", 0.7, (0.65, 0.75), (0.6, 0.8)), ("a constant", 0.0, (0.0, 0.0), (0.0, 0.0))]
PUBLISHED = [("one", 0.7, 0.65, 0.75, "public code"), ("another", 0.6, 0.55, 0.65, "reported")]
MASKS = np.zeros((3, 40, 40), bool)
MASKS[:, 10:20, 5:30] = True
MAPS = RNG.random((3, 40, 40)) + MASKS
SCORED = {"lift": {"value": 4.0, "ci": [3.8, 4.2]}, "auc": {"value": 0.9, "ci": None}, "n": 100, "n_patients": 50}
RUNGS = [
    {"adapt": name, "trained": 10**i, "a": (0.5, 0.4, 0.6), "b": (0.7, 0.6, 0.8), "learnt": 0.5, "kept": 0.7}
    | {"weights": 5e6, "gradients": 1e5 * 10**i, "moments": 2e5 * 10**i, "kept_bytes": 1e7}
    for i, name in enumerate(plots.RUNG_LOOKS)
]
LEDGER = [{**row, "kept": row["kept_bytes"]} for row in RUNGS]
X = np.linspace(0, 4, 9)
TRAINED = [
    {"trained_on": name, "n_train": 1000, "right": 0.5, "left": 0.4, "gap": 0.1, "flip_agreement": agree}
    | {"ci": {"right": [0.48, 0.52], "left": [0.38, 0.42], "gap": [0.08, 0.12], "flip_agreement": [0.5, 0.6]}}
    for name, agree in (("one side", 0.55), ("both", 0.95), ("mirrored", None))
]
WEIGHED = [
    {"trained_on": name, "weight": w, "accuracy": 0.5, "flip_agreement": 0.9}
    | {"ci": {"accuracy": [0.4, 0.6], "flip_agreement": [0.85, 0.95]}}
    for name in ("one side", "both")
    for w in (0, 1, 10)
]
APART = [
    {"arm": arm, "minus": control, "metric": metric, "difference": 0.01, "ci": [-0.01, 0.03]}
    for arm in ("symmetry", "clip_koa")
    for control in ("clip", "flip_aug")
    for metric in ("accuracy", "flip_agreement")
]
SCORE = {"value": 0.5, "ci": [0.4, 0.6], "by_run": [0.45, 0.55]}
METRICS = ("accuracy", "qwk")
LOOKS = {"views": [10, 20], "tune_accuracy": [0.4, 0.5], "tune_qwk": [0.6, 0.7]}
STUDIED = [
    {"label": arm, "arm": arm, "flip_agreement": SCORE | {"ci": None}}
    | dict.fromkeys(("original", "averaged"), {"accuracy": SCORE, "qwk": SCORE})
    for arm in plots.ARM_COLOURS
]
FIGURES = {
    "knee_grid": lambda **kw: plots.knee_grid([*IMAGES[:-1], Image.fromarray(IMAGES[-1])], GRADES[:7], **kw),
    "labelled": lambda **kw: plots.labelled(IMAGES[:2], [{"a": (0.1, 0.4)}, {"b": (1, 1)}], "xy", **kw),
    "kappa_spread": lambda **kw: plots.kappa_spread({"n = 10": X / 4, "n = 200": 0.5 + X / 8}, seen=0.7, **kw),
    "ceiling": lambda **kw: plots.ceiling([0.9, 0.5], {"A": [0.95, 0.7], "B": [0.92, 0.6]}, seen=0, **kw),
    "leak": lambda **kw: plots.leak([("x", [0.4, 0.5], [0.3, 0.4], (0.1, 0.02, 0.2))] * 2, chance=0.39, n=1000, **kw),
    "class_balance": lambda **kw: plots.class_balance(COUNTS, **kw),
    "view_pair": lambda **kw: plots.view_pair(IMAGES[0], IMAGES[0][:, ::-1], P[0], P[1], **kw),
    "similarity_map": lambda **kw: plots.similarity_map(COSINES, "ab", columns=["x", "y", "a longer one"], **kw),
    "history": lambda **kw: plots.history(ROWS, steps=STEPS, **kw),
    "loss_curves": lambda **kw: plots.loss_curves(CURVES, on_top={"ours": [2.0]}, references={"log 5": 1.6}, **kw),
    "scaling": lambda **kw: plots.scaling(GROWTH, **kw),
    "schedule": lambda **kw: plots.schedule([1e-5, 2e-5, 1e-5], CURVES, warm=1, chosen="lr 1e-5", **kw),
    "confusion": lambda **kw: plots.confusion(MATRIX, **kw),
    "reliability": lambda **kw: plots.reliability(P, GRADES, **kw),
    "forest": lambda **kw: plots.forest(FOREST, xlabel="accuracy (n = 300)", reference=0.65, **kw),
    "arms": lambda **kw: plots.arms(ARMS, **kw),
    "scores": lambda **kw: plots.scores(P, GRADES, **kw),
    "plane": lambda **kw: plots.plane([[1, 0], [0.6, 0.8]], [[0.8, 0.6], [0, 1]], scale=10, **kw),
    "preprocessing": lambda **kw: plots.preprocessing(
        IMAGES[0][:30], IMAGES[1][:28, :38], (5, 0, 33, 28), IMAGES[1][:28, 5:33], {"red": (0.48, 0.27)}, **kw
    ),
    "joint_pixels": lambda **kw: plots.joint_pixels([("40 px", IMAGES[0], IMAGES[0] > 190, 8)], **kw),
    "tokens": lambda **kw: plots.tokens([(["a", "$knee$"] * 45, range(90))], title="90 tokens", **kw),
    "text_order": lambda **kw: plots.text_order({"a": np.eye(5), "b": np.ones((5, 5))}, **kw),
    "negation": lambda **kw: plots.negation({"spur": {"no": 0.4, "without": 0.9}}, {"truth": [3, 2, 1, 0, 1]}, **kw),
    "standings": lambda **kw: plots.standings(
        [("$a", (0.7, 0.6, 0.8), (0.6, 0.5, 0.7)), ("b", (0.7, 0.6, 0.8), (0.65, 0.5, 0.7))],
        boards=("tune", "test"),
        **kw,
    ),
    "picked": lambda **kw: plots.picked(P[:, 0], P[:, 1], boards=("tune", "test"), **kw),
    "calibration": lambda **kw: plots.calibration(P, GRADES, CURVE, at=1.5, fitted=0.9, **kw),
    "rankings": lambda **kw: plots.rankings(RANKED, **kw),
    "interval_widths": lambda **kw: plots.interval_widths(WIDTHS, xlabel="accuracy (n = 300)", **kw),
    "published": lambda **kw: plots.published(PUBLISHED, xlabel="accuracy", band=(0.6, 0.7), **kw),
    "relevance_maps": lambda **kw: plots.relevance_maps(IMAGES[:3], MASKS, {"a": MAPS, "b": MAPS[0]}, "xyz", **kw),
    "map_scores": lambda **kw: plots.map_scores([("a map", SCORED), ("another", SCORED)], **kw),
    "interventions": lambda **kw: plots.interventions([("a beak", 2, 0.9, 0.7, 1.1), ("a cyst", 0, 0, 0, 0)], **kw),
    "embedding_map": lambda **kw: plots.embedding_map(P[:, :2], GRADES, P[:5, 1:3], (0.6, 0.2), **kw),
    "own_knee": lambda **kw: plots.own_knee(IMAGES[0], P[0], ["never for diagnosis", "not square"], **kw),
    "ladder": lambda **kw: plots.ladder(RUNGS, {"a": "agrees (n = 300)", "b": "reads (n = 300)"}, **kw),
    "drift": lambda **kw: plots.drift({"resumed": [0, 0, 0], "other": [0, 0, 0.1]}, stopped=2, **kw),
    "memory": lambda **kw: plots.memory({"small": LEDGER, "large": LEDGER}, **kw),
    "learnt_and_kept": lambda **kw: plots.learnt_and_kept([*RUNGS, RUNGS[-1]], labels=("learnt", "kept"), **kw),
    "wise_ft": lambda **kw: plots.wise_ft([0, 0.5, 1], {"a": [(0.5, 0.4, 0.6)] * 3}, chosen=0.5, **kw),
    "identity": lambda **kw: plots.identity(X, 0.3 + X**2, np.full(9, 0.3), X**2, **kw),
    "gradients": lambda **kw: plots.gradients(X, {"js": X, "mse": X**2}, {"js": X / 2, "mse": X}, **kw),
    "view_scatter": lambda **kw: plots.view_scatter({"before": (X, X[::-1]), "after": (X, X)}, **kw),
    "one_sided": lambda **kw: plots.one_sided(TRAINED, majority=0.4, **kw),
    "weights": lambda **kw: plots.weights(WEIGHED, **kw),
    "differences": lambda **kw: plots.differences(APART, **kw),
    "gain": lambda **kw: plots.gain(X / 10, {"2.36 points": np.exp(-X), "39 images": np.where(X < 1, np.nan, X)}, **kw),
    "study_arms": lambda **kw: plots.study_arms(STUDIED, **kw),
    "study_lines": lambda **kw: plots.study_lines(
        {"js": [{"x": x, "accuracy": SCORE, "qwk": SCORE} for x in (1, 10)]}, xlabel="weight", metrics=METRICS, **kw
    ),
    "study_looks": lambda **kw: plots.study_looks([LOOKS | {"arm": a, "label": a} for a in plots.ARM_COLOURS], **kw),
}
#: The one that names two worlds by itself is drawn in test_phantom.py.
ELSEWHERE = {"phantom_comparison"}


def test_no_figure_is_forgotten():
    drawn = {name for name in plots.__all__ if callable(getattr(plots, name))}
    assert drawn == FIGURES.keys() | ELSEWHERE and not FIGURES.keys() & ELSEWHERE


def _texts(figure):
    return [t.get_text() for t in figure.findobj(mpl.text.Text) if t.get_visible() and t.get_text()]


def _line(ax, label):
    (line,) = [line for line in ax.get_lines() if line.get_label() == label]
    return line


def _luminance(colour):
    return np.dot([0.299, 0.587, 0.114], to_rgb(colour))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_names_its_world_and_fits_its_page(name):
    figure = FIGURES[name](world="phantom knees, n = 7")
    assert isinstance(figure, Figure)
    _, shown = figure._repr_png_()  # drawn for good: a missing glyph would warn
    assert shown["alt"].endswith("phantom knees, n = 7.") and "Notebook" not in shown["alt"]
    assert _texts(figure).count("phantom knees, n = 7") == 1
    box, page = figure.get_tightbbox(), figure.bbox_inches
    pixel = 0.01  # a title's box has room for accents that it may not have
    assert box.x0 > 0 and box.y0 > 0 and box.x1 < page.x1 and box.y1 < page.y1 + pixel, "something is cut off"
    assert min(t.get_fontsize() for t in figure.findobj(mpl.text.Text) if t.get_text()) >= 8
    assert not re.search("phantom|real knees|Chen", " ".join(_texts(FIGURES[name]())))  # unless it is told


LABELS = {
    "class_balance": ["KL grade", "share of the split's images"],
    "kappa_spread": ["κ of the two readers, quadratic weights", "share of the draws"],
    "ceiling": ["the two readers give the same grade", "the rule and one reader give the same grade"],
    "leak": ["accuracy (n = 1,000)", "accuracy gained by the leak (points), 95 % interval"],
    "view_pair": ["KL grade", "probability"],
    "similarity_map": ["cosine similarity"],
    "history": ["step", "mean loss (nats)", "on tune, original view", "learning rate"],
    "loss_curves": ["step", "loss of the step (nats)"],
    "scaling": ["images", "seconds", "bytes"],
    "schedule": ["step", "learning rate", "loss of the step (nats)"],
    "confusion": ["predicted KL grade", "true KL grade (its images)", "share of the row"],
    "reliability": ["probability of the predicted grade", "share of images graded right", "images"],
    "forest": ["accuracy (n = 300)"],
    "arms": ["accuracy", "QWK"],
    "scores": ["expected grade (KL grades)", "true grade"],
    "calibration": ["probability of the predicted grade", "share of images graded right", "images"]
    + ["temperature (logits divided by it)", "accuracy, ECE"],
    "rankings": ["accuracy", "QWK"],
    "interval_widths": ["accuracy (n = 300)"],
    "published": ["accuracy"],
    "relevance_maps": ["where signs\ncan appear", "a", "b"],
    "map_scores": ["lift (share of the map ÷ share of the area)", "pixel AUC"],
    "interventions": ["mean change of the grade (KL grades)"],
    "embedding_map": ["first principal axis (60% of the variance)", "second principal axis (20%)"],
    "own_knee": ["probability"],
    "identity": ["how far apart the views' log-odds are", "loss (nats)"],
    "plane": ["first coordinate", "second coordinate", "logit scale", "probability of the nearest prompt"],
    "preprocessing": ["hatched: cut off", "grey level (0 to 255)", "value the tower reads"],
    "text_order": ["KL grade", "grades apart", "cosine of two texts", "cosine"],
    "negation": ["cosine with the text that affirms it", "KL grade", "images (n = 7)"],
    "standings": ["QWK and its 95 % interval"],
    "picked": ["QWK on tune", "QWK on test"],
    "gradients": ["how far apart the views' log-odds are", "loss", "|gradient| in one view's log-odds"],
    "view_scatter": ["expected grade, original view", "expected grade, flipped view"],
    "one_sided": ["accuracy on knees of new patients", "flip agreement"],
    "weights": ["weight of the Consistency Loss", "accuracy", "flip agreement"],
    "differences": ["difference in accuracy (points)", "difference in flip agreement (points)"],
    "gain": ["images that only one of the two models gets right (% of all)", "p-value (exact McNemar)"],
    "study_arms": ["accuracy", "QWK", "flip agreement"],
    "study_lines": ["weight", "accuracy", "QWK"],
    "study_looks": ["views trained on", "accuracy on tune", "QWK on tune"],
    "ladder": ["agrees (n = 300)", "reads (n = 300)"],
    "drift": ["step", "difference in loss (nats)"],
    "memory": ["small (MiB)", "large (MiB)"],
    "learnt_and_kept": ["learnt", "kept"],
    "wise_ft": ["α (0: before fine-tuning, 1: after)", "accuracy, 95 % interval shaded"],
}


@pytest.mark.parametrize("name", LABELS)
def test_axes_are_labelled(name):
    axes = FIGURES[name]().axes
    assert set(LABELS[name]) == {label for ax in axes for label in (ax.get_xlabel(), ax.get_ylabel()) if label}


@pytest.mark.parametrize("name", ["view_pair", "similarity_map", "history", "forest"])
def test_the_users_own_style_neither_leaks_in_nor_is_changed(name):
    def sizes(figure):
        figure.draw_without_rendering()
        return [t.get_fontsize() for t in figure.findobj(mpl.text.Text) if t.get_text()]

    plain = sizes(FIGURES[name](world="w"))
    with mpl.rc_context({"font.size": 20, "axes.titlesize": 30, "xtick.labelsize": 25, "ytick.labelsize": 25}):
        before = dict(mpl.rcParams)
        assert sizes(FIGURES[name](world="w")) == plain
        assert dict(mpl.rcParams) == before


def test_a_notebook_shows_a_figure_without_pyplot():
    figure = FIGURES["forest"]()
    formatters = pytest.importorskip("IPython.core.formatters")
    shown, told = formatters.DisplayFormatter().format(figure)
    assert shown["image/png"].startswith(b"\x89PNG")
    assert told["image/png"]["alt"] == (
        "Estimates with their intervals, one a line. across: accuracy (n = 300); names: a, b, c; "
        "written in it: 0.700 [0.600, 0.800], 0.500 [0.400, 0.550], 0.300."
    )
    code = "import sys, kneeclip.plots, kneeclip.evaluation; print({'matplotlib.pyplot', 'torch'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_figure_keeps_its_words_where_pyplot_has_been_imported(tmp_path):
    nbformat, execute = pytest.importorskip("nbformat"), pytest.importorskip("nbconvert.preprocessors")
    cells = [
        "import matplotlib.pyplot as plt\nplt.figure()",
        "import kneeclip as kc\nkc.plots.confusion([[3, 1], [0, 2]])",
    ]
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    execute.ExecutePreprocessor(timeout=120).preprocess(book, {"metadata": {"path": str(tmp_path)}})
    (shown,) = book.cells[1].outputs
    assert shown.metadata["image/png"]["alt"].startswith("A confusion matrix")


def test_colours_keep_their_order_in_grey_print():
    shades = [_luminance(c) for c in plots.GRADE_COLOURS]
    assert (np.diff(shades) < -0.12).all()
    assert len(set(plots.ARM_COLOURS.values())) == 6


def test_knee_grid():
    figure = FIGURES["knee_grid"](columns=3)
    shown = [ax for ax in figure.axes if ax.axison]
    assert len(figure.axes) == 9 and len(shown) == 7
    for ax, image, grade in zip(shown, IMAGES, GRADES, strict=False):
        assert np.array_equal(ax.get_images()[0].get_array(), image)
        assert ax.get_images()[0].get_clim() == (0, 255)  # or a dark film would be shown as a bright one
        assert to_hex(ax.spines["left"].get_edgecolor()) == plots.GRADE_COLOURS[grade]
        assert ax.get_title(loc="center") == f"KL{grade}"
    titled = plots.knee_grid(IMAGES[:2], titles=["left", "right"])
    assert [ax.get_title() for ax in titled.axes] == ["left", "right"]
    with pytest.raises(KneeError, match="no image"):
        plots.knee_grid([])


def test_class_balance():
    figure = FIGURES["class_balance"]()
    for ax, (split, counts) in zip(figure.axes, COUNTS.items(), strict=True):
        assert [bar.get_height() for bar in ax.patches] == pytest.approx(np.divide(counts, sum(counts)))
        assert [to_hex(bar.get_facecolor()) for bar in ax.patches] == list(plots.GRADE_COLOURS)
        assert [t.get_text() for t in ax.texts] == [str(n) for n in counts]
        assert ax.get_title(loc="left") == f"{split} (n = {sum(counts)})"
    plots.class_balance({"test": [0, 0, 0, 0, 0]}).draw_without_rendering()


def test_view_pair():
    first, second, bars = FIGURES["view_pair"]().axes
    assert np.array_equal(first.get_images()[0].get_array(), second.get_images()[0].get_array()[:, ::-1])
    heights = [bar.get_height() for bar in bars.patches]
    assert heights[:5] == list(P[0]) and heights[5:10] == heights[10:] == list(P[1])
    assert first.get_title().startswith(f"original: KL{P[0].argmax()} ")
    assert second.get_title().startswith(f"flipped: KL{P[1].argmax()} ")


def test_heat_maps_write_readable_numbers():
    ax = FIGURES["similarity_map"]().axes[0]
    framed = [tuple(round(c) for c in patch.get_center()) for patch in ax.patches]
    assert framed == [(2, 0), (2, 1)]  # the largest of each row, which two decimals may not tell
    assert [t.get_text() for t in ax.texts] == ["-0.20", "0.02", "0.24", "0.46", "0.68", "0.90"]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]
    ax = FIGURES["confusion"]().axes[0]
    cells = np.reshape([t.get_text() for t in ax.texts], (5, 5))
    assert cells[1, 0] == "2\n33%" and cells[4, 4] == "1,234\n100%" and cells[3, 3] == "0\n0%"
    assert ax.get_yticklabels()[4].get_text() == "4 (1,235)"
    assert ax.get_title(loc="left") == f"n = 1,255, on the diagonal {1248 / 1255:.1%}"
    for name in ("similarity_map", "confusion"):
        ax = FIGURES[name]().axes[0]
        image = ax.get_images()[0]
        for text in ax.texts:
            j, i = text.get_position()
            ground = image.cmap(image.norm(image.get_array()[i, j]))
            assert abs(_luminance(text.get_color()) - _luminance(ground)) > 0.35


def test_history():
    losses, tuned, rate = FIGURES["history"]().axes
    assert _line(losses, "total").get_xydata().tolist() == [[10, 2.0], [20, 1.9], [30, 1.8]]
    assert len(losses.get_lines()) == 4 and losses.get_lines()[0].get_xdata().tolist() == list(range(1, 31))
    assert _line(tuned, "QWK").get_xydata().tolist() == [[20, 0.5], [30, 0.5]]  # None is left out
    assert rate.get_lines()[0].get_ydata().tolist() == [row["lr"] for row in ROWS]
    *_, planned = plots.history(ROWS, rates=[0.1, 0.2, 0.1]).axes
    assert planned.get_lines()[0].get_xydata().tolist() == [[1, 0.1], [2, 0.2], [3, 0.1]]
    (only,) = plots.history([{"epoch": 0, "total": 2.0}, {"epoch": 1, "total": 1.0}]).axes
    assert only.get_xlabel() == "epoch"
    for rows in ([], [{"step": 1}]):
        with pytest.raises(KneeError, match="nothing to draw"):
            plots.history(rows)


def test_reliability_agrees_with_evaluate():
    above, below = FIGURES["reliability"]().axes
    ece = evaluate(P, GRADES, range(300), n_boot=0)["ece"]
    assert above.get_title(loc="left") == f"ECE {ece:.3f} (n = 300)"
    edges = np.arange(16) / 15
    assert [bar.get_height() for bar in below.patches] == np.histogram(P.max(1), edges)[0].tolist()
    inside = (P.max(1) > 8 / 15) & (P.max(1) <= 9 / 15)
    assert above.patches[8].get_height() == pytest.approx((P.argmax(1) == GRADES)[inside].mean())
    assert above.patches[8].get_x() == pytest.approx(8 / 15)
    _, below = plots.reliability([[14 / 15, 1 / 15], [1, 0]], [0, 0]).axes
    assert [bar.get_height() for bar in below.patches][-2:] == [1, 1]  # an upper edge belongs to its bin


def test_forest():
    (ax,) = FIGURES["forest"]().axes
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b", "c"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # from the top down
    assert [t.get_text() for t in ax.texts] == ["0.700  [0.600, 0.800]", "0.500  [0.400, 0.550]", "0.300"]
    spans = [line.get_xydata().tolist() for line in ax.get_lines()]
    assert spans[:4] == [[[0.6, 0], [0.8, 0]], [[0.7, 0]], [[0.4, 1], [0.55, 1]], [[0.5, 1]]]
    assert to_hex(ax.get_lines()[2].get_color()) == "#009e73"
    assert ax.get_lines()[-1].get_xdata() == [0.65, 0.65]
    with pytest.raises(KneeError, match="no estimate"):
        plots.forest([], xlabel="x")


@pytest.mark.filterwarnings("error")
def test_a_map_without_a_smallest_half_gets_no_contour():
    def drawn(*maps):
        figure = plots.relevance_maps(IMAGES[:1], MASKS[:1], {str(i): plane for i, plane in enumerate(maps)})
        figure.draw_without_rendering()
        return [len(ax.collections) and len(ax.collections[0].levels) for ax in figure.axes][1:]

    even, steps = np.full((40, 40), 1 / 1600), np.full((40, 40), 0.01)
    steps[10:20] = 1.0  # a plateau that holds nearly all
    peaked = steps.copy()
    peaked[12:16] = 3.0  # holds two thirds, and no four fifths
    assert drawn(even, steps, peaked, MAPS[0]) == [0, 0, 1, 2]


def test_forest_of_two_intervals_and_a_reference_of_each_row():
    figure = plots.forest(FOREST, xlabel="x", reference=[0.1, 0.2, 0.3], thin=[(0.2, 0.9), None, (0, 1)], form="+.1f")
    spans = [line.get_xydata().tolist() for line in figure.axes[0].get_lines()]
    assert [[0.2, 0.25], [0.9, 0.25]] in spans and [[0.0, 2.25], [1.0, 2.25]] in spans
    for y, value in enumerate((0.1, 0.2, 0.3)):
        assert [[value, y - 0.5], [value, y + 0.5]] in spans
    assert figure.axes[0].texts[0].get_text() == "+0.7  [+0.6, +0.8]"
    named = plots.forest(FOREST, xlabel="x", reference=0.4, dashed="a constant guess")
    assert named.axes[0].get_title(loc="left") == "dashed: a constant guess"


def test_a_panel_without_canonical_says_why():
    rows = [row | {"arm": "canonical"} for row in APART if row["metric"] == "accuracy" and row["arm"] == "clip_koa"]
    given, missing = plots.differences([*APART, *rows]).axes
    assert not given.texts and [t.get_text() for t in missing.texts] == ["every knee is turned the same way"]


def test_lines_of_a_study_show_its_runs_and_the_model_before_training():
    score = {"value": 0.5, "ci": [0.4, 0.6], "by_run": [0.45, 0.5, 0.55]}
    lines = {"one": [{"x": x, "accuracy": score, "qwk": score} for x in (1, 10)]}
    before = {"accuracy": 0.3, "qwk": 0.2}
    figure = plots.study_lines(lines, xlabel="share", metrics=("accuracy", "qwk"), untouched=before)
    for ax, value in zip(figure.axes, before.values(), strict=True):
        drawn = [line.get_ydata() for line in ax.get_lines()]
        hollow = [line for line in ax.get_lines() if line.get_markerfacecolor() == "white"]
        assert [list(line.get_ydata()) for line in hollow] == [score["by_run"]] * 2
        assert {line.get_marker() for line in hollow} == {"o"} and [value, value] in [list(y) for y in drawn]


def test_dots_of_one_place_name_every_seed():
    rows = [{"adapt": "lora", "learnt": 0.6, "kept": 0.5, "seed": seed} for seed in (0, 2)]
    (ax,) = plots.learnt_and_kept(rows, labels=("learnt", "kept")).axes
    assert [t.get_text() for t in ax.texts] == ["0, 2"]
    (bare,) = plots.learnt_and_kept([rows[0] | {"seed": ""}] * 2, labels=("learnt", "kept")).axes
    assert [t.get_text() for t in bare.texts] == [""]  # no comma between two seeds that nobody gave
    assert ax.texts[0].xy == (0.6, 0.5) and ax.texts[0].get_color() == INK  # inside the marker, and dark on it


def test_arms():
    figure = FIGURES["arms"]()
    assert [ax.get_xlabel() for ax in figure.axes] == ["accuracy", "QWK"]  # nobody gave a flip agreement
    names = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert names == list(plots.ARM_COLOURS)
    for line in figure.axes[0].get_lines():
        y = round(float(line.get_ydata()[0]))
        assert to_hex(line.get_color()) == plots.ARM_COLOURS[names[y]]
    heights = [line.get_ydata()[0] for line in figure.axes[1].get_lines()]
    assert len(heights) == 12 and len(set(heights)) == 12  # two seeds of an arm don't hide each other
    with pytest.raises(KneeError, match="none of accuracy"):
        plots.arms([{"arm": "clip"}])


def test_scores():
    (ax,) = FIGURES["scores"]().axes
    expected = P @ np.arange(5)
    medians = [line.get_xdata()[0] for line in ax.get_lines()[:5]]
    assert medians == pytest.approx([np.median(expected[GRADES == k]) for k in range(5)])
    assert ax.get_yticklabels()[2].get_text() == f"KL2 (n = {(GRADES == 2).sum()})"
    assert to_hex(ax.patches[0].get_facecolor()) == plots.GRADE_COLOURS[0]
    alone = plots.scores(P[GRADES == 0], GRADES[GRADES == 0])  # four grades have no image
    assert len(alone.axes[0].get_lines()) == 2
    alone.draw_without_rendering()


def test_identity():
    (ax,) = FIGURES["identity"]().axes
    sums, averaged, distance = (line.get_ydata() for line in ax.get_lines())
    assert np.allclose(averaged + distance, sums)
    top = ax.collections[0].get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(sums.max())  # the shaded distance reaches from the lower curve to the upper


def test_a_text_that_is_too_long_keeps_its_end_token():
    """As a tokenizer cuts: the first 76 tokens and the last one are read, what stands between is lost."""
    figure = plots.tokens([(["a"] * 90, range(90)), (["b"] * 77, range(77))])
    lost = [patch.get_hatch() is not None for patch in figure.axes[0].patches]
    assert lost == [False] * 76 + [True] * 13 + [False] + [False] * 77
