"""Questions and exercises of notebook 05."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from kneeclip.checks.asking import Question, as_numbers, called
from kneeclip.evaluation import evaluate

QUESTIONS = {
    "05-1": Question(
        right="c",
        choices={
            "a": "about as high as its accuracy",
            "b": "below 0",
            "c": "0",
        },
        reasons={
            "a": "That is its accuracy, which only says how common KL0 is.",
            "b": "Worse than chance would need errors that run against the order; a constant has no order at all.",
            "c": "A constant guess agrees with the truth exactly as often as chance predicts: κ is 0.",
        },
        misconceptions={
            "a": "κ is another name for the share of exact agreement.",
            "b": "A useless grader must have a negative κ.",
        },
    ),
    "05-2": Question(
        right="b",
        choices={
            "a": "accuracy",
            "b": "the ECE, and neither accuracy nor QWK",
            "c": "nothing",
        },
        reasons={
            "a": "Dividing all logits of a row by one number keeps the largest the largest.",
            "b": "The argmax stays, so accuracy and QWK stay; only probabilities move, and with them the ECE.",
            "c": "The ECE compares top probabilities with accuracy, and the top probabilities change.",
        },
        misconceptions={
            "a": "Calibrating a model makes it grade better.",
            "c": "A rule that moves no prediction changes no metric.",
        },
    ),
    "05-3": Question(
        right="a",
        choices={
            "a": "no narrower",
            "b": "about half as wide",
            "c": "no narrower, but the accuracy moves",
        },
        reasons={
            "a": "Copies bring no patient that was not there. Resampling patients sees that; resampling images takes "
            "each row for a fact of its own, and its interval shrinks to about half (1/√4).",
            "b": "That is what resampling *images* gives: it takes four copies of a knee for four facts.",
            "c": "The value can't move: each knee, right or wrong, counts four times. Only the width can be fooled.",
        },
        misconceptions={
            "b": "More rows always mean more evidence.",
            "c": "Repeating the data makes a metric itself better or worse.",
        },
    ),
    "05-4": Question(
        right="b",
        choices={
            "a": "our model's maps",
            "b": "a constant map, the same for every knee, drawn from the regions of other knees",
            "c": "the maps of random weights",
        },
        reasons={
            "a": "It comes close, and one map for all knees comes closer still. On aligned crops the regions lie in "
            "nearly the same place in every image.",
            "b": "On aligned crops the place alone is worth that much, and this map knows nothing of the image: a map "
            "in the right place is no evidence that the model read the image there.",
            "c": "Random weights look almost everywhere: pretraining is visible. It is the constant map that it does "
            "not beat.",
        },
        misconceptions={
            "a": "A heat map that lies on the joint proves that the model read the joint.",
            "c": "Attention maps show the architecture and nothing that was learned.",
        },
    ),
}


def quadratic_kappa(kappa: Callable[[np.ndarray], float]) -> str | None:
    generator = np.random.default_rng(0)
    grades, guesses = generator.integers(0, 5, 200), generator.integers(0, 5, 200)
    guesses[:120] = grades[:120]
    guesses[120:] //= 2  # truth and guess have other shares, so that their sums are not mixed up unseen
    report = evaluate(np.eye(5)[guesses], grades, [str(i) for i in range(200)], n_boot=0)
    O = np.array(report["confusion"])
    E, apart = np.outer(O.sum(1), O.sum(0)) / O.sum(), np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
    typical = {
        report["accuracy"]: "that is the accuracy: weight each error by its squared distance, and compare with chance.",
        1 - (apart * O).sum() / (apart * E).sum(): "your weights grow linearly: square the distance.",
        1
        - ((apart > 0) * O).sum()
        / ((apart > 0) * E).sum(): "your weights treat all errors alike: square the distance.",
        1 - (apart**2 * O).sum() / (apart**2 * E).sum() / O.sum(): "E is n times too large: divide by n.",
        (apart**2 * O).sum() / (apart**2 * E).sum(): "that is the ratio: κ is 1 minus it.",
    }
    given = as_numbers(called(kappa, O.copy()))
    if given.numel() != 1:
        return f"give one number, not a tensor of shape {tuple(given.shape)}."
    given = given.item()
    for value, why in typical.items():
        if math.isclose(given, value, abs_tol=1e-6):
            return why
    if not math.isclose(given, report["qwk"], abs_tol=1e-6):
        return f"for the trial matrix QWK is {report['qwk']:.4f}, and yours is {given:.4f}."
    return None


def patient_resample(resample: Callable[[np.ndarray, np.random.Generator], np.ndarray]) -> str | None:
    patients = np.array(["d", "a", "b", "a", "c", "c", "c", "d", "e", "f"])  # in no order; three, two and one knee
    rows_of = {patient: np.flatnonzero(patients == patient) for patient in patients}
    means, repeated, came = [], False, np.zeros(len(rows_of))
    for seed in range(300):
        given = called(resample, patients, np.random.default_rng(seed))
        try:
            given = np.asarray(given)
        except ValueError:  # a list of lists of different lengths
            return "give whole numbers, one dimension: the indices of the drawn rows."
        if given.dtype == bool or given.dtype.kind not in "iu" or given.ndim != 1:
            return "give whole numbers, one dimension: the indices of the drawn rows."
        if len(given) and (given.min() < 0 or given.max() >= len(patients)):
            return f"an index lies outside the {len(patients)} rows."
        counts = np.bincount(given, minlength=len(patients))
        for patient, rows in rows_of.items():
            if len(set(counts[rows])) > 1:
                return (
                    f"patient {patient} came with some knees and not with others: draw patients, then take all theirs."
                )
        drawn = [int(counts[rows[0]]) for rows in rows_of.values()]
        repeated |= max(drawn) > 1
        came += drawn
        means.append(sum(drawn))
    if not repeated:
        return "no patient ever came twice: draw with replacement, and keep a patient as often as drawn."
    if set(means) != {len(rows_of)}:
        return (
            f"{len(rows_of)} draws give {len(rows_of)} patients, some of them twice or more; yours gave "
            f"{min(means)} to {max(means)}. A patient drawn twice has to appear twice."
        )
    if np.abs(came / 300 - 1).max() > 0.25:
        return "patients with more knees came more often: draw from np.unique(patients), not from the rows."
    return None


EXERCISES = {"05": quadratic_kappa, "05-extra": patient_resample}
