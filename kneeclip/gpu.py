"""`kneeclip bench gpu`: the paper's ViT-B/16 at 224 px on one CUDA card.

How much of the card is used is judged by what it can do: the rate of a large bf16 matrix product, measured here, not a
datasheet's. Batches are counted in pairs (an image and its flip), the images lie on the device, and the updates are
those of `kneeclip.train`, its loop included.
"""

from __future__ import annotations

import dataclasses
import os
from contextlib import contextmanager

import torch
from accelerate.state import AcceleratorState
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from kneeclip.bench import make_task
from kneeclip.errors import KneeError
from kneeclip.laps import setup, spread
from kneeclip.rivals import VIT_B16, now, ours

PAIRS = 5778  # in an epoch of the public train split
BATCHES = (16, 32, 64, 128, 256, 512)  # pairs
SMALL_CARD = 16e9  # bytes; about one of them is the driver's and the allocator's


def bench_gpu(models=None, data=None, *, batch_size=None, repeats=3, steps=10, threads=None) -> dict:
    """Speed and memory on the card that torch finds first.

    Parameters
    ----------
    models : sequence of str, optional
        One name; without it ``"vit-b16"``.
    batch_size : int, optional
        Pairs in the updates that are timed under `torch.compile`; 128.

    Returns
    -------
    dict
        ``matmul_tflops``: of a 8192³ product in bf16. ``compiled``: views a second, ``share_of_matmul``, seconds of a
        two-view epoch of 5,778 pairs. ``memory``: one row for each batch, without and with gradient checkpointing, not
        compiled. ``small_card``: the recipe for a 16 GB card (fp16, pieces of 16 pairs) and the memory that it took.

    Raises
    ------
    KneeError
        Where there is no CUDA device.
    """
    if not torch.cuda.is_available():
        raise KneeError("this bench times a CUDA device and torch finds none", None, "run it on a machine that has one")
    numbers = setup("gpu", data, threads, repeats=repeats, steps=steps) | {"precision": "bf16"}
    rate = matmul_rate()
    numbers |= {"card": torch.cuda.get_device_name(), "matmul_tflops": rate / 1e12, "models": {}}
    name = (models or [VIT_B16])[0]
    task = _task(name, data, batch_size or 128, steps, precision="bf16")
    flops = view_flops(task.model.config.vision_config)
    with dynamo("inductor"):
        laps = [_lap(task)["views_per_second"] for _ in range(repeats)]
    if None in laps:
        batch = f"batch_size={task.recipe.batch_size}"
        raise KneeError("the card's memory is too small for this batch", batch, "give a smaller --batch-size")
    numbers["models"][name] = {
        "batch_size": task.recipe.batch_size,
        "steps": steps,
        "views_per_second": {"ours, compiled": spread(laps)},
        "share_of_matmul": spread([flops * views / rate for views in laps]),
        "epoch_seconds": spread([2 * PAIRS / views for views in laps]),
    }
    numbers["memory"] = []
    del task  # its weights would count in the peaks below
    for pairs in BATCHES:
        for checkpointing in (False, True):
            sized = _task(name, data, pairs, 3, precision="bf16")
            if checkpointing:
                sized.model.gradient_checkpointing_enable()
            row = {"pairs": pairs, "gradient checkpointing": checkpointing}
            numbers["memory"].append(row | _lap(sized))
            del sized
    small = _lap(_task(name, data, 64, 3, precision="fp16", micro_batch=16))
    numbers["small_card"] = {"precision": "fp16", "batch_size": 64, "micro_batch": 16, **small}
    numbers["small_card"]["fits"] = (small["peak_gib"] or 1e9) * 2**30 < SMALL_CARD - 1e9
    return numbers | {"share_of_matmul": {name: numbers["models"][name]["share_of_matmul"]["median"]}}


def view_flops(config: CLIPVisionConfig) -> int:
    """Floating-point operations of one view's forward and backward through the image tower, counted without computing.

    All layers count in full, as in published figures, although `kneeclip.tower` saves most of the last one. For
    ViT-B/16 at 224 px: 35.1 GFLOP forward, 105.1 in all. Prompts, optimizer and losses are left out.
    """
    with torch.device("meta"):
        tower = CLIPVisionModelWithProjection(config)
        pixels = torch.zeros(1, 3, config.image_size, config.image_size)
    with FlopCounterMode(display=False) as counter:
        tower(pixel_values=pixels).image_embeds.sum().backward()
    return counter.get_total_flops()


def matmul_rate(size: int = 8192, times: int = 30, device: str = "cuda") -> float:
    """Operations a second of the product of two bf16 matrices of `size` × `size`."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    for _ in range(3):
        a @ b
    start = now()
    for _ in range(times):
        a @ b
    return 2 * size**3 * times / (now() - start)


@contextmanager
def dynamo(backend: str):
    """Within it `kneeclip.train` runs under torch.compile, as under ``accelerate launch --dynamo_backend``."""
    before = os.environ.get("ACCELERATE_DYNAMO_BACKEND")
    os.environ["ACCELERATE_DYNAMO_BACKEND"] = backend
    AcceleratorState._reset_state()  # it keeps the backend that it was born with
    try:
        yield
    finally:
        os.environ.pop("ACCELERATE_DYNAMO_BACKEND")
        if before is not None:
            os.environ["ACCELERATE_DYNAMO_BACKEND"] = before
        AcceleratorState._reset_state()


def _task(name, data, pairs, steps, **settings):
    _, task = make_task(name, data, pairs, steps)
    return dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, **settings))


def _lap(task) -> dict:
    """Views a second and peak memory of `ours`; both None where the card's memory was not enough."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        lap = ours(task)
    except torch.cuda.OutOfMemoryError:
        return {"views_per_second": None, "peak_gib": None}
    peak = torch.cuda.max_memory_reserved() / 2**30
    return {"views_per_second": task.views * task.steps / lap.seconds, "peak_gib": round(peak, 2)}
