"""What a question is, and how an exercise's checker calls the student's function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A *predict, then run* question; its text and choices stand in the notebook, before the answer."""

    right: str  # the letter of the right choice
    reasons: dict[str, str]  # letter -> what a student who chose it is told
    misconceptions: dict[str, str]  # letter of a wrong choice -> what whoever chooses it believes; for the teacher


class Open(Exception):
    """The stub has not been filled in."""


def called(function: Callable, *args):
    """The student's answer; None or ... means that the stub is still open."""
    value = function(*args)
    if value is None or value is ...:
        raise Open
    return value
