"""Questions and exercises of notebook 05."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kneeclip.checks.asking import Question, called
from kneeclip.evaluation import evaluate

QUESTIONS = {
    "05-1": Question(
        right="c",
        reasons={
            "a": "That is its accuracy, which only says how common KL0 is.",
            "b": "Worse than chance would need errors that run against the order; a constant has no order at all.",
            "c": "A constant guess agrees with the truth exactly as often as chance predicts: κ is 0.",
        },
        misconceptions={
            "a": "",
            "b": "",
        },
    ),
    "05-2": Question(
        right="b",
        reasons={
            "a": "Dividing all logits of a row by one number keeps the largest the largest.",
            "b": "The argmax stays, so accuracy and QWK stay; only probabilities move, and with them the ECE.",
            "c": "The ECE compares top probabilities with accuracy, and the top probabilities change.",
        },
        misconceptions={
            "a": "",
            "c": "",
        },
    ),
}


def quadratic_kappa(kappa: Callable[[np.ndarray], float]) -> str | None:
    generator = np.random.default_rng(0)
    grades, guesses = generator.integers(0, 5, 200), generator.integers(0, 5, 200)
    guesses[:120] = grades[:120]
    report = evaluate(np.eye(5)[guesses], grades, [str(i) for i in range(200)], n_boot=0)
    given = float(called(kappa, np.array(report["confusion"])))
    if math.isclose(given, report["accuracy"], abs_tol=1e-6):
        return "that is the accuracy: weight each error by its squared distance, and compare with chance."
    if not math.isclose(given, report["qwk"], abs_tol=1e-6):
        return f"for the trial matrix QWK is {report['qwk']:.4f}, and yours is {given:.4f}."
    return None


EXERCISES = {"05": quadratic_kappa}
