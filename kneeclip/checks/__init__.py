"""Questions and exercises that check themselves, and say why: one file a notebook.

The questions stand in the notebooks, before their answers; here stand the reasons, one for each choice, because every
wrong choice is a misconception of its own. An exercise's checker tries the student's function on small cases.
"""

from __future__ import annotations

import textwrap
from collections.abc import Callable

from kneeclip.checks import adapting, judging, knees, learning, views, words
from kneeclip.checks.asking import Open, Question
from kneeclip.errors import KneeError

WIDTH = 95  # letters in a line of a notebook's output
_NOTEBOOKS = (knees, words, learning, views, judging, adapting)
QUESTIONS: dict[str, Question] = {number: asked for room in _NOTEBOOKS for number, asked in room.QUESTIONS.items()}
EXERCISES: dict[str, Callable] = {number: checker for room in _NOTEBOOKS for number, checker in room.EXERCISES.items()}


def quiz(question: str, answer: str = "") -> None:
    """Say whether an answer is right, and why; an empty answer says nothing.

    Parameters
    ----------
    question : str
        Its number, ``"04-2"``: the second question of notebook 04.
    answer : str
        The letter of a choice.

    Raises
    ------
    KneeError
        For a question that does not exist, or a letter that is no choice.
    """
    if question not in QUESTIONS:
        raise KneeError("there is no question of that number", question, f"choose one of {', '.join(QUESTIONS)}")
    asked = QUESTIONS[question]
    if not isinstance(answer, str):
        remedy = f'answer with a letter in quotes: "{min(asked.reasons)}"'
        raise KneeError("that is none of the choices", repr(answer), remedy)
    letter = answer.strip().lower()
    if not letter:
        return
    if letter not in asked.reasons:
        raise KneeError("that is none of the choices", answer, f"answer {', '.join(asked.reasons)}")
    verdict = "Right" if letter == asked.right else "Not quite"
    said = f"{verdict}: ({letter}) {asked.choices[letter]}. {asked.reasons[letter]}"
    print(textwrap.fill(said.replace("`", ""), WIDTH))  # printed text knows no Markdown, and no page wraps it by words


def check(exercise: str, answer) -> bool:
    """Try an exercise's answer on small cases and say what is right or missing.

    Parameters
    ----------
    exercise : str
        ``"04"`` is the core exercise of notebook 04, ``"04-extra"`` its extra one.
    answer : callable or list
        What the exercise asks for. A stub (that returns None or ...) is told that it is open, and nothing else.

    Returns
    -------
    bool
        Whether the answer holds.
    """
    if exercise not in EXERCISES:
        raise KneeError("there is no exercise of that number", exercise, f"choose one of {', '.join(EXERCISES)}")
    try:
        verdict = EXERCISES[exercise](answer)
    except Open:
        print(f"Exercise {exercise} is still open.")
        return False
    except KneeError as error:
        verdict = str(error)
    print("Right, on every case." if verdict is None else f"Not yet: {verdict}")
    return verdict is None
