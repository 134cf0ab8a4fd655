"""A CLIP checkpoint from a bundled name, a folder or the hub, and back into a folder; safetensors only."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from huggingface_hub.utils import HFValidationError, validate_repo_id
from huggingface_hub.utils import logging as hub_logging
from safetensors import SafetensorError
from tqdm.auto import tqdm
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor, CLIPTokenizer
from transformers.utils import logging as hf_logging

from kneeclip.errors import KneeError

ASSETS = Path(__file__).parent / "assets"
BUNDLED = ("phantom-clip", "knee-clip")


def load_clip(name: str | os.PathLike, *, fresh_seed: int | None = None) -> tuple[CLIPModel, CLIPProcessor]:
    """A CLIP checkpoint and its processor, in float32 and in evaluation mode.

    Parameters
    ----------
    name : str or path
        A bundled name (``"phantom-clip"``, ``"knee-clip"``), a folder in Transformers' format (a run folder is one),
        or a hub id (``"openai/clip-vit-base-patch16"``).
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
    if not Path(source).is_dir() and try_to_load_from_cache(source, "config.json") is None:
        tqdm.write(f"asking the Hugging Face hub for {source} …")  # without a network it takes half a minute to give up
    with _quiet():
        config = _explained(lambda: _config(source), name, "config.json")
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
            if broken := [key for key, value in model.state_dict().items() if not value.isfinite().all()]:
                raise KneeError(f"the checkpoint {name} holds NaN or infinity", broken, "use one from before it broke")
        tokenizer = _explained(lambda: CLIPTokenizer.from_pretrained(source), name, "tokenizer")
        images = _explained(lambda: CLIPImageProcessorPil.from_pretrained(source), name, "preprocessor_config.json")
    if not 0.5 * config.text_config.vocab_size <= len(tokenizer) <= config.text_config.vocab_size:
        sizes = f"{len(tokenizer):,} tokens for {config.text_config.vocab_size:,} embeddings"
        raise KneeError(f"the tokenizer of {name} does not fit its text tower", sizes, "copy the model folder again")
    size = config.vision_config.image_size
    if (
        images.crop_size is None
        or dict(images.crop_size) != {"height": size, "width": size}
        or not all(std > 0 for std in images.image_std)
    ):
        shown = f"crop_size {images.crop_size}, image_std {images.image_std}"
        what = f"the preprocessing of {name} does not fit its image tower of {size} px"
        raise KneeError(what, shown, "copy the model folder again")
    model.name_or_path = f"{name}, random weights" if fresh_seed is not None else str(name)  # a run's card says so
    return model.eval(), CLIPProcessor(image_processor=images, tokenizer=tokenizer)


def save_clip(model: CLIPModel, processor: CLIPProcessor, folder: str | os.PathLike, *, half: bool = False) -> Path:
    """Write model and processor as a plain Transformers folder.

    All is written aside and flushed to the disk first; then the files are moved into place one by one, so that none is
    ever half a file, and a kill among the moves can leave old ones beside new ones.

    Parameters
    ----------
    half : bool
        Store the weights in float16. The config still says float32, so they load as float32.

    Notes
    -----
    Notebook: 03.
    """
    folder = Path(os.path.expanduser(folder))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as tmp, _quiet():
            weights = {name: value.half() if half else value for name, value in model.state_dict().items()}
            model.save_pretrained(tmp, state_dict=weights)  # the caller's model keeps its own weights
            processor.save_pretrained(tmp)
            for path in sorted(Path(tmp).iterdir()):
                path.chmod(0o644)  # safetensors writes for the owner alone
                with open(path, "rb+") as file:  # a run's checkpoint is removed once this folder stands
                    os.fsync(file.fileno())
                os.replace(path, folder / path.name)
    except (OSError, SafetensorError) as error:  # safetensors has its own word for a full disk
        raise KneeError(
            f"the model can't be saved ({getattr(error, 'strerror', None) or error})",
            folder,
            "free some space or choose another folder",
        ) from error
    return folder


def model_folder(name: str | os.PathLike) -> Path:
    """Where the model of that name lies, if it lies on this machine: what stands beside its weights is there too."""
    return ASSETS / name if str(name) in BUNDLED else Path(os.path.expanduser(name))


def _locate(name: str) -> str:
    """A folder for a bundled name or a path; a hub id as it is."""
    if name in BUNDLED:
        folder = model_folder(name)
        if not (folder / "config.json").exists():
            raise KneeError("the bundled model is missing from this installation", folder, "install kneeclip again")
        return str(folder)
    path = Path(os.path.expanduser(name))
    if path.is_dir():
        done = any((path / name).exists() for name in ("run.json", "pretraining.json"))
        if (path / "checkpoint.safetensors").exists() and not done:
            raise KneeError("the training in this folder is not finished", path, "give its command again: it resumes")
        if not (path / "config.json").exists():
            raise KneeError("the folder holds no model: there is no config.json", path, "name a Transformers folder")
        if not any(path.glob("*.safetensors")) and any([*path.glob("*.bin"), *path.glob("*.pt")]):
            raise KneeError(
                "the weights are a pickle, which can run code when loaded",
                path,
                "convert them to safetensors on a machine that trusts them",
            )
        return str(path)
    remedy = f"name a folder with a config.json, a hub id such as openai/clip-vit-base-patch16, or {', '.join(BUNDLED)}"
    # a hub id looks like a path: one into a folder that is here, or to a run, is a path, and mistyped
    local = name.startswith((".", "/", "~", "runs/")) or path.parent.is_dir()
    if path.exists() or name.count("/") != 1 or local:
        raise KneeError("there is no model of that name", name, remedy)
    try:
        validate_repo_id(name)
    except HFValidationError:
        raise KneeError("that is neither a folder of this machine nor a hub id", name, remedy) from None
    return name


def _config(source: str) -> CLIPConfig:
    # what a config leaves out becomes ViT-B/32's: hundreds of megabytes, built only to find that nothing fits
    if not {"text_config", "vision_config"} <= CLIPConfig.get_config_dict(source)[0].keys():
        raise ValueError("it describes no two towers")
    return CLIPConfig.from_pretrained(source)


def _explained(load, name, part: str):
    """The result of `load`, with the many errors of the layers below as one sentence."""
    try:
        return load()
    except KneeError:
        raise
    except Exception as error:  # noqa: BLE001 - huggingface_hub, safetensors and json each raise their own kinds
        text = " ".join(str(error).split())
        if model_folder(name).exists():
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
        self.hub_level = hub_logging.get_verbosity()  # without a network it tells of every retry
        hf_logging.disable_progress_bar()
        hf_logging.set_verbosity_error()
        hub_logging.set_verbosity_error()

    def __exit__(self, *_):
        hf_logging.set_verbosity(self.level)
        hub_logging.set_verbosity(self.hub_level)
        if self.bars:
            hf_logging.enable_progress_bar()
