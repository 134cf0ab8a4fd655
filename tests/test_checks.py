"""Quizzes and exercises: each choice has its reason, each wrong one its misconception, stubs run through.

What the exercises accept and refuse is tested lesson by lesson (test_lesson_0N.py) and by the solution notebooks.
"""

import json
import re
from pathlib import Path

import pytest

from kneeclip.checks import EXERCISES, QUESTIONS, check, quiz
from kneeclip.errors import KneeError

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("0*.ipynb"))
TEXT = {path.stem[:2]: path.read_text(encoding="utf-8") for path in NOTEBOOKS}


@pytest.mark.parametrize("question", QUESTIONS)
def test_every_choice_is_answered_with_a_reason(question, capsys):
    asked = QUESTIONS[question]
    assert asked.right in asked.reasons and len(asked.reasons) >= 3
    assert set(asked.misconceptions) == set(asked.reasons) - {asked.right} and set(asked.choices) == set(asked.reasons)
    assert all(text.strip() for text in (*asked.reasons.values(), *asked.misconceptions.values()))
    for letter, reason in asked.reasons.items():
        quiz(question, letter.upper())
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 95 and "`" not in "".join(lines)  # printed: Markdown would stay as it is
        verdict = "Right" if letter == asked.right else "Not quite"
        told = f"{verdict}: ({letter}) {asked.choices[letter]}. {reason}".replace("`", "")
        assert " ".join(lines) == told  # the choice too: a page of solutions shows no question
    quiz(question)
    assert capsys.readouterr().out == ""
    with pytest.raises(KneeError, match="none of the choices"):
        quiz(question, "z")


def test_choices_are_those_of_the_page():
    for path in NOTEBOOKS:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        text = " ".join(" ".join("".join(cell["source"]) for cell in cells).replace("*", "").split())
        for question, asked in QUESTIONS.items():
            if path.stem.startswith(question[:2]):
                assert all(f"({letter}) {choice}" in text for letter, choice in asked.choices.items()), question


def test_right_answers_are_not_always_the_same_letter():
    letters = [asked.right for asked in QUESTIONS.values()]
    assert max(letters.count(letter) for letter in "abc") < 0.5 * len(letters)


def test_two_to_four_questions_a_notebook_each_in_its_place_with_an_empty_answer():
    for number, text in TEXT.items():
        own = [question for question in QUESTIONS if question.startswith(number)]
        assert 2 <= len(own) <= 4
        assert re.findall(r'kc\.quiz\(\\"([^"\\]+)\\", \\"\\"\)', text) == own, "numbered as they stand on the page"
        assert re.findall(r"Predict, then run \(([\d-]+)\)", text) == own


def test_a_core_and_an_extra_exercise_a_notebook():
    assert list(EXERCISES) == [name for number in TEXT for name in (number, f"{number}-extra")]
    for name in EXERCISES:
        assert f'kc.check(\\"{name}\\"' in TEXT[name[:2]]


@pytest.mark.parametrize("exercise", EXERCISES)
def test_a_stub_is_open(exercise, capsys):
    stub = ["", "", "", "", ""] if exercise == "02" else lambda *_, **__: ...
    assert check(exercise, stub) is False
    assert "still open" in capsys.readouterr().out


def test_an_exercise_that_does_not_exist():
    with pytest.raises(KneeError, match="choose one of"):
        check("09", None)


def test_answers_of_another_type_are_told_in_a_sentence(capsys):
    def symmetrise(f):
        return lambda x: ((f(x) + f(x.flip(-1))) / 2).numpy()

    assert check("04-extra", symmetrise)  # right, and an array
    wrongs = {"03": lambda *_: [1, 2], "03-extra": lambda *_: "a half", "05-extra": lambda *_: [[1], [1, 2]]}
    for number, wrong in wrongs.items():
        assert not check(number, wrong)
    assert not check("02", len) and not check("01", lambda *_: [])
    said = capsys.readouterr().out
    assert "function" in said and "returns no number" in said and "Traceback" not in said
    with pytest.raises(KneeError, match="a letter in quotes"):
        quiz("04-2", 2)
