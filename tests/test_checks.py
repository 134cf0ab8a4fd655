"""Quizzes and exercises: each choice has its reason, right answers pass, typical mistakes are named."""

import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from kneeclip.checks import EXERCISES, QUESTIONS, check, quiz
from kneeclip.errors import KneeError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("0*.ipynb"))


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_choice_is_answered_with_a_reason(question, capsys):
    right, reasons = QUESTIONS[question]
    assert right in reasons and len(reasons) >= 3
    for letter, reason in reasons.items():
        quiz(question, letter.upper())
        said = capsys.readouterr().out
        assert said.startswith("Right." if letter == right else "Not quite.") and reason in said
    quiz(question)
    assert capsys.readouterr().out == ""
    with pytest.raises(KneeError, match="none of the choices"):
        quiz(question, "z")


def test_right_answers_are_not_always_the_same_letter():
    letters = [right for right, _ in QUESTIONS.values()]
    assert max(letters.count(letter) for letter in "abc") < 0.6 * len(letters)


def test_every_question_stands_in_its_notebook_with_an_empty_answer():
    text = {path.stem[:2]: path.read_text(encoding="utf-8") for path in NOTEBOOKS}
    for question in QUESTIONS:
        assert re.search(rf'kc\.quiz\(\\"{question}\\", \\"\\"\)', text[question[:2]]), question


def rule(r, o, severe):
    if r >= 0.67 and o >= 2 and severe:
        return 4
    if o >= 1:
        return 3 if r >= 0.33 else 2
    return 1 if o >= 0.5 or r >= 0.15 else 0


def rate(step, total, warmup):
    warm = max(1, round(warmup * total))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


def kappa(confusion):
    n, i = confusion.sum(), np.arange(5)
    w = (i[:, None] - i) ** 2
    return 1 - (w * confusion).sum() / (w * np.outer(confusion.sum(1), confusion.sum(0)) / n).sum()


SOLUTIONS = {
    "01": rule,
    "02": ["no osteophyte", "a doubtful osteophyte", "a definite osteophyte", "narrowing as well", "bone on bone"],
    "03": rate,
    "04": lambda p, q: -(p * q).sqrt().sum(-1).log(),
    "05": kappa,
}
MISTAKES = [
    ("01", lambda r, o, severe: 0, "doubtful"),
    ("01", lambda r, o, severe: min(rule(r, o, severe), 3), "KL4"),
    ("02", ["a", "b", "c", "d", "knee pain"], "pain"),
    ("02", ["a", "b", "c", "d"], "this one has 4"),
    ("03", lambda step, total, warmup: 1.0, "warm-up"),
    ("04", lambda p, q: (p * q).sqrt().sum(-1).log(), "sign"),
    ("04", lambda p, q: (p * q).sqrt().sum(-1), "overlap"),
    ("04", lambda p, q: torch.tensor(1.0), "shape"),
    ("05", lambda c: np.trace(c) / c.sum(), "accuracy"),
]


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_right_answer_passes_and_a_stub_is_open(exercise, capsys):
    assert check(exercise, SOLUTIONS[exercise]) is True
    stub = ["", "", "", "", ""] if exercise == "02" else lambda *_: ...
    assert check(exercise, stub) is False
    assert "still open" in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out
