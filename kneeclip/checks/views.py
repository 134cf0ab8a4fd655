"""Questions and exercises of notebook 04."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kneeclip.checks.asking import Question, as_numbers, called
from kneeclip.losses import consistency_loss

QUESTIONS = {
    "04-1": Question(
        right="b",
        choices={
            "a": "the same: a KL grade means the same on both sides",
            "b": "lower, but it still tells grades apart: QWK clearly above 0",
            "c": "so low that it tells no grade apart any more: QWK about 0",
        },
        reasons={
            "a": "The grade is defined alike for both sides, but the image is not: this model weighs fixed places, and "
            "in a left knee medial and lateral have changed theirs.",
            "b": "To this model a left knee is a mirrored right one, and it has never seen any. Some cues lie on the "
            "midline or on both sides, so it does not fall all the way: accuracy may reach the commonest grade's, but "
            "QWK stays well above 0.",
            "c": "Many left knees can still be told apart: what lies on the midline, or on both sides of it, looks "
            "alike. A QWK of 0 would be somebody who never looks.",
        },
        misconceptions={
            "a": "A label that a flip does not change makes a model that a flip does not change.",
            "c": "A model carries over to a shifted population either fully or not at all.",
        },
    ),
    "04-2": Question(
        right="c",
        choices={
            "a": "always 0",
            "b": "negative for some images",
            "c": "never negative, and 0 exactly when p = p'",
        },
        reasons={
            "a": "It is 0 only where both views agree.",
            "b": "It can't: Σ√(p p′) is at most 1 (Cauchy–Schwarz), so minus its logarithm is at least 0.",
            "c": "It is the Bhattacharyya distance of p and p′: at least 0, and 0 exactly when they are equal.",
        },
        misconceptions={
            "a": "The mean of two losses is the loss of the mean.",
            "b": "Averaging helps on some images and harms on others, as it does for a mean of guesses.",
        },
    ),
    "04-3": Question(
        right="a",
        choices={
            "a": "0",
            "b": "log 5",
            "c": "infinite",
        },
        reasons={
            "a": "Both views get the same five probabilities, so their distance is 0, and every knee is graded alike.",
            "b": "log 5 is its cross-entropy. The Consistency Loss never looks at the grade.",
            "c": "The forms are bounded or finite for finite logits; here the two predictions are simply equal.",
        },
        misconceptions={
            "b": "Every loss compares a prediction with the truth.",
            "c": "A useless prediction must have a bad value of every loss.",
        },
    ),
    "04-4": Question(
        right="b",
        choices={
            "a": "random flips in training, long enough",
            "b": "averaging the logits of both views at test time",
            "c": "a large weight of the Consistency Loss",
        },
        reasons={
            "a": "A linear model gets there if every flip is in its data, as section 1 showed. A network that tosses "
            "coins only comes near: nothing forces f(x) = f(flip x) on a knee that it has not seen.",
            "b": "Swapping the two views swaps the two terms of a sum. It holds for any weights, trained or not, and "
            "says nothing about accuracy.",
            "c": "A penalty is traded against the rest of the loss; a finite weight leaves a remainder on new knees.",
        },
        misconceptions={
            "a": "Augmentation builds a symmetry into the model.",
            "c": "What a loss punishes is impossible after training.",
        },
    ),
}


def bhattacharyya(distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> str | None:
    generator = torch.Generator().manual_seed(0)
    z, z_flip = torch.randn(2, 4, 5, generator=generator)
    p, q = z.softmax(-1), z_flip.softmax(-1)
    given = as_numbers(called(distance, p, q))
    expected = consistency_loss(z, z_flip, form="bhattacharyya", reduction="none")
    if given.shape != (4,):
        return f"give one distance for each of the 4 images, not a tensor of shape {tuple(given.shape)}."
    if torch.allclose(given, -expected, atol=1e-5):
        return "the sign is turned: a distance is not negative."
    if torch.allclose(given, torch.exp(-expected), atol=1e-5):
        return "that is the overlap Σ√(p p′); the distance is minus its logarithm."
    if not torch.allclose(given, expected, atol=1e-5):
        i = int((given - expected).abs().nan_to_num(torch.inf).argmax())
        return f"for image {i} the distance is {expected[i]:.4f}, and yours is {given[i]:.4f}."
    return None


def symmetric(symmetrise: Callable[[Callable], Callable]) -> str | None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(3, 4, 6, generator=generator)
    places = torch.randn(24, 5, generator=generator)

    def f(x: torch.Tensor) -> torch.Tensor:  # weighs every place by itself: no flip leaves it alone
        return x.flatten(1) @ places

    made = called(symmetrise, f)
    if not callable(made):
        return "symmetrise takes a function and returns a function: def g(x): … and then return g."
    given = as_numbers(called(made, images))
    z, z_flip = f(images), f(images.flip(-1))
    if given.shape != z.shape:
        return f"for 3 images f gives logits of shape (3, 5), and yours gives {tuple(given.shape)}."
    if torch.allclose(given, z, atol=1e-5):
        return "that is f itself: a flip still changes its answer."
    if torch.allclose(given, (z + f(images.flip(-2))) / 2, atol=1e-5):
        return "that mirrors top and bottom; left and right are the last axis, x.flip(-1)."
    if torch.allclose(given, z + z_flip, atol=1e-5):
        return "that is the sum: right in its argmax, but twice as sure. Average the two."
    mean = (z.softmax(-1) + z_flip.softmax(-1)) / 2
    if torch.allclose(given, mean, atol=1e-5) or torch.allclose(given, mean.log(), atol=1e-5):
        return "that averages probabilities: invariant too, but the identity speaks of averaged logits."
    if not torch.allclose(given, as_numbers(called(made, images.flip(-1))), atol=1e-5):
        return "a flip still changes its answer."
    if not torch.allclose(given, (z + z_flip) / 2, atol=1e-5):
        return "a flip leaves it alone, but it is not the average of f(x) and f(flip x)."
    return None


EXERCISES = {"04": bhattacharyya, "04-extra": symmetric}
