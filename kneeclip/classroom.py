"""A class in one room: prompts as a short code to paste, and one leaderboard of all codes.

A code is text from somebody else: nothing in it is run, its size is limited before it is unpacked, and what is
damaged is refused in a sentence.
"""

from __future__ import annotations

import base64
import binascii
import json
import zlib
from collections.abc import Iterable, Sequence

import numpy as np
import torch
from transformers import CLIPModel, CLIPProcessor

from kneeclip.errors import KneeError
from kneeclip.evaluation import evaluate
from kneeclip.model import encode_images, encode_texts, preprocess, similarity, to_pixel_values
from kneeclip.prompts import PromptSet, as_prompts

TAG = "KC1-"  # the format's version: a later one gets another number
MOST_CHARACTERS = 8_000  # of a code, before it is decoded
MOST_BYTES = 32_000  # unpacked: a few kB of text can hold gigabytes once compressed
MOST_TEXTS = 20  # a grade
LONGEST_NAME = 40


def to_code(name: str, prompts: PromptSet | Sequence) -> str:
    """Who wrote the prompts, and the prompts, as one word to paste into the class chat.

    Parameters
    ----------
    name : str
        What the leaderboard calls them, up to 40 characters.
    prompts : PromptSet, or five texts, or five lists of texts

    Returns
    -------
    str
        ``KC1-`` and the name and texts as JSON, compressed, in letters that survive a chat.

    Raises
    ------
    KneeError
        For a name or prompts that `from_code` would refuse.

    Notes
    -----
    Source: ours. Notebook: 02.
    """
    prompts = as_prompts(prompts)
    content = json.dumps([_named(name), prompts.texts], ensure_ascii=False, separators=(",", ":"))
    code = TAG + base64.urlsafe_b64encode(zlib.compress(content.encode(), 9)).decode().rstrip("=")
    from_code(code)  # what can't be read back must not leave the room
    return code


def from_code(code: str) -> tuple[str, PromptSet]:
    """The name and the prompts in a code from `to_code`; line breaks that a mail put in are forgiven.

    Returns
    -------
    name : str
    prompts : PromptSet
        Called by that name.

    Raises
    ------
    KneeError
        For anything that is no whole, undamaged code of five grades, and for one that unpacks to too much.
    """
    word = "".join(str(code).split())
    shown = word[:16] + "…" if len(word) > 16 else word
    if not word.startswith(TAG):
        remedy = f"a code starts with {TAG}: copy it again, from its first letter"
        raise KneeError("that is no code of this version", shown, remedy)
    if len(word) > MOST_CHARACTERS:
        raise KneeError("the code is too long", f"{len(word):,} characters", "shorten the prompts")
    try:
        packed = base64.b64decode(word.removeprefix(TAG) + "=" * (-len(word) % 4), altchars=b"-_", validate=True)
        unpacking = zlib.decompressobj()
        content = unpacking.decompress(packed, MOST_BYTES)
    except (binascii.Error, ValueError, zlib.error):
        raise _damaged(shown) from None
    if unpacking.unconsumed_tail:
        raise KneeError("the code unpacks to too much", f"over {MOST_BYTES:,} bytes", "shorten the prompts")
    if not unpacking.eof or unpacking.unused_data:  # zlib's own checksum stands at its end
        raise _damaged(shown)
    try:
        name, texts = json.loads(content)
    except (ValueError, TypeError, RecursionError):
        raise _damaged(shown) from None
    if not isinstance(texts, list) or any(not isinstance(row, list) or len(row) > MOST_TEXTS for row in texts):
        remedy = f"a code holds up to {MOST_TEXTS} texts for each grade"
        raise KneeError("the code holds no prompts", shown, remedy)
    if any(isinstance(text, str) and not text.isprintable() for row in texts for text in row):
        raise KneeError("a prompt of the code holds characters that can't be shown", shown, "write it on one line")
    name = _named(name)
    return name, PromptSet(name, tuple(tuple(row) for row in texts), source="a classmate's")


def leaderboard(
    codes: str | Iterable[str],
    model: CLIPModel,
    processor: CLIPProcessor,
    images: Sequence | np.ndarray,
    grades: Sequence[int],
    patients: Sequence[str],
) -> list[dict]:
    """Grade the same knees with everybody's prompts; the best QWK stands first.

    Parameters
    ----------
    codes : str or iterable of str
        Codes from `to_code`; a text may hold many, with blanks or line breaks between. One pasted twice counts once.
    model, processor
        From `load_clip`.
    images : sequence of N PIL images, or (N, H, W) uint8 array
    grades, patients : N int, N str

    Returns
    -------
    list of dict
        ``place``, ``name``, ``n``, ``accuracy``, ``qwk`` and its 95 % interval, ``low`` and ``high``; a name that
        stands on several codes gets a number.

    Raises
    ------
    KneeError
        Naming the code, or whose prompts, if one can't be read or graded with.

    Notes
    -----
    The images pass their tower once, whatever the number of codes. Notebook: 02.
    """
    with torch.no_grad():
        pixels = torch.from_numpy(preprocess(processor, images))
        X = torch.cat([encode_images(model, to_pixel_values(processor, part)) for part in pixels.split(128)])  # (N, D)
        rows = []
        for name, prompts in _entries(codes).items():
            try:
                T = encode_texts(model, processor, prompts)
            except KneeError as error:
                raise KneeError(f"the prompts of {name} can't be used: {error}") from None
            logits = model.logit_scale.exp() * similarity(X, T)
            report = evaluate(logits.cpu().double().softmax(-1).numpy(), grades, patients)
            low, high = report["ci"]["qwk"] or (None, None)
            row = {key: report[key] for key in ("n", "accuracy", "qwk")}
            rows.append({"name": name} | row | {"low": low, "high": high})
    rows.sort(key=lambda row: -2 if row["qwk"] is None else row["qwk"], reverse=True)
    return [{"place": place} | row for place, row in enumerate(rows, 1)]


def _entries(codes: str | Iterable[str]) -> dict[str, PromptSet]:
    words = codes.split() if isinstance(codes, str) else list(codes)
    entries: dict[str, PromptSet] = {}
    for i, word in enumerate(words, 1):
        try:
            name, prompts = from_code(word)
        except KneeError as error:
            raise KneeError(f"code {i} of {len(words)}: {error}") from None
        if any(prompts == other for other in entries.values()):  # the same name and the same texts
            continue
        key, n = name, 1
        while key in entries:
            n += 1
            key = f"{name} ({n})"
        entries[key] = prompts
    if not entries:
        raise KneeError("there is no code to read", None, "paste the class's codes, one a line")
    return entries


def _named(name) -> str:
    name = name.strip() if isinstance(name, str) else ""
    if not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise KneeError("a code needs a name", repr(name)[:60], f"give up to {LONGEST_NAME} letters, on one line")
    return name


def _damaged(shown: str) -> KneeError:
    return KneeError("the code is damaged", shown, "copy it again, from its first letter to its last")
