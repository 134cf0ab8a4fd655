"""python results/scaling/run.py DATA [OUT]: what each step costs by the image, and what that is at four sizes.

Writes scaling.json and scaling.png. Rates are CPU seconds of one thread (`time.process_time`), so that a busy machine
does not change them; what is *measured*, *arithmetic* or taken from elsewhere stands beside each number.
"""

import hashlib
import json
import math
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

import kneeclip as kc
from kneeclip import plots
from kneeclip.batches import Resident, epoch_plan
from kneeclip.cards import environment
from kneeclip.checkpoints import save_state, write_atomically, write_json
from kneeclip.data import tune_mask
from kneeclip.films import list_films, read_film
from kneeclip.phantom import make_phantoms

SIZES = (5_778, 100_000, 1_000_000, 5_000_000)
SIDE, BATCH = 224, 64
PAIR_FLOP = 211e9  # ViT-B/16, forward and backward of an original and its flip (arithmetic: 6 times its 17.6 GMAC by 2)
CARD_FLOPS = 790e12  # a large bf16 matrix product on an H200: measured by others, not here
SHARE = 0.5  # of it that a training step is hoped to reach on such a card: a target, not measured


def seconds(function) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def measure(data: str) -> dict:
    listing = list_films(data)
    films = listing.films[:: max(1, len(listing.films) // 1000)][:1000]
    for film in films:  # once, so that the disk's cache is warm: the decoder is timed, not the disk
        listing.read(film)
    decode = seconds(lambda: [read_film(listing, film) for film in films]) / len(films)
    png = sum(len(listing.read(film)) for film in films) / len(films)
    block = np.random.default_rng(0).integers(0, 256, 2**28, dtype=np.uint8)
    digest = seconds(lambda: hashlib.sha256(block.data).digest()) / len(block)
    n = 1_000_000
    fake = Resident(None, torch.zeros(n, dtype=torch.int64), None, None, [], [])
    plan = seconds(lambda: epoch_plan(fake, kc.Recipe(), 0)) / n
    split = seconds(lambda: tune_mask(map(str, range(100_000)))) / 100_000
    return {
        "png_bytes": round(png),
        "decode_images_per_s": round(1 / decode),
        "sha256_bytes_per_s": round(1 / digest),
        "epoch_plan_images_per_s": round(1 / plan),
        "tune_hash_patients_per_s": round(1 / split),
        "bootstrap": [bootstrap(n) for n in (1_000, 10_000)],
        "step_row_bytes": step_row_bytes(),
        "checkpoint": checkpoint(),
    }


def bootstrap(n: int) -> dict:
    """`evaluate` with its 1,000 resamples of patients, two knees each."""
    rng = np.random.default_rng(0)
    p, grades = rng.dirichlet(np.ones(5), n), rng.integers(0, 5, n)
    return {"images": n, "seconds": round(seconds(lambda: kc.evaluate(p, grades, np.arange(n) // 2)), 3)}


def step_row_bytes() -> int:
    """Bytes of history that a step leaves in every later checkpoint, from a real run."""
    drawn = make_phantoms(48, 1, size=112)
    knees = {"train": {"image": drawn.images, "grade": drawn.grades}}
    run = kc.train(*kc.load_clip("phantom-clip"), knees, "criteria", kc.Recipe(epochs=3, batch_size=16), progress=False)
    return round(len(json.dumps(run.steps)) / len(run.steps))


def checkpoint() -> dict:
    """Wall seconds to write (flushed to the disk) what a checkpoint of phantom-clip holds: weights and two moments."""
    model, _ = kc.load_clip("phantom-clip")
    tensors = {f"{i}/{name}": value.clone() for i in range(3) for name, value in model.state_dict().items()}
    with tempfile.TemporaryDirectory() as tmp:
        start = time.perf_counter()
        for _ in range(5):
            save_state(Path(tmp) / "checkpoint.safetensors", tensors, {})
        wall = (time.perf_counter() - start) / 5
        size = (Path(tmp) / "checkpoint.safetensors").stat().st_size
    return {"bytes": size, "wall_seconds": round(wall, 3)}


def vit_b16() -> dict:
    """Counted on the architecture, without weights."""
    vision = {"patch_size": 16, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12}
    with torch.device("meta"):
        model = CLIPModel(CLIPConfig(vision_config=vision | {"intermediate_size": 3072}))
    weights = sum(value.numel() for value in model.parameters())
    return {
        "weights": weights,
        "gradient_bytes": 4 * weights,
        "training_bytes": 16 * weights,  # float32: weights, gradients, AdamW's two moments
        "checkpoint_bytes": 12 * weights,  # weights and two moments
    }


def at(n: int, rates: dict, model: dict) -> dict:
    """The steps of one epoch over n images: seconds and bytes (arithmetic on the rates)."""
    return {
        "images": n,
        "steps": math.ceil(n / BATCH),
        "seconds": {
            "decode the PNGs on one core": n / rates["decode_images_per_s"],
            "fingerprint of the pixels": n * SIDE**2 / rates["sha256_bytes_per_s"],
            "order and random numbers": n / rates["epoch_plan_images_per_s"],
            "train, at an H200's rate": n * PAIR_FLOP / CARD_FLOPS,
            "train, at half of it (a target)": n * PAIR_FLOP / CARD_FLOPS / SHARE,
        },
        "bytes": {
            "pixels (uint8, 224 px)": n * SIDE**2,
            "PNG files": n * rates["png_bytes"],
            "ViT-B/16: weights, gradients, AdamW": model["training_bytes"],
            "history in the checkpoint, 10 epochs": 10 * math.ceil(n / BATCH) * rates["step_row_bytes"],
        },
    }


def main(data: str, out: Path) -> None:
    torch.set_num_threads(1)
    rates, model = measure(data), vit_b16()
    report = {
        "measured": rates,
        "measured_on": "one thread of a shared CPU; PNGs of real knees (Chen 2018), 1,000 of train and validation",
        "counted": model,
        "assumed": {
            "pair_flop": PAIR_FLOP,
            "card_flops": CARD_FLOPS,
            "share": SHARE,
            "origin": "pair: arithmetic on ViT-B/16; rate: an H200's bf16 matrix product as measured by others; share: "
            "a target, not measured",
        },
        "batch": BATCH,
        "arithmetic": [at(n, rates, model) for n in SIZES],
        "environment": environment(),
        "command": "OMP_NUM_THREADS=1 python results/scaling/run.py DATA",
    }
    write_json(out / "scaling.json", report)
    figure = plots.scaling(report["arithmetic"], world="rates: one CPU core (measured), an H200 (by others)")
    write_atomically(out / "scaling.png", lambda path: figure.savefig(path, format="png", dpi=160))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent)
