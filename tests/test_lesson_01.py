"""Notebook 01: its exercises accept what is right and name the typical mistakes; readers, the game, the figures."""

import io
import types

import numpy as np
import pytest
from matplotlib.colors import to_hex
from sklearn.metrics import cohen_kappa_score

from kneeclip import plots, widgets
from kneeclip.canvas import GRADE_COLOURS
from kneeclip.checks import check
from kneeclip.errors import KneeError
from kneeclip.reading import agreement, agreement_table


def rule(r, o, severe):
    if r >= 0.67 and o >= 2 and severe:
        return 4
    if o >= 1:
        return 3 if r >= 0.33 else 2
    return 1 if o >= 0.5 or r >= 0.15 else 0


def split_by_patient(patients, share, seed):
    names = np.unique(patients)
    test = np.random.default_rng(seed).choice(names, round(share * len(names)), replace=False)
    return np.isin(patients, test)


def by_chance(patients, share, seed):
    rng = np.random.default_rng(seed)
    side = {name: rng.random() < share for name in sorted(set(patients))}
    return np.array([side[name] for name in patients])


def by_image(patients, share, seed):
    return np.random.default_rng(seed).random(len(patients)) < share


def unsorted_set(patients, share, seed):
    names = list(set(patients))
    test = np.random.default_rng(seed).permutation(len(names))[: round(share * len(names))]
    return np.isin(patients, [names[i] for i in test])


def broken(*_):
    return undefined_name  # noqa: F821


SOLUTIONS = [
    ("01", rule),
    ("01", lambda *given: np.array([rule(*given)])),
    ("01-extra", split_by_patient),
    ("01-extra", by_chance),
    ("01-extra", lambda *given: split_by_patient(*given).tolist()),
]
MISTAKES = [
    ("01", lambda r, o, severe: 0, "doubtful"),
    ("01", lambda r, o, severe: 4, "gave 4, and"),
    ("01", lambda r, o, severe: np.array([0, 1]), "several numbers"),
    ("01", lambda r, o, severe: "KL0", "no number"),
    ("01", lambda r, o, severe: min(rule(r, o, severe), 3), "KL4"),
    ("01", lambda r, o, severe: rule(r, o - 0.01, severe), "not o > 1"),
    ("01", lambda r, o, severe: rule(r - 0.01, o, severe), "not r > .33"),
    ("01", lambda r, o, severe: 4 if r >= 0.67 and o >= 2 else rule(r, o, severe), "stays KL3"),
    ("01", lambda r, o, severe: 4 if r >= 0.67 and severe else rule(r, o, severe), "o ≥ 2"),
    ("01", lambda r, o, severe: max(rule(r, o, severe), 2 * severe), "sclerosis alone"),
    ("01", lambda r, o, severe: rule(r, o, severe) * (o != 0.5), "not o > 0.5"),
    ("01", lambda r, o, severe: rule(r, o, severe) * (r != 0.15), "not r > .15"),
    ("01", lambda r, o, severe: rule(r, o, severe) - (r == 0.67 and o == 2), "≥, not >"),
    ("01", broken, "your function stopped (NameError"),
    ("01", lambda r, o: 0, "your function stopped (TypeError"),
    ("01", rule(0, 0, False), "no function"),
    ("01-extra", by_image, "patients are on both sides"),
    ("01-extra", lambda p, share, seed: np.flatnonzero(split_by_patient(p, share, seed)), "one bool for each"),
    ("01-extra", lambda p, share, seed: ~split_by_patient(p, share, seed), "the sides are swapped"),
    ("01-extra", lambda p, share, seed: split_by_patient(p, share / 2, seed), "asks for a quarter"),
    ("01-extra", lambda p, share, seed: split_by_patient(p, 0.25, seed), "asks for half"),
    ("01-extra", lambda p, share, seed: split_by_patient(p, share, None), "another split the second time"),
    ("01-extra", lambda p, share, seed: split_by_patient(p, share, 0), "every seed"),
    ("01-extra", unsorted_set, "order of a set"),
    ("01-extra", broken, "your function stopped (NameError"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer, capsys):
    assert check(exercise, answer) is True, capsys.readouterr().out


def test_agreement_by_hand_and_against_scikit_learn():
    found = agreement([0, 1, 2, 2], [0, 1, 1, 2])
    assert (found["n"], found["same"]) == (4, 3)
    assert found["kappa_quadratic"] == pytest.approx(0.8)  # 1 - (1/4) / (20/16), worked out in the notebook
    first, second = np.random.default_rng(0).integers(0, 5, (2, 200))
    for weights in ("quadratic", "linear"):
        expected = cohen_kappa_score(first, second, weights=weights)
        assert agreement(first, second)[f"kappa_{weights}"] == pytest.approx(expected)


def test_agreement_counts_grades_and_not_labels():
    # KL0 and KL4 are four grades apart, though no other label lies between them here.
    first, second = [0, 0, 4, 4, 0], [0, 0, 4, 0, 1]
    own = np.mean(np.subtract(first, second) ** 2)
    chance = np.mean(np.subtract.outer(first, second) ** 2)
    assert agreement(first, second)["kappa_quadratic"] == pytest.approx(1 - own / chance)


def test_agreement_of_a_game_that_was_not_finished():
    assert agreement([None, 3, 1], [2, 3, 2])["n"] == 2
    nothing = agreement([None] * 3, [2, 3, 2])
    assert nothing == {"n": 0, "same": 0, "kappa_quadratic": None, "kappa_linear": None}
    assert agreement([2, 2, None], [2, 2, 0])["kappa_quadratic"] is None  # 0 / 0
    with pytest.raises(KneeError, match="3 and 2"):
        agreement([1, 2, 3], [1, 2])
    for odd in (1.7, 7, -1):
        with pytest.raises(KneeError, match="outside 0 to 4"):
            agreement([odd, 2], [1, 2])
    table = agreement_table({"you": [None] * 2, "A": [0, 1], "B": [0, 2]})
    assert "you" not in table and "1 of 2" in table
    assert agreement_table({"you": [1, None], "A": [1, 2]}).splitlines()[1].split() == "you and A 1 of 1 – –".split()


def test_the_game_writes_into_the_list_and_keeps_its_score_to_the_end():
    mine, reader = [None, 2], [1, 2]
    box = widgets.grading_game([np.zeros((8, 8), np.uint8)] * 2, {"A": reader}, mine)
    cards, said = box.children
    choices = [card.children[2] for card in cards.children]
    assert [choice.value for choice in choices] == [None, 2]  # what the list held already
    assert "1 of 2 graded" in said.value and "you" not in said.value
    choices[0].value = 0
    assert mine == [0, 2] and "you and A" in said.value and "1 of 2" in said.value
    assert all(bytes(card.children[1].value).startswith(b"\x89PNG") for card in cards.children)
    with pytest.raises(KneeError, match="A: 2"):
        widgets.grading_game([np.zeros((8, 8), np.uint8)], {"A": reader}, [None])


def test_real_or_phantom_tells_nothing_before_the_last_guess_and_then_the_truth():
    from PIL import Image

    class Split(list):
        """Rows as `load_knees` gives them; flat grey stands for a real film."""

    flat = Split({"image": Image.new("L", (32, 32), 77), "grade": grade} for grade in (0, 1, 2, 3, 4) * 2)
    box = widgets.real_or_phantom(flat, world="real knees", n=6, seed=3)
    cards, said = box.children[0].children, box.children[1]
    pixels = [np.asarray(Image.open(io.BytesIO(bytes(card.children[1].value)))) for card in cards]
    real = [i for i, picture in enumerate(pixels) if (picture == 77).all()]
    assert len(cards) == 6 and len(real) == 3 and "Real are" not in said.value
    for i, card in enumerate(cards):
        assert "Real are" not in said.value
        card.children[2].value = "real" if i in real or i == min(set(range(6)) - set(real)) else "phantom"
    assert "5 of 6 right" in said.value and f"Real are {', '.join(str(i + 1) for i in real)}." in said.value
    assert "KNEECLIP_PRESET=knees" in widgets.real_or_phantom(flat, world="phantom knees").data


def test_real_or_phantom_deals_the_nearest_grade_where_no_phantom_has_the_same(monkeypatch):
    from PIL import Image

    drawn = types.SimpleNamespace(images=np.arange(3, dtype=np.uint8)[:, None, None] * np.ones((32, 32), np.uint8))
    drawn.grades = np.array([0, 2, 3])
    monkeypatch.setattr(widgets, "make_phantoms", lambda *_, **__: drawn)

    worst = [{"image": Image.new("L", (32, 32), 77), "grade": 4} for _ in range(4)]
    cards = widgets.real_or_phantom(worst, world="real knees", n=4).children[0].children
    levels = [int(np.asarray(Image.open(io.BytesIO(bytes(card.children[1].value)))).max()) for card in cards]
    assert sorted(levels) == [2, 2, 77, 77]


def test_labelled_name_each_place_in_the_margin_of_its_half():
    image = np.zeros((50, 100), np.uint8)
    parts = {"one": (0.2, 0.50), "two": (0.3, 0.52), "three": (0.9, 0.99)}
    (ax,) = plots.labelled([image], [parts], ["a knee"]).axes
    named = {text.get_text(): text for text in ax.texts if text.get_text()}
    assert {name: text.xy for name, text in named.items()} == {"one": (20, 25), "two": (30, 26), "three": (90, 49.5)}
    assert named["one"].xyann[0] < 0 and named["two"].xyann[0] < 0 and named["three"].xyann[0] > 100
    assert named["two"].xyann[1] - named["one"].xyann[1] >= 6  # two names never lie on each other


def test_the_spread_of_kappa_is_told_in_its_legend():
    figure = plots.kappa_spread({"n = 10": np.linspace(0, 0.8, 41), "n = 200": [0.8, 0.81]}, seen=0.9)
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert "n = 10: 95 % between 0.02 and 0.78" in texts
    assert texts[-1] == "on this page: 0.90"


def test_ceiling_and_leak_show_what_they_were_given():
    (ax,) = plots.ceiling([0.5, 0.8], {"A": [0.7, 0.9], "B": [0.6, 0.85]}, seen=1).axes
    assert ax.get_lines()[0].get_xydata().tolist() == [[0.5, 0.7], [0.8, 0.9]]
    assert ax.get_lines()[1].get_xydata().ravel().tolist() == [0.8, 0.9]  # the pair that is ringed
    left, right = plots.leak([("x", [0.4, 0.5], [0.3, 0.4], (0.1, 0.02, 0.18))], chance=0.39, n=100).axes
    means = [line.get_xdata()[0] for line in left.get_lines()[1:4:2]]
    assert means == pytest.approx([0.45, 0.35])
    assert [text.get_text() for text in right.texts] == ["+10.0"]
    assert right.get_lines()[0].get_xdata().tolist() == [0.02, 0.18]


def test_a_grid_of_larger_knees_keeps_the_frames():
    figure = plots.knee_grid([np.zeros((8, 8), np.uint8)] * 4, [0, 1, 2, 4], columns=4, side=2.0)
    assert figure.get_size_inches()[0] == 8
    assert [to_hex(ax.spines["top"].get_edgecolor()) for ax in figure.axes] == [GRADE_COLOURS[k] for k in (0, 1, 2, 4)]
