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
        choices={
            "a": "to 0",
            "b": "to about 0.76",
            "c": "to log 5 ≈ 1.61, a flat guess",
        },
        reasons={
            "a": "Training moves the cosines, and they end at 1 and, for five directions, at −1/4 on average.",
            "b": "Five unit vectors can't all have pairwise cosines below −1/4. So the best is 1 with the right prompt "
            "and −1/4 with the others: −log(e / (e + 4e^(−1/4))) ≈ 0.76.",
            "c": "log 5 is the loss of a flat guess; the best cosines do better than flat, and not well.",
        },
        misconceptions={
            "a": "Enough training brings any loss to 0.",
            "c": "Bounded logits mean that nothing can be learnt at all.",
        },
    ),
    "02-2": Question(
        right="c",
        choices={
            "a": "accuracy rises",
            "b": "nothing changes",
            "c": "accuracy stays, confidence grows",
        },
        reasons={
            "a": "Multiplying a row by a positive number keeps its largest entry where it is.",
            "b": "It does change: the same cosines come out of the softmax more confident.",
            "c": "The order in a row stays, so does the argmax; only the confidence grows.",
        },
        misconceptions={
            "a": "A sharper softmax grades better.",
            "b": "A constant factor cancels in a softmax, as an added constant does.",
        },
    ),
    "02-3": Question(
        right="a",
        choices={
            "a": "near 1",
            "b": "near 0",
            "c": "near −1",
        },
        reasons={
            "a": "“without” is in none of the captions that `phantom-clip` learnt from, so it changes the embedding "
            "about as little as an invented word would.",
            "b": "The tower would have to know what “without” does; it was in no caption, and hardly moves the text.",
            "c": "Opposite in meaning is not opposite in direction: nothing in training asks for a cosine of −1.",
        },
        misconceptions={
            "b": "The text tower understands what a sentence means, so a negated finding is another topic.",
            "c": "Cosine similarity measures agreement of meaning, and a contradiction is its negative.",
        },
    ),
    "02-4": Question(
        right="b",
        choices={
            "a": "nothing: all grades shrink alike",
            "b": "grades whose texts disagree get logits nearer to 0",
            "c": "nothing: an average of unit vectors has length 1",
        },
        reasons={
            "a": "They would if all means were equally short; a mean is the shorter, the more its texts disagree.",
            "b": "Texts that agree keep a mean of length 1; the others' mean is shorter, its logits nearer to 0.",
            "c": "A mean of unit vectors has length 1 only if all of them are the same vector.",
        },
        misconceptions={
            "a": "A missing normalisation is a common factor, and an argmax does not see common factors.",
            "c": "The mean of unit vectors is again a unit vector.",
        },
    ),
}


#: What a prompt for a grade does not say, and why.
NOT_IN_A_PROMPT = (
    (r"\b(pain\w*|cartilage)\b", "a radiograph does not show it"),
    (r"\b((left|right)[- ](knee|side|compartment)s?|on the (left|right))\b", "a flip would make it false"),
    (r"\b(medial\w*|lateral\w*)\b", "true or not, the grade asks for no compartment: leave it out"),
)
#: At least one of these stands in a text about a grade.
FINDINGS = (
    r"osteophyt|spur|space|narrow|scleros|bone|deform|arthr|worn|normal|healthy|doubtful|mild|minimal|moderate|severe"
    r"|KL|grade"
)


def own_prompts(texts) -> str | None:
    if texts is None or texts is ... or isinstance(texts, (str, list, tuple)) and not texts:
        raise Open
    if isinstance(texts, (list, tuple)) and any(text is ... or text == "" for text in texts):
        raise Open
    prompts = as_prompts(texts)
    for k, row in enumerate(prompts.texts):
        for text in row:
            for pattern, why in NOT_IN_A_PROMPT:
                if found := re.search(pattern, text, re.I):
                    return f"KL{k} says “{found.group()}”: {why}."
            denied = re.findall(r"\b(without|not|absence|absent|lacks|lacking)\b", text, re.I)
            if denied:
                return f"KL{k} says “{denied[0]}”, which the text tower hardly hears: say what is to be seen instead."
            if not re.search(FINDINGS, text, re.I):
                return f"KL{k} names no finding and no degree (“{text[:40]}”): osteophytes, joint space, sclerosis, …"
            if len(text.split()) > 60:
                return (
                    f"KL{k} has {len(text.split())} words, and the tower reads 77 tokens, about 60 words: shorten it."
                )
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
