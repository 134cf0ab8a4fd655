"""Questions and exercises of notebook 03."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from kneeclip.checks.asking import Question, as_number, called
from kneeclip.presets import Recipe
from kneeclip.updating import learning_rate

QUESTIONS = {
    "03-1": Question(
        right="a",
        choices={
            "a": "a little lower",
            "b": "the same, for neither split was trained on",
            "c": "the same, for it was not chosen by its training loss",
        },
        reasons={
            "a": "The best of many looks is partly luck, and luck does not carry over to another split.",
            "b": "It was chosen because it is high there, so it is optimistic: the best of many looks is partly luck.",
            "c": "That avoids one bias and brings in another: the best of many looks at `tune` is optimistic there.",
        },
        misconceptions={
            "b": "A held-out split stays an honest judge however often one chooses by it.",
            "c": "Only the training loss can be overfitted; a choice made on other data costs nothing.",
        },
    ),
    "03-2": Question(
        right="b",
        choices={
            "a": "the loss becomes NaN and the run stops",
            "b": "the loss leaps up, and the model stops looking at the image",
            "c": "it learns the same, only sooner",
        },
        reasons={
            "a": "Float32 bears large weights: no NaN comes and nothing stops the run. Look at what it predicts.",
            "b": "Adam moves each weight by about the learning rate, however large the gradient: a few steps of that "
            "undo the pretraining, and the cheapest thing left to learn is how common each grade is.",
            "c": "The direction holds only close by, and a step a hundred times longer leaps over every valley.",
        },
        misconceptions={
            "a": "A training that went wrong announces itself with NaN; finite losses mean that all is well.",
            "c": "The learning rate sets how soon a training arrives, not where.",
        },
    ),
    "03-3": Question(
        right="c",
        choices={
            "a": "more than before: it has trained on hundreds more knees",
            "b": "as much as before: a reader is the rule plus noise, which averages out",
            "c": "less than before",
        },
        reasons={
            "a": "More training brings it closer to the grades it trains on, and those are not the rule's.",
            "b": "Noise would average out. A habit does not: it moves every small osteophyte the same way.",
            "c": "It learns this reader's habit, and the habit departs from the rule.",
        },
        misconceptions={
            "a": "Training on labels brings a model closer to the truth, whoever wrote the labels.",
            "b": "Readers differ by random slips, which a model averages away.",
        },
    ),
    "03-4": Question(
        right="b",
        choices={
            "a": "as low as before training",
            "b": "far above that, as any five texts can become labels",
            "c": "better than with knee words, for the texts lie further apart",
        },
        reasons={
            "a": "Before fine-tuning, yes. But both towers are trained, and any five texts can become labels.",
            "b": "Fine-tuning can turn any five distinct texts into class labels: before it the words matter most.",
            "c": "They don't: this text tower puts the nonsense texts into two clumps (notebook 02, section 9). And "
            "knee words start near the right knees, where nonsense starts nowhere.",
        },
        misconceptions={
            "a": "What a prompt says limits what a fine-tuned model can learn.",
            "c": "Odd, well-separated texts make better class labels than texts that describe the classes.",
        },
    ),
}


def schedule(rate: Callable[[int, int, float], float]) -> str | None:
    recipe = Recipe(lr=1.0, warmup=0.2)
    total, share, warm = 10, 0.2, 2
    mistakes = [
        (lambda step: step / warm if step < warm else None, "the first step's rate is 0, and nothing would be learnt"),
        (
            lambda step: 1 - (step - warm) / (total - warm) if step >= warm else None,
            "that decay is a straight line; half a cosine leaves the top slowly and arrives slowly",
        ),
        (
            lambda step: 0.5 * (1 + math.cos(math.pi * step / total)) if step >= warm else None,
            "count the cosine from the end of the warm-up, or the rate falls in a jump there",
        ),
    ]
    for step in (0, 1, 2, 6, 9, 10):
        given, expected = as_number(called(rate, step, total, share)), learning_rate(step, total, recipe)
        if math.isclose(given, expected, abs_tol=1e-6):
            continue
        part = "the warm-up rises by equal steps to 1" if step < warm else "after it comes half a cosine down to 0"
        for mistake, named in mistakes:
            if mistake(step) is not None and math.isclose(given, mistake(step), abs_tol=1e-6):
                part = named
        return f"rate({step}, {total}, {share}) gave {given:.3f} instead of {expected:.3f}: {part}."
    return None


def accumulation(accumulate: Callable[[Sequence[float], Sequence[int]], float]) -> str | None:
    for losses, sizes in (([1.0, 2.0], [4, 4]), ([1.0, 3.0], [3, 1]), ([0.5, 2.0, 4.0], [16, 16, 2])):
        total = sum(loss * size for loss, size in zip(losses, sizes, strict=True))
        given, expected = as_number(called(accumulate, list(losses), list(sizes))), total / sum(sizes)
        if math.isclose(given, expected, abs_tol=1e-6):
            continue
        if math.isclose(given, sum(losses) / len(losses), abs_tol=1e-6):
            why = "that is the mean of the means, in which an image of a small piece counts more than the others"
        elif math.isclose(given, sum(losses), abs_tol=1e-6):
            why = "that adds the pieces' means, so the loss grows with the number of pieces"
        elif math.isclose(given, total, abs_tol=1e-6):
            why = "that is the sum over the images: divide by their number, over all pieces"
        else:
            why = "every image of the batch should count the same"
        return f"accumulate({losses}, {sizes}) gave {given:.3f} instead of {expected:.3f}: {why}."
    return None


EXERCISES = {"03": schedule, "03-extra": accumulation}
