"""Prompts: K grades, M texts each, and whether a tokenizer can hold them.

Words that a radiograph can answer, and nothing else: no pain, no cartilage, no left or right and no medial or
lateral (both swap under a flip). KL1 is doubtful, KL2 minimal or mild, KL3 moderate, KL4 severe.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kneeclip.errors import KneeError

K = 5  # grades of the Kellgren–Lawrence scale
CONTEXT = 77  # tokens that CLIP's text tower has positions for, start and end token among them


@dataclass(frozen=True)
class PromptSet:
    """Five grades, each with one text or several.

    Parameters
    ----------
    name : str
        What tables and figures call it.
    texts : K tuples of M strings
        ``texts[k]`` describes grade k. M may differ from grade to grade.
    source : str
        Where the wording comes from: ours, the paper's figure, …

    Raises
    ------
    KneeError
        If there are not five grades, a text is empty, or the same text stands twice.

    Notes
    -----
    Notebook: 02.
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    source: str = "ours"

    def __post_init__(self):
        texts = tuple(tuple(row) if isinstance(row, (list, tuple)) else (row,) for row in self.texts)
        object.__setattr__(self, "texts", texts)
        if len(texts) != K:
            raise KneeError(
                f"a prompt set describes the {K} grades KL0 to KL4, and this one has {len(texts)}",
                self.name,
                f"give {K} texts, or {K} lists of texts",
            )
        for k, row in enumerate(texts):
            if not row or any(not isinstance(text, str) or not text.strip() for text in row):
                raise KneeError(f"the prompt of KL{k} is empty", self.name, "describe the grade in a few words")
            if any(
                "\ud800" <= letter <= "\udfff" for text in row for letter in text
            ):  # half of a pair, as in "\\ud83e"
                raise KneeError(f"the prompt of KL{k} holds a broken character", self.name, "type the text anew")
        flat = [text.strip().lower() for text in self.flat]
        twice = sorted({text for text in flat if flat.count(text) > 1})
        if twice:
            raise KneeError("the same prompt stands twice, so CLIP can't tell the grades apart", twice, "change one")

    @property
    def flat(self) -> list[str]:
        """Every text, grade after grade."""
        return [text for row in self.texts for text in row]

    @property
    def counts(self) -> list[int]:
        """M of each grade."""
        return [len(row) for row in self.texts]


def as_prompts(prompts: PromptSet | str | Sequence) -> PromptSet:
    """A PromptSet from one, from a built-in set's name, from a file of JSON, or from five texts (or lists of texts)."""
    if isinstance(prompts, PromptSet):
        return prompts
    if isinstance(prompts, str):
        is_file = prompts not in BUILT_IN and (prompts.endswith(".json") or os.path.isfile(os.path.expanduser(prompts)))
        return read_prompts(prompts) if is_file else get_prompts(prompts)
    if not isinstance(prompts, (list, tuple)):
        raise KneeError("that is no prompt set", type(prompts).__name__, f"give {K} texts, or {K} lists of texts")
    return PromptSet("own", tuple(prompts))


def read_prompts(path: str | os.PathLike) -> PromptSet:
    """A PromptSet from a JSON file: five texts, five lists of texts, or an object with these as ``"texts"``.

    The prompts.json of a run is one.

    Raises
    ------
    KneeError
        Naming the file, if it is missing, no such JSON, or holds no prompt set.
    """
    remedy = f"write a JSON list of {K} texts, or of {K} lists of texts"
    try:
        with open(os.path.expanduser(path), encoding="utf-8-sig") as file:
            value = json.load(file)
    except PermissionError as error:
        raise KneeError("the prompts can't be read (no permission)", path, "check who may read it") from error
    except (OSError, ValueError, RecursionError) as error:
        raise KneeError("the prompts can't be read", path, remedy) from error
    saved = value if isinstance(value, dict) else {"texts": value}
    texts, stem = saved.get("texts"), os.path.splitext(os.path.basename(path))[0]
    name, source = (saved.get(key, other) for key, other in (("name", stem), ("source", "own")))
    if not isinstance(texts, list) or not isinstance(name, str) or not isinstance(source, str):
        raise KneeError("the file holds no prompts", path, remedy)
    try:
        return PromptSet(name, tuple(texts), source)
    except KneeError as error:
        raise KneeError(f"{error.what} (in {path})", error.culprits, error.remedy) from None


def get_prompts(name: str) -> PromptSet:
    """A built-in set: names, paper, criteria, ensemble or nonsense.

    Raises
    ------
    KneeError
        For any other name.

    Notes
    -----
    Notebook: 02.
    """
    if name not in BUILT_IN:
        raise KneeError("there is no built-in prompt set of that name", name, f"choose one of {', '.join(BUILT_IN)}")
    return BUILT_IN[name]


def token_lengths(texts: Iterable[str], tokenizer) -> list[int]:
    """Tokens of each text, start and end token included, under the model's own tokenizer."""
    return [len(ids) for ids in tokenizer(list(texts), truncation=False, verbose=False)["input_ids"]]


def check_prompts(prompts: PromptSet, tokenizer, *, limit: int = CONTEXT) -> list[int]:
    """The token length of each text, after making sure that none is cut off and no two become the same tokens.

    Raises
    ------
    KneeError
        Naming the grade, for a text of more than `limit` tokens, and for two texts with equal tokens.
    """
    lengths = token_lengths(prompts.flat, tokenizer)
    grade_of = [k for k, row in enumerate(prompts.texts) for _ in row]
    for text, length, k in zip(prompts.flat, lengths, grade_of, strict=True):
        if length > limit:
            raise KneeError(
                f"the prompt of KL{k} has {length} tokens and the text tower reads {limit}",
                f"{text[:60]}…",
                f"shorten it by {length - limit} tokens",
            )
    seen: dict[tuple, int] = {}
    for ids, k in zip(tokenizer(prompts.flat)["input_ids"], grade_of, strict=True):
        if tuple(ids) in seen:
            both = sorted({seen[tuple(ids)], k})
            raise KneeError("two prompts become the same tokens", [f"KL{g}" for g in both], "change one of them")
        seen[tuple(ids)] = k
    return lengths


_WORDS = ("normal", "doubtful", "mild", "moderate", "severe")

_FINDINGS = (
    "no osteophyte and a normal joint space",
    "a doubtful osteophyte and possible joint space narrowing",
    "a definite osteophyte and no more than possible joint space narrowing",
    "moderate osteophytes, definite joint space narrowing and some sclerosis",
    "large osteophytes, marked joint space narrowing, severe sclerosis and bone deformity",
)

BUILT_IN = {
    "names": PromptSet("names", tuple(f"Kellgren-Lawrence grade {k}" for k in range(K))),
    "paper": PromptSet(
        "paper",
        tuple(
            f"This is a {word.capitalize()} case of knee osteoarthritis, with {findings}."
            for word, findings in zip(_WORDS, _FINDINGS, strict=True)
        ),
        source="the figure's template up to 'knee osteoarthritis'; the other grade words and all after are ours",
    ),
    "criteria": PromptSet("criteria", tuple(f"a knee radiograph with {findings}" for findings in _FINDINGS)),
    "ensemble": PromptSet(
        "ensemble",
        tuple(
            (
                f"a knee radiograph with {findings}",
                f"Kellgren-Lawrence grade {k}",
                f"{word} knee osteoarthritis",
                f"a radiograph of a knee, {word} osteoarthritis, with {findings}",
            )
            for k, (word, findings) in enumerate(zip(_WORDS, _FINDINGS, strict=True))
        ),
    ),
    # the control: if fine-tuning works as well with these, the words were labels and no more
    "nonsense": PromptSet(
        "nonsense",
        (
            "a bicycle leaning on a wall",
            "seven ducks on a pond",
            "the night train to the coast",
            "a bowl of green apples",
            "rain over an empty stadium",
        ),
        source="ours, unrelated to knees on purpose",
    ),
}
