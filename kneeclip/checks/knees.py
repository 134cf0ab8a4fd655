"""Questions and exercises of notebook 01."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kneeclip.checks.asking import Question, as_number, called

QUESTIONS = {
    "01-1": Question(
        right="c",
        choices={
            "a": "in about 3 of 10 knees",
            "b": "in at least 9 of 10",
            "c": "in between, 6 to 8 of 10",
        },
        reasons={
            "a": "Chance alone would give about a quarter with these class shares; trained readers are well above it.",
            "b": "Readers differ by habit, most of all in when an osteophyte is definite; that costs much more.",
            "c": "Published exact agreement lies between 55 and 85 % (readers and films differ: see the data card), "
            "and nearly all of the rest is one grade apart.",
        },
        misconceptions={
            "a": "Disagreement means guessing; a grade so vague would carry no information.",
            "b": "A grade is a fact that a trained eye reads off without error.",
        },
    ),
    "01-2": Question(
        right="b",
        choices={
            "a": "lower, since the loss is now on the lateral side",
            "b": "the same",
            "c": "that can't be told",
        },
        reasons={
            "a": "The loss is still medial: the picture now shows a left knee, whose medial side is on the image's "
            "left. And the rule asks for no side.",
            "b": "In the picture medial and lateral swap places, and the rule asks only for the worse compartment.",
            "c": "It can: nothing in the rule mentions a side, so the mirror image has the grade of the image.",
        },
        misconceptions={
            "a": "The medial side weighs more in the grade, because osteoarthritis is commoner there.",
            "c": "A flipped radiograph is no longer a knee, so no grade belongs to it.",
        },
    ),
    "01-3": Question(
        right="a",
        choices={
            "a": "about half",
            "b": "a bit over a quarter",
            "c": "nearly all",
        },
        reasons={
            "a": "About half: more than the 28 % that independent knees with these class shares would give.",
            "b": "That is what two independent knees would give: the sum of the squared class shares.",
            "c": "Bones and exposure are alike, but the disease is often further on in one knee.",
        },
        misconceptions={
            "b": "A patient's two knees are two independent images.",
            "c": "A patient's two knees are copies of each other; one of them would be enough.",
        },
    ),
    "01-4": Question(
        right="a",
        choices={
            "a": "1-nearest-neighbour",
            "b": "logistic regression: it is the better of the two",
            "c": "both alike, the same knees leak for both",
        },
        reasons={
            "a": "It answers with the grade of the most similar knee that it has seen: where that is the patient's "
            "other knee, half of the time it is also the right grade.",
            "b": "It grades better under both splits, but its few weights are drawn from all knees and remember none.",
            "c": "The other knee lies in train for both, but only who remembers single knees can use it.",
        },
        misconceptions={
            "b": "The better classifier is always the one that profits most from a leak.",
            "c": "A leak lifts every number alike, so comparisons between models stay fair.",
        },
    ),
}


def grading_rule(rule: Callable[[float, float, bool], int]) -> str | None:
    cases = [
        ((0.0, 0.0, False), 0, "no loss of space and no osteophyte is KL0"),
        ((0.0, 0.7, False), 1, "an osteophyte between 0.5 and 1 is doubtful: KL1"),
        ((0.2, 0.0, False), 1, "a loss of .15 to .33 without a definite osteophyte is KL1"),
        ((0.1, 1.2, False), 2, "a definite osteophyte (o ≥ 1) without definite narrowing is KL2"),
        ((0.1, 1.0, False), 2, "o = 1 is definite: o ≥ 1, not o > 1"),
        ((0.5, 1.2, False), 3, "definite narrowing (r ≥ .33) with a definite osteophyte is KL3"),
        ((0.33, 1.2, False), 3, "r = .33 is definite: r ≥ .33, not r > .33"),
        ((0.8, 2.5, True), 4, "r ≥ .67 with o ≥ 2 and severe sclerosis or deformity is KL4"),
        ((0.8, 2.5, False), 3, "without severe sclerosis or deformity it stays KL3"),
        ((0.8, 1.5, True), 3, "KL4 also needs o ≥ 2 (bone on bone aside)"),
        ((0.5, 2.5, True), 3, "KL4 also needs r ≥ .67"),
        ((0.1, 0.0, True), 0, "sclerosis alone makes no grade: it only separates KL4 from KL3"),
        ((0.0, 0.5, False), 1, "o = 0.5 is doubtful: o ≥ 0.5, not o > 0.5"),
        ((0.15, 0.0, False), 1, "r = .15 is possible narrowing: r ≥ .15, not r > .15"),
        ((0.67, 2.0, True), 4, "r = .67 and o = 2 are enough: ≥, not >"),
    ]
    for case, grade, why in cases:
        given = as_number(called(rule, *case))
        if given != grade:
            return f"rule(r={case[0]}, o={case[1]}, severe={case[2]}) gave {given:g}, and {why}."
    return None


class _Salted(str):
    """A patient id whose hash changes with `salt`, as the hash of any str does from one Python process to the next."""

    salt = 0

    def __hash__(self):
        return hash((self.salt, str(self)))


def patient_split(split: Callable[[list[str], float, int], np.ndarray]) -> str | None:
    # Not in order, and one patient in four with a single knee: neighbours in the list are not always a pair.
    rng = np.random.default_rng(0)
    patients = np.array([f"{9000000 + p}" for p in range(200) for _ in range(2 - (p % 4 == 0))])
    patients = rng.permutation(patients).tolist()
    mask = np.asarray(called(split, patients, 0.25, 1))
    if mask.shape != (len(patients),) or mask.dtype != bool:
        got = f"an array of shape {mask.shape} and type {mask.dtype}"
        return f"give one bool for each of the {len(patients)} images, True for the test side; yours is {got}."
    both = set(np.array(patients)[mask]) & set(np.array(patients)[~mask])
    if both:
        return f"{len(both)} of 200 patients are on both sides: draw patients, not images, and then mark their images."
    share = mask.mean()
    if abs(share - 0.75) < 0.06:
        return f"the sides are swapped: True holds {share:.0%} of the images, and share=0.25 asks for a quarter."
    if abs(share - 0.25) > 0.06:
        return f"share=0.25 asks for a quarter of the images on the test side, and {share:.0%} are there."
    if not np.array_equal(mask, np.asarray(called(split, patients, 0.25, 1))):
        return "the same seed gave another split the second time: draw from np.random.default_rng(seed)."
    if all(np.array_equal(mask, np.asarray(called(split, patients, 0.25, seed))) for seed in (2, 3, 4)):
        return "every seed gives the same split: the seed has to reach the random numbers."
    larger = np.mean(called(split, patients, 0.5, 1))
    if abs(larger - 0.5) > 0.1:
        return f"share=0.5 asks for half of the images on the test side, and {larger:.0%} are there."
    return _order_of_a_set(split, patients)


def _order_of_a_set(split: Callable, patients: list[str]) -> str | None:
    masks = []
    for salt in (1, 2, 3):
        _Salted.salt = salt
        masks.append(np.asarray(called(split, [_Salted(p) for p in patients], 0.25, 1)))
    if any(not np.array_equal(masks[0], other) for other in masks[1:]):
        return (
            "your split follows the order of a set, and Python shuffles that order in every new process: "
            "tomorrow's split would be another one. Sort the patients first, or use np.unique."
        )
    return None


EXERCISES = {"01": grading_rule, "01-extra": patient_split}
