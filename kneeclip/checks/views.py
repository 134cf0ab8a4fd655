"""Questions and exercises of notebook 04."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kneeclip.checks.asking import Question, called
from kneeclip.losses import consistency_loss

QUESTIONS = {
    "04-1": Question(
        right="c",
        reasons={
            "a": "It is 0 only where both views agree.",
            "b": "It can't: Σ√(p p′) is at most 1 (Cauchy–Schwarz), so minus its logarithm is at least 0.",
            "c": "It is the Bhattacharyya distance of p and p′: at least 0, and 0 exactly when they are equal.",
        },
        misconceptions={
            "a": "",
            "b": "",
        },
    ),
    "04-2": Question(
        right="a",
        reasons={
            "a": "Both views get the same five probabilities, so their distance is 0, and every knee is graded alike.",
            "b": "log 5 is its cross-entropy. The Consistency Loss never looks at the grade.",
            "c": "The forms are bounded or finite for finite logits; here the two predictions are simply equal.",
        },
        misconceptions={
            "b": "",
            "c": "",
        },
    ),
}


def bhattacharyya(distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> str | None:
    generator = torch.Generator().manual_seed(0)
    z, z_flip = torch.randn(2, 4, 5, generator=generator)
    p, q = z.softmax(-1), z_flip.softmax(-1)
    given = torch.as_tensor(called(distance, p, q), dtype=torch.float32)
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


EXERCISES = {"04": bhattacharyya}
