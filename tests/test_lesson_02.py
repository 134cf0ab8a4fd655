"""Notebook 02: its exercises accept what is right and name the typical mistakes."""

import pytest

from kneeclip.checks import check

SOLUTIONS = [
    ("02", ["no osteophyte", "a doubtful osteophyte", "a definite osteophyte", "narrowing as well", "bone on bone"]),
]
MISTAKES = [
    ("02", ["a", "b", "c", "d", "knee pain"], "pain"),
    ("02", ["a", "b", "c", "d"], "this one has 4"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True
