"""Questions and exercises that check themselves, and say why.

The questions stand in the notebooks, before their answers; here stand the reasons, one for each choice, because every
wrong choice is a misconception of its own. An exercise's checker tries the student's function on small cases.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
import torch

from kneeclip.errors import KneeError
from kneeclip.evaluation import evaluate
from kneeclip.losses import consistency_loss
from kneeclip.presets import Recipe
from kneeclip.prompts import as_prompts
from kneeclip.training import learning_rate

#: question -> (right choice, {choice: reason})
QUESTIONS: dict[str, tuple[str, dict[str, str]]] = {
    "01-1": (
        "b",
        {
            "a": "The grade has no side: narrowing on the lateral side counts as much as on the medial one.",
            "b": "Medial and lateral swap places, and the rule asks only for the worse compartment.",
            "c": "It can: nothing in the rule mentions a side, so the mirror image has the grade of the image.",
        },
    ),
    "01-2": (
        "c",
        {
            "a": "Chance alone would give about a quarter with these class shares; trained readers are well above it.",
            "b": "Readers differ by habit, most of all in when an osteophyte is definite; that costs much more.",
            "c": "Published exact agreement lies between 55 and 85 %, and nearly all of the rest is one grade apart.",
        },
    ),
    "01-3": (
        "a",
        {
            "a": "About half: more than the 28 % that independent knees with these class shares would give.",
            "b": "That is what two independent knees would give: the sum of the squared class shares.",
            "c": "Bones and exposure are alike, but the disease is often further on in one knee.",
        },
    ),
    "02-1": (
        "b",
        {
            "a": "Training moves the cosines, and they end at 1 and, for five directions, at −1/4 on average.",
            "b": "The best case is a cosine of 1 with the right prompt and −1/4 with the others: 0.76 nats.",
            "c": "log 5 is the loss of a flat guess; the best cosines do better than flat, and not well.",
        },
    ),
    "02-2": (
        "c",
        {
            "a": "Multiplying a row by a positive number keeps its largest entry where it is.",
            "b": "It does change: the same cosines come out of the softmax more confident.",
            "c": "The order in a row stays, so does the argmax; only the confidence grows.",
        },
    ),
    "03-2": (
        "b",
        {
            "a": "Before fine-tuning, yes. But the text tower learns along, and any five texts can become labels.",
            "b": "Fine-tuning can turn any five distinct texts into class labels; the words matter before it, and where"
            " data are few.",
            "c": "Nothing in the nonsense texts says anything about knees, so there is nothing to gain from them.",
        },
    ),
    "03-1": (
        "a",
        {
            "a": "The best of many looks is partly luck, and the luck stays behind: another split tells.",
            "b": "It was chosen because it is high there, so it flatters: the best of many looks is partly luck.",
            "c": "Choosing by the training loss would favour overfitting, and the question would stay open.",
        },
    ),
    "04-2": (
        "a",
        {
            "a": "Both views get the same five probabilities, so their distance is 0, and every knee is graded alike.",
            "b": "log 5 is its cross-entropy. The Consistency Loss never looks at the grade.",
            "c": "The forms are bounded or finite for finite logits; here the two predictions are simply equal.",
        },
    ),
    "04-1": (
        "c",
        {
            "a": "It is 0 only where both views agree.",
            "b": "It can't: Σ√(p p′) is at most 1 (Cauchy–Schwarz), so minus its logarithm is at least 0.",
            "c": "It is the Bhattacharyya distance of p and p′: at least 0, and 0 exactly when they are equal.",
        },
    ),
    "05-1": (
        "c",
        {
            "a": "That is its accuracy, which only says how common KL0 is.",
            "b": "Worse than chance would need errors that run against the order; a constant has no order at all.",
            "c": "A constant guess agrees with the truth exactly as often as chance predicts: κ is 0.",
        },
    ),
    "05-2": (
        "b",
        {
            "a": "Dividing all logits of a row by one number keeps the largest the largest.",
            "b": "The argmax stays, so accuracy and QWK stay; only probabilities move, and with them the ECE.",
            "c": "The ECE compares top probabilities with accuracy, and the top probabilities change.",
        },
    ),
}


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
    right, reasons = QUESTIONS[question]
    letter = answer.strip().lower()
    if not letter:
        return
    if letter not in reasons:
        raise KneeError("that is none of the choices", answer, f"answer {', '.join(reasons)}")
    print(("Right. " if letter == right else "Not quite. ") + reasons[letter])


def check(exercise: str, answer) -> bool:
    """Try an exercise's answer on small cases and say what is right or missing.

    Parameters
    ----------
    exercise : str
        ``"01"`` to ``"05"``: the core exercise of that notebook.
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
    except _Open:
        print(f"Exercise {exercise} is still open.")
        return False
    except KneeError as error:
        verdict = str(error)
    print("Right, on every case." if verdict is None else f"Not yet: {verdict}")
    return verdict is None


class _Open(Exception):
    """The stub has not been filled in."""


def _called(function: Callable, *args):
    value = function(*args)
    if value is None or value is ...:
        raise _Open
    return value


def _grading_rule(rule: Callable[[float, float, bool], int]) -> str | None:
    cases = [
        ((0.0, 0.0, False), 0, "no loss of space and no osteophyte is KL0"),
        ((0.0, 0.7, False), 1, "an osteophyte between 0.5 and 1 is doubtful: KL1"),
        ((0.2, 0.0, False), 1, "a loss of .15 to .33 without a definite osteophyte is KL1"),
        ((0.1, 1.2, False), 2, "a definite osteophyte (o ≥ 1) without definite narrowing is KL2"),
        ((0.5, 1.2, False), 3, "definite narrowing (r ≥ .33) with a definite osteophyte is KL3"),
        ((0.8, 2.5, True), 4, "r ≥ .67 with o ≥ 2 and severe sclerosis or deformity is KL4"),
        ((0.8, 2.5, False), 3, "without severe sclerosis or deformity it stays KL3"),
        ((0.5, 2.5, True), 3, "KL4 also needs r ≥ .67"),
    ]
    for case, grade, why in cases:
        given = _called(rule, *case)
        if given != grade:
            return f"rule(r={case[0]}, o={case[1]}, severe={case[2]}) gave KL{given}, and {why}."
    return None


def _own_prompts(texts) -> str | None:
    if not texts or any(text in ("", ...) for text in texts):
        raise _Open
    prompts = as_prompts(texts)
    for k, text in enumerate(prompts.flat):
        unseen = re.findall(r"\b(pain\w*|cartilage|left|right|medial\w*|lateral\w*)\b", text, re.I)
        if unseen:
            return f"KL{k} says “{unseen[0]}”: a radiograph does not show it, or a flip would make it false."
    return None


def _schedule(rate: Callable[[int, int, float], float]) -> str | None:
    recipe = Recipe(lr=1.0, warmup=0.2)
    for step in (0, 1, 2, 6, 10):
        given, expected = _called(rate, step, 10, 0.2), learning_rate(step, 10, recipe)
        if not math.isclose(given, expected, abs_tol=1e-6):
            part = (
                "the warm-up rises by equal steps to 1"
                if step < 2
                else "after the warm-up comes half a cosine down to 0"
            )
            return f"rate({step}, 10, 0.2) gave {given:.3f} instead of {expected:.3f}: {part}."
    return None


def _bhattacharyya(distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> str | None:
    generator = torch.Generator().manual_seed(0)
    z, z_flip = torch.randn(2, 4, 5, generator=generator)
    p, q = z.softmax(-1), z_flip.softmax(-1)
    given = torch.as_tensor(_called(distance, p, q), dtype=torch.float32)
    expected = consistency_loss(z, z_flip, form="bhattacharyya", reduction="none")
    if given.shape != (4,):
        return f"give one distance for each of the 4 images, not a tensor of shape {tuple(given.shape)}."
    if torch.allclose(given, -expected, atol=1e-5):
        return "the sign is turned: a distance is not negative."
    if torch.allclose(given, torch.exp(-expected), atol=1e-5):
        return "that is the overlap Σ√(p p′); the distance is minus its logarithm."
    if not torch.allclose(given, expected, atol=1e-5):
        return f"for the first image the distance is {expected[0]:.4f}, and yours is {given[0]:.4f}."
    return None


def _qwk(kappa: Callable[[np.ndarray], float]) -> str | None:
    generator = np.random.default_rng(0)
    grades, guesses = generator.integers(0, 5, 200), generator.integers(0, 5, 200)
    guesses[:120] = grades[:120]
    report = evaluate(np.eye(5)[guesses], grades, [str(i) for i in range(200)], n_boot=0)
    given = float(_called(kappa, np.array(report["confusion"])))
    if math.isclose(given, report["accuracy"], abs_tol=1e-6):
        return "that is the accuracy: weight each error by its squared distance, and compare with chance."
    if not math.isclose(given, report["qwk"], abs_tol=1e-6):
        return f"for the trial matrix QWK is {report['qwk']:.4f}, and yours is {given:.4f}."
    return None


EXERCISES = {"01": _grading_rule, "02": _own_prompts, "03": _schedule, "04": _bhattacharyya, "05": _qwk}
