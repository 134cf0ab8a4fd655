"""CLIP as a grader of knees: two towers, unit vectors, cosines.

The model is Transformers' own `CLIPModel`, untouched: N images become X (N, D), the K prompts become T (K, D),
both of unit length, and ``softmax(exp(logit_scale) · X Tᵀ)`` are the grade probabilities.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.utils import logging as hf_logging

from kneeclip.errors import KneeError
from kneeclip.films import to_grey
from kneeclip.prompts import CONTEXT, PromptSet, as_prompts, check_prompts

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("phantom-clip",)


def load_clip(name: str | os.PathLike, *, fresh_seed: int | None = None) -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP checkpoint and its processor, in float32 and in evaluation mode.

    Parameters
    ----------
    name : str or path
        A bundled name (``"phantom-clip"``), a folder in Transformers' format (a run folder is one), or a hub id
        (``"openai/clip-vit-base-patch16"``).
    fresh_seed : int, optional
        Keep architecture, tokenizer and preprocessing, but draw the weights anew from this seed: the control
        without pretraining.

    Returns
    -------
    model : transformers.CLIPModel
    processor : transformers.CLIPProcessor
        With the PIL image processor, so that every machine preprocesses alike.

    Raises
    ------
    KneeError
        If there is no such model, the network is away, the weights are not safetensors, are damaged, or are not
        CLIP's or don't fit the config.

    Notes
    -----
    Half-precision weights are read into float32: fine-tuning in fp16 weights is a known source of NaN.
    Notebook: 02.
    """
    source = _locate(str(name))
    with _quiet():
        config = _explained(lambda: CLIPConfig.from_pretrained(source), name, "config.json")
        if fresh_seed is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(fresh_seed)
                model = CLIPModel(config)
        else:
            model, info = _explained(
                lambda: CLIPModel.from_pretrained(
                    source, config=config, dtype=torch.float32, use_safetensors=True, output_loading_info=True
                ),
                name,
                "weights",
            )
            if info["missing_keys"]:
                missing = sorted(info["missing_keys"])
                raise KneeError(f"the checkpoint {name} lacks weights", missing, "use a complete CLIP checkpoint")
        tokenizer = _explained(lambda: CLIPTokenizer.from_pretrained(source), name, "tokenizer")
        images = _explained(lambda: CLIPImageProcessorPil.from_pretrained(source), name, "preprocessor_config.json")
    if not 0.5 * config.text_config.vocab_size <= len(tokenizer) <= config.text_config.vocab_size:
        sizes = f"{len(tokenizer):,} tokens for {config.text_config.vocab_size:,} embeddings"
        raise KneeError(f"the tokenizer of {name} does not fit its text tower", sizes, "copy the model folder again")
    return model.eval(), CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def save_clip(model: CLIPModel, processor: CLIPProcessor, folder: str | os.PathLike, *, half: bool = False) -> Path:
    """Write model and processor as a plain Transformers folder; an existing file is replaced only when all is written.

    Parameters
    ----------
    half : bool
        Store the weights in float16. The config still says float32, so they load as float32.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as tmp, _quiet():
            weights = {name: value.half() if half else value for name, value in model.state_dict().items()}
            model.save_pretrained(tmp, state_dict=weights)  # the caller's model keeps its own weights
            processor.save_pretrained(tmp)
            for path in sorted(Path(tmp).iterdir()):
                path.chmod(0o644)  # safetensors writes for the owner alone
                os.replace(path, folder / path.name)
    except OSError as error:
        raise KneeError(
            f"the model can't be saved ({error.strerror or error})", folder, "free some space or choose another folder"
        ) from error
    return folder


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
    """
    image_processor = processor.image_processor
    size = _image_size(image_processor)
    if isinstance(images, np.ndarray) and images.dtype == np.uint8 and images.shape[1:] == (size, size):
        return images
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
    """Grey levels (N, S, S), 0–255, to CLIP's normalised input (N, 3, S, S), on the device where they lie."""
    pixels = torch.as_tensor(pixels)
    mean = torch.tensor(processor.image_processor.image_mean, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(processor.image_processor.image_std, device=pixels.device).view(1, 3, 1, 1)
    return (pixels.float()[:, None] / 255 - mean) / std


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
    t = F.normalize(t, dim=-1)
    means = torch.stack([rows.mean(0) for rows in t.split(list(counts))])  # (K, D)
    return F.normalize(means, dim=-1)


def encode_images(model: CLIPModel, pixels: torch.Tensor) -> torch.Tensor:
    """Images as unit vectors: X (N, D).

    Parameters
    ----------
    pixels : (N, 3, S, S) float tensor
        CLIP's normalised input: `to_pixel_values(processor, preprocess(processor, images))`.

    Notes
    -----
    Gradients flow. Notebook: 02.
    """
    x = model.get_image_features(pixel_values=pixels.to(model.device)).pooler_output  # (N, D)
    return F.normalize(x, dim=-1)


def similarity(X: torch.Tensor, T: torch.Tensor) -> torch.Tensor:
    """S (N, K): the cosine of every image with every prompt, between −1 and 1.

    The logits are ``model.logit_scale.exp() * S``.

    Notes
    -----
    Source: the paper's figure (S of shape N×K). Notebook: 02.
    """
    return X @ T.t()


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

    Notes
    -----
    Notebook: 03.
    """
    pixels = preprocess(processor, images, progress=True)
    mirror = np.zeros(len(pixels), bool) if mirror is None else np.asarray(mirror, bool)
    was_training = model.training
    model.eval()
    T = encode_texts(model, processor, prompts)  # (K, D)
    scale = model.logit_scale.exp()
    both = []
    bar = tqdm(total=len(pixels), desc="predict", unit="image", delay=2)
    for start in range(0, len(pixels), batch_size):
        batch = torch.from_numpy(pixels[start : start + batch_size]).to(model.device)
        turned = torch.from_numpy(mirror[start : start + batch_size]).to(model.device)
        batch = torch.where(turned[:, None, None], batch.flip(-1), batch)
        views = torch.cat([batch, batch.flip(-1)])  # (2B, S, S): both views in one forward
        S = similarity(encode_images(model, to_pixel_values(processor, views)), T)
        both.append((scale * S).float().cpu().double().softmax(-1).view(2, len(batch), -1))
        bar.update(len(batch))
    bar.close()
    model.train(was_training)
    p, p_flip = torch.cat(both, dim=1).numpy() if both else np.empty((2, 0, len(T)))
    return p, p_flip


def fold_temperature(model: CLIPModel, temperature: float) -> None:
    """Divide the logits by a temperature for good, by changing `logit_scale`: plain Transformers is calibrated too."""
    with torch.no_grad():
        model.logit_scale -= float(np.log(temperature))


def _image_size(image_processor) -> int:
    crop = image_processor.crop_size
    return int(crop["height"] if isinstance(crop, dict) else crop.height)


def _locate(name: str) -> str:
    """A folder for a bundled name or a path; a hub id as it is."""
    if name in BUNDLED:
        folder = ASSETS / name
        if not (folder / "config.json").exists():
            raise KneeError("the bundled model is missing from this installation", folder, "install kneeclip again")
        return str(folder)
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").exists():
            raise KneeError("the folder holds no model: there is no config.json", path, "name a Transformers folder")
        if not any(path.glob("*.safetensors")) and any([*path.glob("*.bin"), *path.glob("*.pt")]):
            raise KneeError(
                "the weights are a pickle, which can run code when loaded",
                path,
                "convert them to safetensors on a machine that trusts them",
            )
        return str(path)
    if path.exists() or name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise KneeError(
            "there is no model of that name",
            name,
            f"name a folder with a config.json, a hub id such as openai/clip-vit-base-patch16, or {', '.join(BUNDLED)}",
        )
    return name


def _explained(load, name, part: str):
    """The result of `load`, with the many errors of the layers below as one sentence."""
    try:
        return load()
    except KneeError:
        raise
    except Exception as error:  # noqa: BLE001 - huggingface_hub, safetensors and json each raise their own kinds
        text = " ".join(str(error).split())
        if Path(str(name)).exists() or str(name) in BUNDLED:
            what = f"the model's {part} can't be read or don't fit a CLIP ({type(error).__name__}: {text[:160]})"
            raise KneeError(what, name, "make or copy the model folder again") from error
        raise KneeError(
            f"the model's {part} can't be had from the hub as safetensors ({type(error).__name__})",
            name,
            "check the name and the network, or name a folder that holds the model",
        ) from error


class _quiet:
    """Transformers' bars and notices out of the notebooks, and back to what they were."""

    def __enter__(self):
        self.bars, self.level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
        hf_logging.disable_progress_bar()
        hf_logging.set_verbosity_error()

    def __exit__(self, *_):
        hf_logging.set_verbosity(self.level)
        if self.bars:
            hf_logging.enable_progress_bar()
