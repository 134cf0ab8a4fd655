"""Questions and exercises of notebook 02."""

from __future__ import annotations

import re

from kneeclip.checks.asking import Open, Question
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
            "a": "",
            "c": "",
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
            "a": "",
            "b": "",
        },
    ),
}


def own_prompts(texts) -> str | None:
    if not texts or any(text in ("", ...) for text in texts):
        raise Open
    prompts = as_prompts(texts)
    for k, text in enumerate(prompts.flat):
        unseen = re.findall(r"\b(pain\w*|cartilage|left|right|medial\w*|lateral\w*)\b", text, re.I)
        if unseen:
            return f"KL{k} says “{unseen[0]}”: a radiograph does not show it, or a flip would make it false."
    return None


EXERCISES = {"02": own_prompts}
