"""Questions and exercises of notebook 01."""

from __future__ import annotations

from collections.abc import Callable

from kneeclip.checks.asking import Question, called

QUESTIONS = {
    "01-1": Question(
        right="b",
        reasons={
            "a": "The grade has no side: narrowing on the lateral side counts as much as on the medial one.",
            "b": "Medial and lateral swap places, and the rule asks only for the worse compartment.",
            "c": "It can: nothing in the rule mentions a side, so the mirror image has the grade of the image.",
        },
        misconceptions={
            "a": "",
            "c": "",
        },
    ),
    "01-2": Question(
        right="c",
        reasons={
            "a": "Chance alone would give about a quarter with these class shares; trained readers are well above it.",
            "b": "Readers differ by habit, most of all in when an osteophyte is definite; that costs much more.",
            "c": "Published exact agreement lies between 55 and 85 %, and nearly all of the rest is one grade apart.",
        },
        misconceptions={
            "a": "",
            "b": "",
        },
    ),
    "01-3": Question(
        right="a",
        reasons={
            "a": "About half: more than the 28 % that independent knees with these class shares would give.",
            "b": "That is what two independent knees would give: the sum of the squared class shares.",
            "c": "Bones and exposure are alike, but the disease is often further on in one knee.",
        },
        misconceptions={
            "b": "",
            "c": "",
        },
    ),
}


def grading_rule(rule: Callable[[float, float, bool], int]) -> str | None:
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
        given = called(rule, *case)
        if given != grade:
            return f"rule(r={case[0]}, o={case[1]}, severe={case[2]}) gave KL{given}, and {why}."
    return None


EXERCISES = {"01": grading_rule}
