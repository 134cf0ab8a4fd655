"""Notebook 05: its exercises accept what is right and name the typical mistakes."""

import numpy as np
import pytest

from kneeclip.checks import check


def kappa(confusion):
    n, i = confusion.sum(), np.arange(5)
    w = (i[:, None] - i) ** 2
    return 1 - (w * confusion).sum() / (w * np.outer(confusion.sum(1), confusion.sum(0)) / n).sum()


SOLUTIONS = [("05", kappa)]
MISTAKES = [("05", lambda c: np.trace(c) / c.sum(), "accuracy")]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True
