"""Notebook 03: its exercises accept what is right and name the typical mistakes."""

import math

import pytest

from kneeclip.checks import check


def rate(step, total, warmup):
    warm = max(1, round(warmup * total))
    return (step + 1) / warm if step < warm else 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))


SOLUTIONS = [("03", rate)]
MISTAKES = [("03", lambda step, total, warmup: 1.0, "warm-up")]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True
