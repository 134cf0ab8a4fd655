"""SIGKILL at any moment of a run: what is left can be read, and the same command ends in the same bits.

Three kills here; ``make kill`` does 25. A kill inside a write is no luck: the process is stopped as soon as the
write's temporary file is seen, and killed only if that file still stands.
"""

import dataclasses
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from kneeclip.checkpoints import load_state
from kneeclip.errors import KneeError
from kneeclip.model import load_clip
from kneeclip.presets import Recipe
from kneeclip.training import train

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")

KILLS = int(os.environ.get("KNEECLIP_KILLS", 3))
#: What is being written when the kill comes: the temporary file's prefix, and how many such writes to let pass.
MOMENTS = {
    "a checkpoint": (".checkpoint.safetensors-", 25),
    "any": (None, 0),
    "the model, at the end": (".saving-", 0),
    "the best epoch": (".best.safetensors-", 0),
    "the record, last of all": (".run.json-", 0),
}
RECIPE = Recipe(epochs=10, batch_size=8, lr=1e-3, save_every=1, calibrate=True)
#: Starts once, as importing PyTorch takes seconds, and then forks a training for each folder that it is told.
NURSERY = """
import os, sys, numpy as np, torch
torch.set_num_threads(1)  # a forked process has no threads but its own
from kneeclip.model import load_clip
from kneeclip.presets import Recipe
from kneeclip.training import train
z = np.load({data!r})
knees = {{s: {{k.split("/")[1]: z[k] for k in z if k.startswith(s + "/")}} for s in ("train", "tune")}}
model, processor = load_clip({clip!r})
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.close(1)
        train(model, processor, knees, "criteria", {recipe!r}, out=line.strip(), progress=False)
        os._exit(0)
    print(child, flush=True)
    os.waitpid(child, 0)
    print("gone", flush=True)
"""


@pytest.fixture(scope="module")
def undisturbed(tiny_folder, tmp_path_factory):
    """The run that nobody kills: its weights, its seconds, and the data as a file for the children."""
    rng = np.random.default_rng(1)
    knees = {}
    for split, n in (("train", 22), ("tune", 8)):
        grade = rng.integers(0, 5, n)
        image = np.clip(rng.normal(40 + 40 * grade[:, None, None], 20, (n, 28, 28)), 0, 255).astype(np.uint8)
        patient = np.array([f"{split}{i // 2}" for i in range(n)])
        knees[split] = {"image": image, "grade": grade, "patient": patient, "side": np.array(["L", "R"] * (n // 2))}
    file = tmp_path_factory.mktemp("kill") / "knees.npz"
    np.savez(file, **{f"{s}/{k}": v for s, columns in knees.items() for k, v in columns.items()})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the nursery
    start = time.perf_counter()
    run = train(*load_clip(tiny_folder), knees, "criteria", RECIPE, out=file.parent / "whole", progress=False)
    yield run.model.state_dict(), run.steps, time.perf_counter() - start, knees, file
    torch.set_num_threads(threads)


@pytest.mark.parametrize("number", range(KILLS))
def test_a_killed_run_resumes_to_the_same_bits(number, undisturbed, nursery, tiny_folder, tmp_path):
    weights, steps, seconds, knees, _ = undisturbed
    moment = list(MOMENTS)[number % len(MOMENTS)]
    rng = random.Random(number)
    inside = kill(nursery, tmp_path / "run", *MOMENTS[moment], rng, seconds)
    if moment == "any":  # and what resumes is killed once more
        inside = not kill(nursery, tmp_path / "run", *MOMENTS[moment], rng, seconds)
    for _ in range(5):  # the last writes come once a run, and a busy machine can look away
        if not inside:
            shutil.rmtree(tmp_path / "run")
            inside = kill(nursery, tmp_path / "run", *MOMENTS[moment], rng, seconds)
    assert inside, f"no kill while {moment} was written"
    left = readable(tmp_path / "run")

    resumed = train(*load_clip(tiny_folder), knees, "criteria", RECIPE, out=tmp_path / "run", progress=False)
    print(f"kill {number}, {moment}: {left}; resumed at step {resumed.resumed_at} of {len(steps)}")
    after = resumed.model.state_dict()
    assert all(torch.equal(weights[name], after[name]) for name in weights) and weights.keys() == after.keys()
    assert resumed.steps == steps
    plain = CLIPModel.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(weights[name], plain[name]) for name in weights)
    names = _names(tmp_path / "run")
    assert not [name for name in names if name.startswith((".", "checkpoint", "best"))]


@pytest.fixture(scope="module")
def nursery(undisturbed, tiny_folder):
    code = NURSERY.format(data=str(undisturbed[4]), clip=str(tiny_folder), recipe=RECIPE)
    environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, env=environment, bufsize=0)
    yield process
    process.stdin.close()
    process.wait(60)


def kill(nursery, run: Path, prefix: str | None, most: int, rng: random.Random, seconds: float) -> bool:
    """Start a training and kill it; True if that was inside the write asked for."""
    nursery.stdin.write(f"{run}\n".encode())
    child = int(nursery.stdout.readline())
    gone = lambda: select.select([nursery.stdout], [], [], 0)[0]  # noqa: E731
    let_pass, seen, give_up = rng.randint(0, most), set(), time.monotonic() + 100
    if prefix is None:
        time.sleep(rng.uniform(0, seconds / 2))
    while prefix and not gone() and time.monotonic() < give_up:
        new = {name for name in _names(run) if name.startswith(prefix)} - seen
        seen |= new
        if new and len(seen) > let_pass:
            time.sleep(
                rng.choice([0, rng.uniform(0, 0.01 if prefix == ".saving-" else 0.002)])
            )  # somewhere in the write
            os.kill(child, signal.SIGSTOP)
            time.sleep(0.005)
            if new & set(_names(run)):
                break
            os.kill(child, signal.SIGCONT)  # too late for this one: wait for the next
    if not gone():
        os.kill(child, signal.SIGKILL)
    assert nursery.stdout.readline() == b"gone\n"
    return prefix is not None and any(name.startswith(prefix) for name in _names(run))


def readable(run: Path) -> str:
    """Every file that a killed run left under its own name is whole; what there is, in words."""
    names = [name for name in _names(run) if not name.startswith(".")]
    for name in names:
        if name.endswith(".safetensors") and name != "model.safetensors":
            load_state(run / name)
        elif name.endswith(".json"):
            json.loads((run / name).read_text(encoding="utf-8"))
    if "checkpoint.safetensors" in names and "run.json" not in names:
        with pytest.raises(KneeError, match="not finished.*resumes"):
            load_clip(run)
    elif "run.json" in names:
        load_clip(run)
    kinds = Counter("half-written" if name.startswith(".") else "whole" for name in _names(run))
    return ", ".join(f"{n} files {kind}" for kind, n in sorted(kinds.items())) or "nothing yet"


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)
    except FileNotFoundError:
        return []


def test_a_checkpoint_of_weights_that_overflowed_replaces_no_good_one(tiny_folder, undisturbed, tmp_path):
    # the last loss before the overflow is finite, so only the weights can tell
    knees = undisturbed[3]
    recipe = dataclasses.replace(RECIPE, epochs=1, warmup=0.0)
    seen = []

    def overflow(history, steps):
        if len(steps) == 2:
            with torch.no_grad():
                model.logit_scale.fill_(float("nan"))
        seen.append(len(steps))

    model, processor = load_clip(tiny_folder)
    with pytest.raises(KneeError, match="weights are no longer finite after step 2.*lower learning rate.*kept"):
        train(model, processor, knees, "criteria", recipe, out=tmp_path / "run", progress=False, watch=overflow)
    tensors, meta = load_state(tmp_path / "run" / "checkpoint.safetensors")
    assert meta["step"] == 1 and all(value.isfinite().all() for value in tensors.values()) and seen == [1, 2]
