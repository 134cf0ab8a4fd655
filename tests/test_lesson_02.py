"""Notebook 02: its exercises, the class's codes and leaderboard, the box for prompts, and its figures."""

import base64
import json
import zlib

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from kneeclip import classroom, plots
from kneeclip.checks import check
from kneeclip.errors import KneeError
from kneeclip.evaluation import evaluate
from kneeclip.model import predict
from kneeclip.prompts import PromptSet, get_prompts

FIVE = ["no osteophyte", "a doubtful osteophyte", "a definite osteophyte", "narrowing as well", "bone on bone"]
SOLUTIONS = [
    ("02", FIVE),
    ("02", [*FIVE[:4], "hardly any joint space left"]),
    ("02", [["normal", "KL 0"], "doubtful", "mild", "moderate", "severe"]),
    ("02", PromptSet("own", FIVE)),
    ("02-extra", lambda E: F.normalize(E.mean(1), dim=-1)),
    ("02-extra", lambda E: F.normalize(E.sum(1), dim=-1)),  # a sum points where its average does
]
MISTAKES = [
    ("02", [*FIVE[:4], "severe knee pain"], "pain”: a radiograph does not show it"),
    ("02", FIVE[:4], "this one has 4"),
    ("02", get_prompts("nonsense"), "no finding and no degree"),
    ("02", ["without an osteophyte", *FIVE[1:]], "say what is to be seen"),
    ("02", [["normal", "a spur on the left"], *FIVE[1:]], "KL0 says “on the left”: a flip would make it false"),
    ("02", [*FIVE[:3], "medial narrowing", FIVE[4]], "the grade asks for no compartment"),
    ("02", ["a", "b", "c", "d", "e"], "no finding and no degree"),
    ("02", [*FIVE[:4], "severe " * 80], "shorten it"),
    ("02-extra", lambda E: E.mean(1), "normalise again"),
    ("02-extra", lambda E: E.sum(1), "normalise again"),
    ("02-extra", lambda E: E.mean(0), "average over the M texts"),
    ("02-extra", lambda E: F.normalize(E.mean(0 if E.shape[0] == E.shape[1] else 1), dim=-1), "dim=1"),
    ("02-extra", lambda E: E.mean(1) / E.mean(1).norm(), "each row by its own norm"),
    ("02-extra", lambda E: F.normalize(E[:, 0], dim=-1), "directions differ"),
    ("02-extra", lambda E: E.mean(1).numpy(), "ndarray"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True


@pytest.mark.parametrize("prompts", [FIVE, get_prompts("ensemble"), ["正常", "ñ", "ß", "ελ", "🦴"]])
def test_a_code_brings_back_the_name_and_the_prompts(prompts):
    code = classroom.to_code("  Zoë & <b>Co</b> ", prompts)
    name, back = classroom.from_code(code)
    assert name == back.name == "Zoë & <b>Co</b>"
    assert back.texts == (prompts.texts if isinstance(prompts, PromptSet) else tuple((t,) for t in prompts))
    wrapped = "\n ".join(code[i : i + 20] for i in range(0, len(code), 20)) + "\r\n"
    assert classroom.from_code(wrapped) == (name, back)  # a mail breaks long lines
    assert len(classroom.to_code("Ada", FIVE)) < 150


def packed(content) -> str:
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    return classroom.TAG + base64.urlsafe_b64encode(zlib.compress(raw)).decode().rstrip("=")


def test_every_damaged_letter_is_noticed():
    code = classroom.to_code("Ada", FIVE)
    for i in range(len(classroom.TAG), len(code)):
        other = "A" if code[i] != "A" else "B"
        try:  # the last letter may hold bits that stand for nothing
            assert classroom.from_code(code[:i] + other + code[i + 1 :])[1].texts == classroom.from_code(code)[1].texts
            assert i == len(code) - 1
        except KneeError:
            pass
    for cut in range(len(code)):
        with pytest.raises(KneeError):
            classroom.from_code(code[:cut])


FOREIGN = [
    ("", "no code of this version"),
    ("KC2-abcd", "no code of this version"),
    ("KC1-", "damaged"),
    ("KC1-ü$%&", "damaged"),
    ("KC1-" + "A" * 9000, "too long"),
    (packed(b"x" * 10_000_000), "too long"),
    (packed(b" " * 1_000_000), "unpacks to too much"),
    (packed(b"[" * 20_000), "damaged"),
    (packed(b"\xff\xfe"), "damaged"),
    (packed({"name": "a"}), "damaged"),
    (packed(["a", "abcde"]), "no prompts"),
    (packed(["a", FIVE]), "no prompts"),
    (packed(["a", [[text] * 21 for text in FIVE]]), "no prompts"),
    (packed(["a", [[text] for text in FIVE[:4]]]), "this one has 4"),
    (packed(["a", [[7] for _ in FIVE]]), "is empty"),
    (packed(["a", [[text + "\x1b[31m"] for text in FIVE]]), "can't be shown"),
    (packed(["", [[text] for text in FIVE]]), "needs a name"),
    (packed([["a"], [[text] for text in FIVE]]), "needs a name"),
    (packed(["a\nb", [[text] for text in FIVE]]), "needs a name"),
    (packed(["a" * 41, [[text] for text in FIVE]]), "needs a name"),
]


@pytest.mark.parametrize(("code", "word"), FOREIGN)
def test_what_is_no_code_is_refused_in_a_sentence(code, word):
    with pytest.raises(KneeError, match=word):
        classroom.from_code(code)


def test_what_can_not_be_read_back_gets_no_code():
    for name, prompts in (("", FIVE), ("Ada", FIVE[:4]), ("Ada", [t * 9000 for t in FIVE]), ("Ada", ["a\n", *"bcde"])):
        with pytest.raises(KneeError):
            classroom.to_code(name, prompts)


def test_the_leaderboard_scores_as_evaluate_does_and_sorts(tiny, arrays):
    knees = arrays["train"]
    codes = {name: classroom.to_code(name, name) for name in ("names", "criteria", "nonsense")}
    given = (*tiny, knees["image"], knees["grade"], knees["patient"])
    rows = classroom.leaderboard(codes.values(), *given)
    assert [row["place"] for row in rows] == [1, 2, 3]
    assert [row["qwk"] for row in rows] == sorted((row["qwk"] for row in rows), reverse=True)
    for row in rows:
        p, _ = predict(*tiny, knees["image"], row["name"])
        report = evaluate(p, knees["grade"], knees["patient"])
        assert row["qwk"] == pytest.approx(report["qwk"]) and row["accuracy"] == pytest.approx(report["accuracy"])
        assert [row["low"], row["high"]] == pytest.approx(report["ci"]["qwk"]) and row["n"] == 22
    assert classroom.leaderboard("\n".join(codes.values()), *given) == rows  # pasted as one text


def test_the_leaderboard_tells_namesakes_apart_and_counts_a_code_once(tiny, arrays):
    knees = arrays["tune"]
    codes = [classroom.to_code("Ada", name) for name in ("names", "criteria", "names")]
    rows = classroom.leaderboard(codes, *tiny, knees["image"], knees["grade"], knees["patient"])
    assert sorted(row["name"] for row in rows) == ["Ada", "Ada (2)"]


@pytest.mark.parametrize(
    ("codes", "word"),
    [
        (lambda good: "", "no code to read"),
        (lambda good: [good, "KC1-x"], "code 2 of 2.*damaged"),
        (lambda good: [classroom.to_code("Long", ["a " * 90, *"bcde"])], "prompts of Long.*KL0 has 92 tokens"),
    ],
)
def test_the_leaderboard_says_which_code_is_at_fault(codes, word, tiny, arrays):
    knees = arrays["tune"]
    with pytest.raises(KneeError, match=word):
        good = classroom.to_code("Ada", FIVE)
        classroom.leaderboard(codes(good), *tiny, knees["image"], knees["grade"], knees["patient"])


def test_the_box_hands_five_prompts_over_and_shows_errors_as_a_sentence(capsys):
    widgets = pytest.importorskip("kneeclip.widgets")
    asked = []

    def score(texts):
        asked.append(texts)
        if not all(texts):
            raise KneeError("a prompt is empty")
        return f"QWK of {texts[4]}"

    box = widgets.prompt_box(score)
    *fields, button, _ = box.children
    assert [field.description for field in fields] == ["KL0", "KL1", "KL2", "KL3", "KL4"]
    button.click()
    assert capsys.readouterr().out.endswith("a prompt is empty.\n")
    for field, text in zip(fields, FIVE, strict=True):
        field.value = text
    button.click()
    assert asked == [[""] * 5, FIVE] and capsys.readouterr().out.endswith("QWK of bone on bone\n")


def test_the_plane_shows_cosines_and_the_softmax_at_its_scale():
    X, T = np.array([[1, 0], [0.6, 0.8]]), np.array([[0.8, 0.6], [0, 1]])
    left, right = plots.plane(X, T, scale=10).axes
    said = [t.get_text() for t in left.texts]
    assert [s for s in said if "cos" in s] == ["16°, cos 0.96", "37°, cos 0.80", "37°, cos 0.80", "90°, cos 0.00"]
    p = (10 * torch.tensor(X @ T.T)).softmax(-1).max(-1).values.tolist()
    dots = [line.get_ydata()[0] for line in right.get_lines() if line.get_marker() == "o"]
    assert dots == pytest.approx(p)
    assert right.get_lines()[0].get_xdata()[-1] == pytest.approx(100)


def test_tokens_beyond_the_limit_are_hatched():
    ax = plots.tokens([(["a"] * 80, range(80)), (["b", "$x$"], [1, 2])]).axes[0]
    assert sum(bool(box.get_hatch()) for box in ax.patches) == 3 and len(ax.patches) == 82
    assert ax.texts[-2].get_text() == r"\$x\$"  # a dollar is no formula


def test_preprocessing_hatches_what_the_crop_loses():
    film = np.full((160, 224), 100, np.uint8)
    ax = plots.preprocessing(film, film[:112, :156], (22, 0, 134, 112), film[:112, :112], {"c": (0.5, 0.25)}).axes
    widths = [patch.get_width() for patch in ax[1].patches if patch.get_height() > 0]
    assert sum(widths[:2]) == 156 - 112
    assert ax[3].get_lines()[0].get_ydata()[[0, -1]].tolist() == [-2, 2]


def test_winners_of_one_board_are_marked_on_the_other():
    ax = plots.picked([0.1, 0.5, 0.5], [0.3, 0.2, 0.1], boards=("a", "b")).axes[0]
    (stars,) = [line for line in ax.get_lines() if line.get_marker() == "*"]
    assert stars.get_xydata().tolist() == [[0.5, 0.2], [0.5, 0.1]]
    rows = [("$Ada", (0.9, 0.8, 1.0), (0.5, 0.4, 0.6)), ("Ben", (0.7, 0.6, 0.8), (0.6, 0.5, 0.7))]
    said = [t.get_text() for t in plots.standings(rows, boards=("a", "b")).axes[0].texts]
    assert said == [r"1. \$Ada 0.900", "2. Ben 0.700", "1. Ben 0.600", r"2. \$Ada 0.500"]


def test_text_order_draws_each_pair_by_its_distance():
    matrix = 1 - 0.2 * np.abs(np.subtract.outer(range(5), range(5)))
    axes = plots.text_order({"a": matrix, "b": matrix}).axes
    apart, cosine = axes[2].get_lines()[0].get_data()
    assert len(apart) == 10 and cosine == pytest.approx(1 - 0.2 * np.asarray(apart))


def test_namesakes_of_namesakes_keep_their_places():
    given = (("ann (2)", "names"), ("ann", "criteria"), ("ann", "paper"))
    codes = [classroom.to_code(name, prompts) for name, prompts in given]
    assert list(classroom._entries(codes)) == ["ann (2)", "ann", "ann (3)"]
