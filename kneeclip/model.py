"""CLIP as a grader of knees: two towers, unit vectors, cosines.

The model is Transformers' own `CLIPModel`, untouched: N images become X (N, D), the K prompts become T (K, D),
both of unit length, and ``softmax(exp(logit_scale) · X Tᵀ)`` are the grade probabilities.
"""

from __future__ import annotations

import numbers
import os
from collections.abc import Sequence
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm
from transformers import CLIPModel, CLIPProcessor

from kneeclip.errors import KneeError
from kneeclip.films import to_grey
from kneeclip.loading import load_clip, save_clip
from kneeclip.prompts import CONTEXT, PromptSet, as_prompts, check_prompts
from kneeclip.tower import image_features

__all__ = ["load_clip", "save_clip"]  # from loading.py: to a reader both belong to the model


def preprocess(processor: CLIPProcessor, images: Sequence | np.ndarray, *, progress: bool = False) -> np.ndarray:
    """CLIP's own resize and centre crop, still as grey levels.

    Parameters
    ----------
    images : sequence of N one-channel PIL images or uint8 (H, W) arrays; or an (N, H, W) uint8 array

    Returns
    -------
    (N, S, S) uint8 array, S the model's image size
        `to_pixel_values` of it equals ``processor(images=...)["pixel_values"]``. Kept small on purpose: the 8,260
        images at 224 px are 414 MB and fit on any GPU.

    Notes
    -----
    Notebook: 02.
    """
    image_processor = processor.image_processor
    size = _image_size(image_processor)
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (size, size):
        return np.ascontiguousarray(images)  # torch takes no view with negative strides, such as images[:, :, ::-1]
    if isinstance(images, (Image.Image, str, os.PathLike)) or getattr(images, "ndim", 3) == 2:
        raise KneeError("that is one image, and a list of images is needed", type(images).__name__, "write [image]")
    out = np.empty((len(images), size, size), np.uint8)
    for i, image in enumerate(tqdm(images, desc="preprocess", unit="image", delay=2, disable=not progress)):
        image = _as_grey(image)
        if image.size == (size, size):
            out[i] = np.asarray(image)
            continue
        # PIL resizes each channel by itself, so one grey channel gives what three equal ones would
        pixels = image_processor(
            images=np.asarray(image)[..., None],
            do_rescale=False,
            do_normalize=False,
            do_convert_rgb=False,
            input_data_format="channels_last",
            return_tensors="np",
        )["pixel_values"]
        out[i] = pixels[0, 0]
    return out


def _as_grey(image) -> Image.Image:
    """One image, PIL or array, as 8-bit grey; anything of unclear meaning is refused, not guessed at."""
    if isinstance(image, Image.Image):
        return image if image.mode == "L" else to_grey(image)
    pixels = np.asarray(image)
    if pixels.ndim == 3 and 1 in (pixels.shape[0], pixels.shape[-1]):
        pixels = pixels[0] if pixels.shape[0] == 1 else pixels[..., 0]
    whole = np.issubdtype(pixels.dtype, np.integer) and pixels.size and 0 <= pixels.min() and pixels.max() <= 255
    if pixels.ndim != 2 or not whole:
        found = f"{type(image).__name__} of shape {pixels.shape} and type {pixels.dtype}"
        raise KneeError("that is no grey image", found, "give PIL images, or (H, W) arrays of grey levels 0 to 255")
    return Image.fromarray(pixels.astype(np.uint8))


def to_pixel_values(processor: CLIPProcessor, pixels: torch.Tensor | np.ndarray) -> torch.Tensor:
    """Grey levels (N, S, S), 0–255, to CLIP's normalised input (N, 3, S, S), on the device where they lie.

    Notes
    -----
    Notebook: 02.
    """
    pixels = torch.as_tensor(pixels)
    mean = torch.tensor(processor.image_processor.image_mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(processor.image_processor.image_std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float()[:, None] / 255 - mean).div_(std)  # in place: it is the largest array of a step's views


def tokenize(model: CLIPModel, processor: CLIPProcessor, prompts: PromptSet | str | Sequence) -> torch.Tensor:
    """Token ids of every text (K·M, L) on the model's device, after `check_prompts`."""
    prompts = as_prompts(prompts)
    limit = min(CONTEXT, model.config.text_config.max_position_embeddings)
    check_prompts(prompts, processor.tokenizer, limit=limit)
    return processor.tokenizer(prompts.flat, padding=True, return_tensors="pt")["input_ids"].to(model.device)


def encode_texts(model: CLIPModel, processor: CLIPProcessor, prompts: PromptSet | str | Sequence) -> torch.Tensor:
    """The K prompts as unit vectors: T (K, D). The M texts of a grade are averaged, then normalised again.

    Parameters
    ----------
    prompts : PromptSet, name of a built-in set, or five texts

    Raises
    ------
    KneeError
        For a prompt over the tower's 77 tokens, an empty or repeated one, or not five grades.

    Notes
    -----
    Gradients flow; wrap the call in ``torch.no_grad()`` where none are wanted. Notebook: 02.
    """
    prompts = as_prompts(prompts)
    return texts_to_matrix(model, tokenize(model, processor, prompts), prompts.counts)


def texts_to_matrix(model: CLIPModel, input_ids: torch.Tensor, counts: Sequence[int]) -> torch.Tensor:
    """T (K, D) from the token ids (Σ M, L) of K grades with `counts[k]` texts each."""
    t = model.get_text_features(input_ids=input_ids).pooler_output  # (Σ M, D), projected, not normalised
    t = F.normalize(precise(t), dim=-1)
    means = torch.stack([rows.mean(0) for rows in t.split(list(counts))])  # (K, D)
    return F.normalize(means, dim=-1)


def encode_images(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """Images as unit vectors: X (N, D).

    Parameters
    ----------
    pixels : (N, 3, S, S) float tensor
        CLIP's normalised input: `to_pixel_values(processor, preprocess(processor, images))`.

    Raises
    ------
    KneeError
        For grey levels: anything but floats of that shape.

    Notes
    -----
    Gradients flow. Notebook: 02.
    """
    if not torch.is_tensor(pixels) or pixels.ndim != 4 or not pixels.is_floating_point():
        found = f"{type(pixels).__name__} of shape {getattr(pixels, 'shape', None)}"
        remedy = "give to_pixel_values(processor, pixels), which makes CLIP's input of the grey levels of preprocess"
        raise KneeError("the image tower takes no grey levels", found, remedy)
    x = image_features(model, pixels.to(model.device))  # (N, D)
    return F.normalize(precise(x), dim=-1)


def similarity(X: torch.Tensor, T: torch.Tensor) -> torch.Tensor:
    """S (N, K): the cosine of every image with every prompt, between −1 and 1.

    The logits are ``model.logit_scale.exp() * S``. Mixed precision is for the towers: cosines in bfloat16, of eight
    bits, would tie in one image of ten, and the tie would go to the lower grade.

    Notes
    -----
    Source: the paper's figure (S of shape N×K). Notebook: 02.
    """
    kind = X.device.type
    mixed = kind != "meta" and torch.is_autocast_enabled(kind)
    with torch.autocast(kind, enabled=False) if mixed else nullcontext():
        return precise(X) @ precise(T).t()


def precise(x: torch.Tensor) -> torch.Tensor:
    """In float32 at least: what mixed precision left in 16 bits is widened, float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def predict(
    model: CLIPModel,
    processor: CLIPProcessor,
    images: Sequence | np.ndarray,
    prompts: PromptSet | str | Sequence,
    *,
    mirror: Sequence[bool] | None = None,
    batch_size: int = 64,
) -> tuple[np.ndarray, np.ndarray]:
    """Grade probabilities of each image and of its horizontal flip.

    Parameters
    ----------
    images : sequence of N PIL images, or (N, H, W) uint8 array
    mirror : N booleans, optional
        Images to flip first, for a model trained in the `canonical` arm: its left knees.

    Returns
    -------
    p, p_flip : (N, K) float64 arrays whose rows sum to 1

    Raises
    ------
    KneeError
        For images and prompts that can't be read, a `mirror` that is not N booleans, and logits that are not finite.

    Notes
    -----
    Notebook: 03.
    """
    pixels = preprocess(processor, images, progress=True)
    mirror = np.zeros(len(pixels), bool) if mirror is None else np.asarray(mirror)
    if mirror.shape != (len(pixels),):  # broadcasting would grade other images than those given
        raise KneeError("mirror says it of another number of images", f"{mirror.shape}", f"give {len(pixels)} booleans")
    if mirror.dtype != bool and len(mirror):  # "R" would be as true as "L"
        what = "mirror says of each image whether it is to be flipped first"
        raise KneeError(what, f"{mirror.dtype}", 'give booleans, as in [side == "L" for side in sides]')
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise KneeError("no batch can be so small", f"batch_size={batch_size}", "give a whole number from 1")
    was_training = model.training
    model.eval()
    both = []
    try:  # whoever catches what a prompt or an image raises goes on with the model as it was
        T = encode_texts(model, processor, prompts)  # (K, D)
        scale = model.logit_scale.exp()
        with tqdm(total=len(pixels), desc="predict", unit="image", delay=2) as bar:
            for start in range(0, len(pixels), batch_size):
                batch = torch.from_numpy(pixels[start : start + batch_size]).to(model.device)
                turned = torch.from_numpy(mirror[start : start + batch_size]).to(model.device)
                batch = torch.where(turned[:, None, None], batch.flip(-1), batch)
                # one view after the other: without gradients smaller batches are quicker on a CPU, and take less memory
                views = (to_pixel_values(processor, view) for view in (batch, batch.flip(-1)))
                S = [similarity(encode_images(model, view), T) for view in views]
                both.append((scale * torch.stack(S)).float().cpu().double().softmax(-1))  # (2, B, K)
                bar.update(len(batch))
    finally:
        model.train(was_training)
    p, p_flip = torch.cat(both, dim=1).numpy() if both else np.empty((2, 0, len(T)))
    if not np.isfinite(p + p_flip).all():  # in 16 bits a large logit scale overflows
        what = "the model's logits are not finite, so there are no probabilities"
        raise KneeError(what, str(model.dtype).removeprefix("torch."), "call model.float(), or load the model anew")
    return p, p_flip


def fold_temperature(model: CLIPModel, temperature: float) -> None:
    """Divide the logits by a temperature for good, by changing `logit_scale`: plain Transformers is calibrated too."""
    with torch.no_grad():
        model.logit_scale -= float(np.log(temperature))


def _image_size(image_processor) -> int:
    crop = image_processor.crop_size
    return int(crop["height"] if isinstance(crop, dict) else crop.height)
