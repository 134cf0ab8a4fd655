"""One X-ray of one's own: read, doubted, graded, and never without the warning."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from transformers import CLIPModel, CLIPProcessor

from kneeclip import model as clip
from kneeclip import plots
from kneeclip.auditing import SMALL, doubts
from kneeclip.cards import NOT_FOR_DIAGNOSIS
from kneeclip.films import read_grey

#: What is said of an image for each of `kneeclip.auditing.doubts`.
SAID = {
    "not square": "The image is not square: CLIP sees its middle only, and the joint may be cut off.",
    "small": f"The image is smaller than {SMALL} px: a joint space is a pixel or two.",
    "blank": "The image is uniform: there is nothing to see.",
    "negative": "This looks like a photographic negative: bone should be bright.",
}
ALWAYS = (NOT_FOR_DIAGNOSIS, "A picture that is no knee gets a grade too, at times with confidence.")


def warnings_of(pixels: np.ndarray) -> list[str]:
    """What is to be said about uint8 pixels (H, W) before their grade is: never nothing. Notebook: 05."""
    return [*ALWAYS, *(SAID[kind] for kind, is_so in doubts(pixels).items() if is_so)]


def grade_own(
    model: CLIPModel, processor: CLIPProcessor, prompts, file: str | Path | bytes | np.ndarray, *, world: str = ""
) -> Figure:
    """A single-knee image with the probability of each grade, and its warnings above.

    Parameters
    ----------
    file : path, the bytes of an image file, or a uint8 array (H, W)

    Returns
    -------
    Figure
        The image is shown as the model sees it, after CLIP's resize and crop.

    Raises
    ------
    KneeError
        If the file can't be read as an image.

    Notes
    -----
    Nothing is kept or sent anywhere. Notebook: 05.
    """
    if isinstance(file, np.ndarray):
        pixels = file
    else:
        pixels = np.asarray(read_grey(io.BytesIO(file) if isinstance(file, bytes) else file))
    p, _ = clip.predict(model, processor, [pixels], prompts)
    return plots.own_knee(clip.preprocess(processor, [pixels])[0], p[0], warnings_of(pixels), world=world)
