"""What a question is, and how an exercise's checker calls the student's function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from kneeclip.errors import KneeError


@dataclass(frozen=True)
class Question:
    """A *predict, then run* question; it stands in the notebook, before the answer."""

    right: str  # the letter of the right choice
    choices: dict[str, str]  # letter -> the choice, in the notebook's words
    reasons: dict[str, str]  # letter -> what a student who chose it is told
    misconceptions: dict[str, str]  # letter of a wrong choice -> what whoever chooses it believes; for the teacher


class Open(Exception):
    """The stub has not been filled in."""


def called(function: Callable, *args):
    """The student's answer; None or ... means that the stub is still open, and an error in it is told in a sentence."""
    if not callable(function):
        raise KneeError("the answer is no function", f"{type(function).__name__}", "give its name, without brackets")
    try:
        value = function(*args)
    except Exception as fault:
        where = f"{type(fault).__name__}: {fault}"
        raise KneeError("your function stopped", where, "call it yourself in a cell to see the line") from fault
    if value is None or value is ...:
        raise Open
    return value


def as_number(value) -> float:
    """The answer as one number; anything else is told in a sentence."""
    numbers = as_numbers(value)
    if numbers.numel() == 0:
        raise KneeError("your function returns no number", f"shape {tuple(numbers.shape)}", "return one")
    if numbers.numel() != 1:
        raise KneeError("your function returns several numbers", f"shape {tuple(numbers.shape)}", "return one")
    return numbers.item()


def as_numbers(value) -> torch.Tensor:
    """The answer as a float32 tensor of any shape; what holds no numbers is told in a sentence."""
    try:
        return torch.as_tensor(value).detach().to(torch.float32)
    except (TypeError, ValueError, RuntimeError):
        pass
    found = f"{type(value).__name__}"
    raise KneeError("your function returns no number and no tensor", found, "return one tensor, not a tuple or a text")
