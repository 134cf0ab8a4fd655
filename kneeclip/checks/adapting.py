"""Questions and exercises of notebook 06."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from kneeclip.checks.asking import Question, as_numbers, called

QUESTIONS = {
    "06-1": Question(
        right="c",
        choices={
            "a": "shrinks as much as gradients and moments do",
            "b": "stays the same",
            "c": "shrinks, by far less than gradients and moments",
        },
        reasons={
            "a": "Gradients and moments do fall like that. But to reach an adapter in the first block, the gradient "
            "must come through all blocks above it, and for that their activations are kept.",
            "b": "Gradients with respect to weights fall away, and what only they needed is not kept.",
            "c": "The gradient must still come through every block, so most of what the forward pass made is kept; "
            "only what the frozen weights' own gradients needed falls away.",
        },
        misconceptions={
            "a": "Memory in training is paid per trained weight alone.",
            "b": "A frozen weight saves nothing, since the forward pass runs through it all the same.",
        },
    ),
    "06-2": Question(
        right="b",
        choices={
            "a": "the number of trained parameters: the more, the more is forgotten",
            "b": "not their number alone",
            "c": "nothing: none forgets, as the reader's grades do not contradict it",
        },
        reasons={
            "a": "`full` does forget most. But `last_k`, with thirteen times the probe's parameters, keeps more than "
            "the probe does.",
            "b": "`full` forgets most, but `last_k`, with thirteen times the probe's parameters, keeps more than the "
            "probe: their number alone does not decide. The learning rate may: both train the last projections, the "
            "probe at thirty times the rate of `last_k`.",
            "c": "No task's weights lie apart: all sentences go through the same text tower and the same projection.",
        },
        misconceptions={
            "a": "What is forgotten is in proportion to how many weights changed.",
            "c": "A model forgets only what the new labels contradict.",
        },
    ),
    "06-3": Question(
        right="a",
        choices={
            "a": "above the straight line between its two ends",
            "b": "on that line",
            "c": "far below both ends",
        },
        reasons={
            "a": "Accuracy is no linear function of the weights, so nothing puts it on that line. Here the reader's "
            "lies clearly above: at α = 0.4 it is already where it ends. The other does by less than its interval.",
            "b": "Nothing makes it so: accuracy is no linear function of the weights, and here both lie above it.",
            "c": "So it is for two models trained apart. These share their start, and no hill lies between them.",
        },
        misconceptions={
            "b": "Along the line between two models' weights accuracy changes in proportion.",
            "c": "Averaging two networks' weights always wrecks both.",
        },
    ),
    "06-4": Question(
        right="b",
        choices={
            "a": "the weights",
            "b": "the trained weights, AdamW's moments, the step's number",
            "c": "those, and the state of every random generator",
        },
        reasons={
            "a": "Without its moments AdamW starts as if it had seen no gradient, and its first steps differ.",
            "b": "The order and the augmentation are drawn anew from (seed, epoch, image), so no generator's state is "
            "needed; moments and step are.",
            "c": "That would be right for a loop that draws from one running generator. Here randomness is keyed: the "
            "step's number says all.",
        },
        misconceptions={
            "a": "The weights are the whole state of a training.",
            "c": "Randomness can only be repeated by saving a generator's state.",
        },
    ),
}


def lora_numbers(learn: Callable[[Sequence[tuple[int, int]], int], int]) -> str | None:
    for shapes, rank in (([(5, 3)], 2), ([(8, 4), (6, 5)], 3), ([(768, 768)] * 3 + [(3072, 768)], 8)):
        given = as_numbers(called(learn, list(shapes), rank))
        if given.numel() != 1:
            return f"give one whole number, not {given.numel()} of them."
        given = given.item()
        right = sum(rank * (rows + columns) for rows, columns in shapes)
        if given == right:
            continue
        full = sum(rows * columns for rows, columns in shapes)
        mistakes = {
            full: "that counts the weights themselves, and they are frozen",
            right + full: "that counts the frozen weights too",
            rank * full: "BA has as many numbers as W, but what is trained is B and A",
            sum(rank * rows for rows, _ in shapes): "that is B alone; A is (r, columns) and is trained too",
            sum(rank * columns for _, columns in shapes): "that is A alone; B is (rows, r) and is trained too",
            sum(rows + columns for rows, columns in shapes): "that is rank 1: B has r columns and A has r rows",
            rank * sum(shapes[0]): "add up over all the weights that get adapters",
        }
        why = mistakes.get(given, "B is (rows, r) and A is (r, columns)")
        return f"for weights of shapes {shapes[:4]} and rank {rank} you gave {given:g} instead of {right}: {why}."
    return None


def line(between: Callable[[Mapping, Mapping, float], Mapping]) -> str | None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"a.weight": (2, 3), "a.bias": (2,), "logit_scale": ()}
    base, tuned = ({name: torch.randn(shape, generator=generator) for name, shape in shapes.items()} for _ in "ab")
    kept = {name: value.clone() for name, value in base.items()}
    for alpha in (0.25, 0.0, 1.0):
        given = called(between, base, tuned, alpha)
        if not isinstance(given, Mapping) or set(given) != set(shapes):
            return f"give a dict with the same names, {', '.join(shapes)}."
        given = {name: as_numbers(value) for name, value in given.items()}
        if any(not torch.equal(base[name], kept[name]) for name in shapes):
            return "base itself was changed: make new tensors, or there is no way back."
        right = {n: (1 - alpha) * base[n] + alpha * tuned[n] for n in shapes}
        wrong = [n for n in shapes if not _close({n: given[n]}, {n: right[n]})]
        if not wrong:
            continue
        if _close(given, {n: alpha * base[n] + (1 - alpha) * tuned[n] for n in shapes}):
            return "the ends are swapped: α = 0 is the model before fine-tuning."
        if wrong == ["logit_scale"]:
            return "the logit scale lies on the line too: it is a weight like the others."
        if _close(given, {n: base[n] + alpha * tuned[n] for n in shapes}):
            return "that adds all of tuned; what is added to base is α times the difference, tuned − base."
        return f"for α = {alpha:g}, {wrong[0]} is off: (1 − α) · base + α · tuned, weight by weight."
    return None


def _close(a: Mapping, b: Mapping) -> bool:
    return all(a[name].shape == b[name].shape and torch.allclose(a[name], b[name], atol=1e-5) for name in b)


EXERCISES = {"06": lora_numbers, "06-extra": line}
