"""How fast is it? Each figure beside a floor or a rival: one process, in turns, medians with their spread.

On a shared machine a single time says little, and the ratio of two that ran one after the other much more: every
contender takes a lap, then the same again in reverse order, and a ratio is formed within each round.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from kneeclip import model as clip
from kneeclip.data import load_knees, require_split
from kneeclip.errors import KneeError
from kneeclip.laps import headlines, in_turns, setup, spread
from kneeclip.phantom import make_phantoms
from kneeclip.presets import PRESETS
from kneeclip.prompts import as_prompts
from kneeclip.rivals import VIT_B16, Task, floor, load_model, now, ours, trainer, views_alone

FILM = 224  # pixels of a public radiograph; phantoms are drawn as large
BATCH = {VIT_B16: 8}  # images in an update, where it is not the preset's: on one core a view costs a second
STEPS = {VIT_B16: 1}  # updates timed in a round, where it is not 6
ROUNDS = {VIT_B16: 3}  # where it is not 9: one takes two minutes on two cores


def bench_step(models=None, data=None, *, batch_size=None, repeats=None, steps=None, workers=2, threads=None) -> dict:
    """Views a second of `kneeclip.train`, of the floor under it and of `transformers.Trainer` (see `kneeclip.rivals`).

    Parameters
    ----------
    models : sequence of str, optional
        Names as `load_clip` takes them, or ``"vit-b16"``: the paper's architecture with random weights.
    data : str, optional
        A source of knees; without it phantoms of 224 px, as large as the public radiographs.
    batch_size : int, optional
        Images in an update, each with its flip; the preset's 64, for vit-b16 8.
    repeats, steps : int
        Rounds, 9, for vit-b16 3; and updates timed in each: 6, for vit-b16 1.
    workers : int
        The Trainer runs without loader processes and with so many; its better lap counts. 0, and vit-b16: without.
    threads : int, optional
        Of torch.

    Returns
    -------
    dict
        ``share_of_floor``, ``share_of_floor_augmented``, ``ratio_to_trainer``, ``ratio_to_trainer_augmented``: medians
        by model. ``models`` holds each with its lowest and highest round, and ``views_per_second`` of every contender.
    """
    numbers = setup("step", data, threads, repeats=repeats, steps=steps) | {"precision": "float32"}
    numbers["models"] = {}
    for name in models or ["phantom-clip"]:
        task, augmented = make_task(name, data, batch_size, STEPS.get(name, 6) if steps is None else steps)
        contenders = {
            "floor": lambda task=task: floor(task),
            "ours": lambda task=task: ours(task),
            "ours, augmented": lambda task=augmented: ours(task),
            "Trainer": lambda task=task: trainer(task),
        }
        if workers and name != VIT_B16:  # whose loader takes a hundredth of the time
            contenders[f"Trainer, {workers} workers"] = lambda task=task: trainer(task, workers)
        rounds = ROUNDS.get(name, 9) if repeats is None else repeats
        laps = in_turns({who: lambda lap=lap: lap().seconds for who, lap in contenders.items()}, rounds)
        rival = np.min([seconds for who, seconds in laps.items() if who.startswith("Trainer")], axis=0)
        numbers["models"][name] = {
            "batch_size": task.recipe.batch_size,
            "steps": task.steps,
            "repeats": rounds,
            "views_a_step": task.views,
            "prompts": task.prompts.name,
            "augment": augmented.recipe.augment,
            "views_per_second": {who: spread(task.steps * task.views / s) for who, s in laps.items()},
            "share_of_floor": spread(laps["floor"] / laps["ours"]),
            "share_of_floor_augmented": spread(laps["floor"] / laps["ours, augmented"]),
            "ratio_to_trainer": spread(rival / laps["ours"]),
            "ratio_to_trainer_augmented": spread(rival / laps["ours, augmented"]),
        }
    return numbers | headlines(numbers["models"])


def bench_data(models=None, data=None, *, batch_size=None, repeats=3, steps=6, threads=None) -> dict:
    """Reading a source into an empty cache and opening it again, each in a process of its own; waiting in an epoch.

    The cache is a temporary folder, never the user's. The seconds are those of `load_knees`, the imports before it
    apart; the memory is the highest of the process, imports included.

    Returns
    -------
    dict
        ``import_seconds`` and ``help_seconds``: ``import kneeclip`` and ``kneeclip --help`` as whole processes;
        ``build_seconds``, ``reopen_seconds``, ``peak_mib`` (while building) and ``imports_mib`` of it; and
        ``waiting_share``: of an augmented update of `models`, the share spent on planning and making views.
    """
    data = data or "phantom"
    numbers = setup("data", data, threads, repeats=repeats, steps=steps)
    start = {"import_seconds": ["-c", "import kneeclip"], "help_seconds": ["-m", "kneeclip", "--help"]}
    begun = in_turns({name: lambda words=words: _seconds(lambda: _python(*words)) for name, words in start.items()}, 5)
    numbers |= {name: spread(seconds) for name, seconds in begun.items()} | {"models": {}}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        built = [_load_elsewhere(data, f"{root}/{i}") for i in range(repeats)]
        opened = [_load_elsewhere(data, f"{root}/{i}") for i in range(repeats)]
        numbers |= {
            "images": built[0]["images"],
            "build_seconds": spread([run["seconds"] for run in built]),
            "reopen_seconds": spread([run["seconds"] for run in opened]),
            "peak_mib": spread([run["peak_mib"] for run in built]),
            "imports_mib": spread([run["imports_mib"] for run in built]),
        }
        for name in models or ["phantom-clip"]:
            with _cache(f"{root}/0"):
                _, task = make_task(name, data, batch_size, steps)
            contenders = {"step": lambda t=task: ours(t).seconds, "views": lambda t=task: views_alone(t).seconds}
            laps = in_turns(contenders, repeats)
            numbers["models"][name] = {"batch_size": task.recipe.batch_size, "steps": steps}
            numbers["models"][name] |= {"waiting_share": spread(laps["views"] / laps["step"])}
    return numbers | headlines(numbers["models"])


def bench_eval(models=None, data=None, *, batch_size=None, repeats=21, steps=6, threads=None) -> dict:
    """Two-view prediction by `predict`, against the bare forward pass on pixels and prompts that lie ready.

    Returns
    -------
    dict
        ``share_of_forward``: of images at the model's size (as a training's own evaluation has them), and
        ``share_of_forward_from_films``: of PIL images of their own size, CLIP's resizing included; medians by model.
        ``steps`` is the number of batches that a lap predicts.
    """
    numbers = setup("eval", data, threads, repeats=repeats, steps=steps) | {"precision": "float32", "models": {}}
    for name in models or ["phantom-clip"]:
        task, _ = make_task(name, data, batch_size, steps - 1)
        model, processor, size = task.model.eval(), task.processor, task.recipe.batch_size
        films = task.knees["image"]
        pixels = clip.preprocess(processor, films)
        ready = [clip.to_pixel_values(processor, views) for views in _both_views(pixels, size, model.device)]

        def forward(model=model, ready=ready):
            with torch.no_grad():
                for batch in ready:
                    clip.encode_images(model, batch)

        def graded(images, model=model, processor=processor, prompts=task.prompts, size=size):
            clip.predict(model, processor, images, prompts, batch_size=size)

        contenders = {
            "forward": forward,
            "predict": lambda graded=graded, pixels=pixels: graded(pixels),
            "predict, from films": lambda graded=graded, films=films: graded(films),
        }
        laps = in_turns({who: lambda lap=lap: _seconds(lap) for who, lap in contenders.items()}, repeats)
        numbers["models"][name] = {
            "batch_size": size,
            "steps": steps,
            "film_size": list(films[0].size),
            "views_per_second": {who: spread(2 * len(films) / s) for who, s in laps.items()},
            "share_of_forward": spread(laps["forward"] / laps["predict"]),
            "share_of_forward_from_films": spread(laps["forward"] / laps["predict, from films"]),
        }
    return numbers | headlines(numbers["models"])


def make_task(name: str, data: str | None, batch_size: int | None, steps: int) -> tuple[Task, Task]:
    """The same task without and with the preset's augmentation."""
    preset = PRESETS["paper" if name == VIT_B16 else "phantom"]
    batch_size = BATCH.get(name, preset.recipe.batch_size) if batch_size is None else batch_size
    recipe = dataclasses.replace(preset.recipe, batch_size=batch_size, micro_batch=None, epochs=1, select="none")
    model, processor = load_model(name)
    knees = _knees(data, batch_size * (steps + 1))
    task = Task(model, processor, knees, as_prompts(preset.prompts), recipe, steps)
    return dataclasses.replace(task, recipe=dataclasses.replace(recipe, augment=0.0)), task


def _knees(data: str | None, n: int) -> dict:
    """n knees in memory: PIL images, grades, patients and sides."""
    if data in (None, "phantom"):
        drawn = make_phantoms(math.ceil(n / 2), 1, size=FILM)
        images = [Image.fromarray(image) for image in drawn.images[:n]]
        return {"image": images, "grade": drawn.grades[:n], "patient": drawn.patients[:n], "side": drawn.sides[:n]}
    train = require_split(load_knees(data), "train")
    chosen = train.select([i % len(train) for i in range(n)])
    return {name: list(chosen[name]) for name in ("image", "grade", "patient", "side")}


def _both_views(pixels: np.ndarray, size: int, device) -> list[torch.Tensor]:
    batches = torch.from_numpy(pixels).to(device).split(size)
    return [view for batch in batches for view in (batch, batch.flip(-1))]  # the batches that `predict` makes


def _seconds(lap: Callable[[], object]) -> float:
    start = now()
    lap()
    return now() - start


_LOAD = """
import json, sys, time
from pathlib import Path
import kneeclip.data

def peak():
    status = Path("/proc/self/status")  # ru_maxrss would count what this process was forked from
    if status.exists():
        lines = status.read_text(encoding="utf-8").splitlines()
        return next(int(line.split()[1]) / 2**10 for line in lines if "VmHWM" in line)
    import psutil
    memory = psutil.Process().memory_info()  # Windows keeps a peak; elsewhere it is what the process holds now
    return getattr(memory, "peak_wset", memory.rss) / 2**20

before, start = peak(), time.perf_counter()
knees = kneeclip.data.load_knees(sys.argv[1])
seconds = time.perf_counter() - start
images = sum(map(len, knees.values()))
print(json.dumps({"seconds": seconds, "images": images, "peak_mib": peak(), "imports_mib": before}))
"""


def _load_elsewhere(source: str, cache: str) -> dict:
    """`load_knees` in a fresh process with the cache in a folder of its own."""
    with _cache(cache):
        done = _python("-c", _LOAD, source)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        what = "the data can't be read into a cache: " + said.removeprefix("kneeclip.errors.KneeError: ").rstrip(".")
        raise KneeError(what, source, "run kneeclip audit on it")
    return json.loads(done.stdout.strip().splitlines()[-1])


def _python(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True)


@contextmanager
def _cache(folder: str):
    """Keep decoded images in `folder`, not in the user's cache."""
    before = os.environ.get("KNEECLIP_CACHE")
    os.environ["KNEECLIP_CACHE"] = folder
    try:
        yield
    finally:
        os.environ.pop("KNEECLIP_CACHE")
        if before is not None:
            os.environ["KNEECLIP_CACHE"] = before
