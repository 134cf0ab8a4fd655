"""Questions and exercises of notebook 02."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F

from kneeclip.checks.asking import Open, Question, called
from kneeclip.prompts import as_prompts

QUESTIONS = {
    "02-1": Question(
        right="b",
        reasons={
            "a": "Training moves the cosines, and they end at 1 and, for five directions, at −1/4 on average.",
            "b": "The best case is a cosine of 1 with the right prompt and −1/4 with the others: 0.76 nats.",
            "c": "log 5 is the loss of a flat guess; the best cosines do better than flat, and not well.",
        },
        misconceptions={
            "a": "Enough training brings any loss to 0; that the logits are bounded is overlooked.",
            "c": "Bounded logits mean that nothing can be learnt at all.",
        },
    ),
    "02-2": Question(
        right="c",
        reasons={
            "a": "Multiplying a row by a positive number keeps its largest entry where it is.",
            "b": "It does change: the same cosines come out of the softmax more confident.",
            "c": "The order in a row stays, so does the argmax; only the confidence grows.",
        },
        misconceptions={
            "a": "A sharper softmax sees better: confidence is taken for ability.",
            "b": "A constant factor cancels in a softmax, as an added constant does.",
        },
    ),
    "02-3": Question(
        right="a",
        reasons={
            "a": "Nearly all words are shared, and “without” is one that this text tower never learnt to obey.",
            "b": "A cosine near 0 belongs to texts that have nothing in common; these share all words but one.",
            "c": "Opposite in meaning is not opposite in direction: nothing in training asks for a cosine of −1.",
        },
        misconceptions={
            "b": "The text tower understands what a sentence means, so that a denied finding is another topic.",
            "c": "Cosine similarity measures agreement of meaning, and a contradiction is its negative.",
        },
    ),
    "02-4": Question(
        right="b",
        reasons={
            "a": "They would if all means were equally short; a mean is the shorter, the more its texts disagree.",
            "b": "Texts that agree keep a mean of length 1; the others' mean is shorter, and so are its logits.",
            "c": "A mean of unit vectors has length 1 only if all of them are the same vector.",
        },
        misconceptions={
            "a": "A missing normalisation is a common factor, and an argmax does not see common factors.",
            "c": "The mean of unit vectors is again a unit vector.",
        },
    ),
}


def own_prompts(texts) -> str | None:
    if not texts or any(text in ("", ...) for text in texts):
        raise Open
    prompts = as_prompts(texts)
    for k, row in enumerate(prompts.texts):
        for text in row:
            unseen = re.findall(r"\b(pain\w*|cartilage|left|right|medial\w*|lateral\w*)\b", text, re.I)
            if unseen:
                return f"KL{k} says “{unseen[0]}”: a radiograph does not show it, or a flip would make it false."
            denied = re.findall(r"\b(without|not|absence|absent|lacks|lacking)\b", text, re.I)
            if denied:
                return f"KL{k} says “{denied[0]}”, which the text tower hardly hears: say what is to be seen instead."
    return None


def ensemble(average: Callable) -> str | None:
    generator = torch.Generator().manual_seed(0)
    for K, M, D in ((5, 4, 6), (3, 3, 6)):  # with K = M the wrong axis has the right shape
        E = F.normalize(torch.randn(K, M, D, generator=generator) + 0.5, dim=-1)
        given = called(average, E.clone())
        if not isinstance(given, torch.Tensor) or given.shape != (K, D):
            found = tuple(given.shape) if isinstance(given, torch.Tensor) else type(given).__name__
            return f"from a tensor {K, M, D} a tensor {K, D} should come, and it was {found}: average over the M texts."
        if torch.allclose(given, F.normalize(E.mean(1), dim=-1), atol=1e-5):
            continue
        if torch.allclose(given, E.mean(1), atol=1e-5) or torch.allclose(given, E.sum(1), atol=1e-5):
            longest, shortest = given.norm(dim=-1).max(), given.norm(dim=-1).min()
            return f"the rows have lengths from {shortest:.2f} to {longest:.2f}: normalise again after averaging."
        if K == M and torch.allclose(F.normalize(given, dim=-1), F.normalize(E.mean(0), dim=-1), atol=1e-5):
            return "that is the average over the grades: the axis of the M texts is the second, dim=1."
        if torch.allclose(F.normalize(given, dim=-1), F.normalize(E.mean(1), dim=-1), atol=1e-5):
            return "the directions are right, the lengths are not: each row by its own norm, keepdim=True helps."
        return "the directions differ from those of the plain average of a grade's M texts."
    return None


EXERCISES = {"02": own_prompts, "02-extra": ensemble}
