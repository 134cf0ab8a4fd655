"""Questions and exercises of notebook 03."""

from __future__ import annotations

import math
from collections.abc import Callable

from kneeclip.checks.asking import Question, called
from kneeclip.presets import Recipe
from kneeclip.training import learning_rate

QUESTIONS = {
    "03-1": Question(
        right="a",
        reasons={
            "a": "The best of many looks is partly luck, and the luck stays behind: another split tells.",
            "b": "It was chosen because it is high there, so it flatters: the best of many looks is partly luck.",
            "c": "Choosing by the training loss would favour overfitting, and the question would stay open.",
        },
        misconceptions={
            "b": "",
            "c": "",
        },
    ),
    "03-2": Question(
        right="b",
        reasons={
            "a": "Before fine-tuning, yes. But the text tower learns along, and any five texts can become labels.",
            "b": "Fine-tuning can turn any five distinct texts into class labels; the words matter before it, and where data are few.",
            "c": "Nothing in the nonsense texts says anything about knees, so there is nothing to gain from them.",
        },
        misconceptions={
            "a": "",
            "c": "",
        },
    ),
}


def schedule(rate: Callable[[int, int, float], float]) -> str | None:
    recipe = Recipe(lr=1.0, warmup=0.2)
    for step in (0, 1, 2, 6, 10):
        given, expected = called(rate, step, 10, 0.2), learning_rate(step, 10, recipe)
        if not math.isclose(given, expected, abs_tol=1e-6):
            part = (
                "the warm-up rises by equal steps to 1"
                if step < 2
                else "after the warm-up comes half a cosine down to 0"
            )
            return f"rate({step}, 10, 0.2) gave {given:.3f} instead of {expected:.3f}: {part}."
    return None


EXERCISES = {"03": schedule}
