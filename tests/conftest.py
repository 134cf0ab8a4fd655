"""Fixtures: a real small CLIP (never a mock), small knees, and the real data where they are."""

import dataclasses
import os
from pathlib import Path

import numpy as np
import pytest
import torch

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test waits for a network
os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", min(2, os.cpu_count() or 1))))


@pytest.fixture(autouse=True)
def same_world():
    """A command may name a world to the notebooks that it starts; no test hands it on to the next."""
    before = {name: os.environ.get(name) for name in ("KNEECLIP_PRESET", "KNEECLIP_DATA")}
    yield
    for name, value in before.items():
        os.environ.pop(name, None)
        if value is not None:
            os.environ[name] = value


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real images' folder; the suite runs without them, and says so."""
    folder = os.environ.get("KNEECLIP_DATA")
    if not folder or not Path(folder).exists():
        pytest.skip("no real knees: set KNEECLIP_DATA to the folder of the public data set")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def clip_tokenizer() -> Path:
    """CLIP's own vocabulary as a Transformers folder."""
    folder = os.environ.get("KNEECLIP_TOKENIZER")
    if not folder or not Path(folder).exists():
        pytest.skip("no CLIP vocabulary: set KNEECLIP_TOKENIZER to a folder with vocab.json and merges.txt")
    return Path(folder).resolve()


@pytest.fixture(scope="session")
def tiny_settings():
    from kneeclip.newborn import Pretraining

    return Pretraining(
        patients=12, image_size=28, patch_size=14, width=32, layers=1, text_layers=1, heads=2, dim=16,
        vocabulary=600, epochs=2, batch_size=8, held_out=4,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_settings) -> Path:
    """A CLIP of two small layers, with a tokenizer of its own, saved in Transformers' format."""
    from kneeclip.model import save_clip
    from kneeclip.newborn import new_clip, train_tokenizer
    from kneeclip.prompts import BUILT_IN

    tokenizer = train_tokenizer([text for prompts in BUILT_IN.values() for text in prompts.flat], 600)
    model, processor = new_clip(tiny_settings, tokenizer)
    return save_clip(model, processor, tmp_path_factory.mktemp("clip") / "tiny")


@pytest.fixture
def tiny(tiny_folder):
    """(model, processor), fresh for each test."""
    from kneeclip.model import load_clip

    return load_clip(tiny_folder)


@pytest.fixture
def arrays():
    """Plain arrays of 22 train and 8 tune knees whose brightness tells the grade."""

    def split(n, seed):
        rng = np.random.default_rng(seed)
        grade = rng.integers(0, 5, n)
        noise = rng.normal(0, 20, (n, 28, 28))
        image = np.clip(noise + 40 + 40 * grade[:, None, None], 0, 255).astype(np.uint8)
        return {
            "image": image,
            "grade": grade,
            "patient": [f"{seed}{i // 2:03d}" for i in range(n)],
            "side": ["R" if i % 2 else "L" for i in range(n)],
        }

    return {"train": split(22, 1), "tune": split(8, 2)}


@pytest.fixture
def recipe():
    from kneeclip.presets import Recipe

    return dataclasses.replace(Recipe(), epochs=2, batch_size=8, lr=1e-3)
