"""Notebook 01: its exercises accept what is right and name the typical mistakes."""

import pytest

from kneeclip.checks import check


def rule(r, o, severe):
    if r >= 0.67 and o >= 2 and severe:
        return 4
    if o >= 1:
        return 3 if r >= 0.33 else 2
    return 1 if o >= 0.5 or r >= 0.15 else 0


SOLUTIONS = [("01", rule)]
MISTAKES = [
    ("01", lambda r, o, severe: 0, "doubtful"),
    ("01", lambda r, o, severe: min(rule(r, o, severe), 3), "KL4"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True
