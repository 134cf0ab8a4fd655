"""Notebook 04: its exercises accept what is right and name the typical mistakes."""

import pytest
import torch

from kneeclip.checks import check

SOLUTIONS = [("04", lambda p, q: -(p * q).sqrt().sum(-1).log())]
MISTAKES = [
    ("04", lambda p, q: (p * q).sqrt().sum(-1).log(), "sign"),
    ("04", lambda p, q: (p * q).sqrt().sum(-1), "overlap"),
    ("04", lambda p, q: torch.tensor(1.0), "shape"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True
