"""Notebook 05: its exercises accept what is right and name the typical mistakes; an own X-ray comes with warnings."""

import io
from datetime import UTC, datetime

import numpy as np
import pytest
from PIL import Image

from kneeclip import plots, widgets, xray
from kneeclip.checks import check
from kneeclip.errors import KneeError
from kneeclip.model import predict, preprocess


def weighted(confusion, power):
    i = np.arange(5)
    w = np.abs(i[:, None] - i) ** power if power else (i[:, None] != i)
    return 1 - (w * confusion).sum() / (w * np.outer(confusion.sum(1), confusion.sum(0)) / confusion.sum()).sum()


def kappa(confusion):
    return weighted(confusion, 2)


def resample(patients, rng):
    names = np.unique(patients)
    return np.concatenate([np.flatnonzero(patients == name) for name in rng.choice(names, len(names))])


def _once(patients, rng):
    names = np.unique(patients)
    return np.flatnonzero(np.isin(patients, rng.choice(names, len(names))))


def _without_replacement(patients, rng):
    return np.concatenate([np.flatnonzero(patients == name) for name in rng.permutation(np.unique(patients))])


def _by_row(patients, rng):
    """Patients drawn from the rows: one with three knees comes three times as often, and too many are drawn."""
    return np.concatenate([np.flatnonzero(patients == name) for name in rng.choice(patients, len(patients))])


SOLUTIONS = [("05", kappa), ("05-extra", resample)]


def _by_knees(patients, rng):
    """A patient with three knees is three times as likely to be drawn."""
    drawn = rng.choice(patients, len(np.unique(patients)))
    return np.concatenate([np.flatnonzero(patients == name) for name in drawn])


MISTAKES = [
    ("05", lambda c: np.trace(c) / c.sum(), "accuracy"),
    ("05", lambda c: weighted(c, 1), "linearly"),
    ("05", lambda c: weighted(c, 0), "all errors alike"),
    ("05", lambda c: 1 - kappa(c), "1 minus"),
    ("05", lambda c: 1 - (1 - kappa(c)) / c.sum(), "divide by n"),
    ("05", lambda c: 0.5, "QWK is"),
    ("05", lambda c: (kappa(c), 1), "give one number"),
    ("05", lambda c: "high", "no number"),
    ("05-extra", _by_knees, "more knees came more often"),
    ("05-extra", lambda patients, rng: rng.integers(0, len(patients), len(patients)), "with some knees"),
    ("05-extra", _once, "appear twice|came twice"),
    ("05-extra", _without_replacement, "with replacement"),
    ("05-extra", _by_row, "6 draws"),
    ("05-extra", lambda patients, rng: rng.choice(patients, 6), "indices"),
    ("05-extra", lambda patients, rng: np.isin(patients, rng.choice(patients, 6)), "indices"),
    ("05-extra", lambda patients, rng: resample(patients, rng) + 1, "outside|with some knees"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    said = capsys.readouterr().out
    assert any(one in said for one in word.split("|")), said


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True


def test_a_resample_of_equal_patients_is_accepted_in_any_order():
    assert check("05-extra", lambda patients, rng: rng.permutation(resample(patients, rng)))


def _file(pixels):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


RNG = np.random.default_rng(0)


@pytest.mark.parametrize(
    ("pixels", "word"),
    [
        (RNG.integers(0, 255, (80, 120), dtype=np.uint8), "not square"),
        (RNG.integers(0, 255, (40, 40), dtype=np.uint8), "smaller than"),
        (np.full((90, 90), 128, np.uint8), "uniform"),
        (np.where(np.abs(np.arange(90) - 45) < 25, 60, 200)[None].repeat(90, 0).astype(np.uint8), "negative"),
    ],
)
def test_each_doubt_is_said_after_the_two_that_always_are(pixels, word):
    said = xray.warnings_of(pixels)
    assert tuple(said[:2]) == xray.ALWAYS and "never for diagnosis" in said[0]
    assert sum(word in line for line in said) == 1
    fine = np.where(np.abs(np.arange(90) - 45) < 25, 200, 60)[None].repeat(90, 0).astype(np.uint8)
    assert tuple(xray.warnings_of(fine)) == xray.ALWAYS


def test_an_own_image_is_graded_as_predict_grades_it(tiny, tmp_path):
    model, processor = tiny
    pixels = RNG.integers(0, 255, (70, 70), dtype=np.uint8)
    p, _ = predict(model, processor, [pixels], "names")
    (tmp_path / "knee.png").write_bytes(_file(pixels))
    for given in (pixels, _file(pixels), tmp_path / "knee.png"):
        figure = xray.grade_own(model, processor, "names", given, world="own image")
        image, bars = figure.axes
        assert [bar.get_width() for bar in bars.patches] == pytest.approx(p[0])
        assert np.array_equal(image.get_images()[0].get_array(), preprocess(processor, [pixels])[0])
        assert "never for diagnosis" in figure._suptitle.get_text()
    with pytest.raises(KneeError, match="can't be read"):
        xray.grade_own(model, processor, "names", b"no image")


def test_the_button_grades_an_upload_and_says_what_is_wrong_with_it(tiny, capsys):
    upload, _ = widgets.own_xray(*tiny, "names").children
    files = {"Figure": _file(RNG.integers(0, 255, (70, 70), dtype=np.uint8)), "can't be read": b"no image"}
    for word, content in files.items():
        about = {"name": "a.png", "type": "image/png", "size": len(content), "last_modified": datetime.now(UTC)}
        upload.value = ({**about, "content": memoryview(content)},)
        assert word in capsys.readouterr().out  # without a notebook around it, what is displayed is printed


def test_ranks_follow_the_metric():
    rows = [
        {"name": "a", "accuracy": 0.7, "qwk": 0.2, "mae": 0.9, "ci": {"accuracy": [0.6, 0.8]}},
        {"name": "b", "accuracy": 0.5, "qwk": 0.6, "mae": 0.4},
        {"name": "c", "accuracy": 0.0, "qwk": 0.4, "mae": 0.5},
    ]
    left, between, right = plots.rankings(rows).axes[:3]
    assert [t.get_text() for t in left.get_yticklabels()] == ["a", "b", "c"]
    assert [list(line.get_ydata()) for line in between.get_lines()] == [[0, 2], [1, 0], [2, 1]]
    figure = plots.rankings(rows, ("accuracy", "mae"))
    assert [list(line.get_ydata()) for line in figure.axes[1].get_lines()] == [[0, 2], [1, 0], [2, 1]]  # less is better
    assert figure.axes[2].get_xlabel() == "MAE (KL grades)"


def test_contours_hold_their_share_of_a_map():
    from kneeclip.plots.explaining import _level

    plane = np.array([[8.0, 4.0], [3.0, 1.0]])
    assert _level(plane, 0.5) == 8 and _level(plane, 0.51) == 4 and _level(plane, 0.8) == 3
