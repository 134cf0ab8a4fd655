"""Two processes are one run: losses, weights, checkpoints and counts, by real processes that talk over gloo."""

import json
import math
import os
import subprocess
import sys
import time
import types
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from kneeclip import cli, processes
from kneeclip.checkpoints import load_state
from kneeclip.errors import KneeError
from kneeclip.model import load_clip, predict
from kneeclip.presets import Recipe
from kneeclip.training import train

needs_fork = pytest.mark.skipif(sys.platform != "linux", reason="notebook_launcher forks")
ROOT = Path(__file__).parents[1]
LAUNCH = ["--multi_gpu", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
# 16 images in steps of 5: of two processes one gets three and the other two; of the last step, one and none
RECIPE = Recipe(epochs=5, batch_size=5, lr=1e-4, augment=0.5, save_every=5, select="none")
# A trained model: in one fresh from zero-born biases a norm is so small that "relative" means nothing.
MODEL = "phantom-clip"


def accelerate_launch(*words, n=2, **kwargs):
    """``accelerate launch`` with n processes on the CPU."""
    command = [sys.executable, "-m", "accelerate.commands.launch", *LAUNCH]
    command += ["--main_process_port", "0", "--num_processes", str(n), "-m", "kneeclip", *map(str, words)]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=240,
        env=os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}, **kwargs,
    )  # fmt: skip


def assert_same_run(a, b):
    """Losses of the two folders' runs to 1e-5, weights to 1e-6 of each tensor's norm."""
    histories = [json.loads((folder / "history.json").read_text()) for folder in (a, b)]
    for one, other in zip(*(history["epochs"] for history in histories), strict=True):
        assert one["tune_accuracy"] == other["tune_accuracy"]
    steps = [history["steps"] for history in histories]
    assert len(steps[0]) == len(steps[1]) >= 20
    for one, other in zip(*steps, strict=True):
        assert one.keys() == other.keys()
        assert one["total"] == pytest.approx(other["total"], abs=1e-5), one["step"]
    first, second = (load_file(folder / "model.safetensors") for folder in (a, b))
    for folder, weights in ((a, first), (b, second)):
        # a temperature fitted on a few images moves more than the weights did: undo it, compare what was trained
        temperature = json.loads((folder / "run.json").read_text())["temperature"]
        weights["logit_scale"] = weights["logit_scale"].double() + math.log(temperature or 1)
    for name, value in first.items():
        difference = (value - second[name]).norm()
        if name.endswith("k_proj.bias"):
            # softmax does not see a bias of the keys: its gradient is 0 but for rounding, which AdamW blows up
            assert difference < RECIPE.lr * len(steps[0]) * value.numel() ** 0.5, name
        else:
            assert difference <= 1e-6 * value.norm(), name


@pytest.fixture(scope="module")
def knees():
    """Phantoms: 16 to train on, 5 to tune on."""
    from kneeclip.phantom import make_phantoms

    def split(n, seed):
        drawn = make_phantoms((n + 1) // 2, seed, size=112)
        return {"image": drawn.images[:n], "grade": drawn.grades[:n], "patient": list(drawn.patients[:n])}

    return {"train": split(16, 1), "tune": split(5, 2)}


@pytest.fixture(scope="module")
def alone(knees, tmp_path_factory):
    """The run of one process that the others are held against."""
    out = tmp_path_factory.mktemp("alone") / "run"
    train(*load_clip(MODEL), knees, "criteria", RECIPE, out=out, progress=False)
    return out


class Stopped(Exception):
    pass


def job(knees, out, stop_at=None):
    """One run in `out`; with `stop_at` it dies after that step, its checkpoint one step older."""

    def watch(_, steps):
        if stop_at and len(steps) == stop_at:
            raise Stopped

    train(*load_clip(MODEL), knees, "criteria", RECIPE, out=out, progress=False, watch=watch)


@needs_fork
def test_two_processes_are_one_and_either_goes_on_where_the_other_stopped(knees, alone, tmp_path):
    # a notebook that has trained before (the fixture has) can still launch
    processes.launch(job, knees, tmp_path / "two")
    assert_same_run(alone, tmp_path / "two")

    with pytest.raises(KneeError, match="Stopped"):
        processes.launch(job, knees, tmp_path / "2to1", 11)
    assert load_state(tmp_path / "2to1" / "checkpoint.safetensors")[1]["step"] == 10
    job(knees, tmp_path / "2to1")
    assert_same_run(alone, tmp_path / "2to1")

    with pytest.raises(Stopped):
        job(knees, tmp_path / "1to2", 11)
    processes.launch(job, knees, tmp_path / "1to2")
    assert_same_run(alone, tmp_path / "1to2")


def shared(images, mirror, out):
    p, p_flip = processes.predict_shared(*load_clip(MODEL), images, "criteria", mirror=mirror)
    np.savez(out / f"{processes.rank()}.npz", p=p, p_flip=p_flip)


@needs_fork
@pytest.mark.parametrize("n", [7, 1])
def test_a_shared_prediction_grades_each_image_once_and_in_order(n, knees, tmp_path):
    images, mirror = knees["train"]["image"][:n], np.arange(n) % 3 == 0
    whole = predict(*load_clip(MODEL), images, "criteria", mirror=mirror)
    processes.launch(shared, images, mirror, tmp_path)
    for rank in range(2):
        answers = np.load(tmp_path / f"{rank}.npz")
        for name, expected in zip(("p", "p_flip"), whole, strict=True):
            np.testing.assert_allclose(answers[name], expected, atol=1e-6)


@needs_fork
def test_what_fails_in_a_launch_comes_back_as_its_sentence(knees, tmp_path, capfd):
    bad = {"train": {**knees["train"], "grade": knees["train"]["grade"] + 5}}
    with pytest.raises(KneeError, match=r"^a grade of train lies outside 0 to 4 .*: use KL grades 0 to 4\.$"):
        processes.launch(job, bad, None)
    (tmp_path / "file").touch()  # only the main process writes, and so only it can fail; the other would wait forever
    with pytest.raises(KneeError, match=r"^the folder can't be written .*choose another folder.*$"):
        processes.launch(job, knees, tmp_path / "file" / "run")
    assert "Traceback" not in capfd.readouterr().err


class First(KneeError):
    """The error that counts; its process ends once another one has worded its own, or after a second."""

    def __str__(self):
        (self.marks / "failed").touch()
        while not (self.marks / "wording").exists() and time.monotonic() < self.until:
            time.sleep(0.01)
        return super().__str__()


class Wordy(Exception):
    """An error that leaves a mark when it is put into words."""

    def __str__(self):
        (self.marks / "wording").touch()
        return "too late"


def fail_in_turn(first, marks):
    """The process `first` fails; the other stumbles over that."""
    error = First("the first to fail") if processes.rank() == first else Wordy()
    error.marks, error.until = marks, time.monotonic() + 1
    while processes.rank() != first and not (marks / "failed").exists():
        time.sleep(0.01)
    raise error


@needs_fork
@pytest.mark.parametrize("first", [0, 1])
def test_a_process_that_stumbles_over_anothers_end_is_not_heard(first, tmp_path, capfd):
    """Stopped by the launcher while it worded its error, it would print a traceback; quicker, it would be believed."""
    with pytest.raises(KneeError, match=r"the first to fail\.$"):
        processes.launch(fail_in_turn, first, tmp_path)
    assert not (tmp_path / "wording").exists() and capfd.readouterr().err == ""


def test_processes_that_do_not_know_of_each_other_are_refused(monkeypatch):
    from kneeclip.processes import make_accelerator

    make_accelerator("no")  # alone; a launch that sets no rendezvous would find this state
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(KneeError, match="don't know of each other.*2 launched, 1 together.*accelerate launch"):
        make_accelerator("no")


def test_the_launchers_precision_is_not_taken_over_in_silence(monkeypatch):
    from kneeclip.processes import make_accelerator

    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    with pytest.warns(UserWarning, match="asks for bf16.*recipe's precision counts"):
        assert make_accelerator("no").mixed_precision == "no"


@pytest.fixture
def folder(tmp_path):
    """The public layout: 20 train patients, 5 validation patients."""
    rng = np.random.default_rng(0)
    for split, patients, first in (("train", 20, 9000000), ("val", 5, 9500000)):
        for i in range(patients):
            for side in "LR":
                grade = int(rng.integers(0, 5))
                place = tmp_path / "knees" / split / str(grade)
                place.mkdir(parents=True, exist_ok=True)
                pixels = np.clip(rng.normal(40 + 40 * grade, 20, (64, 64)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(place / f"{first + i}{side}.png")
    return tmp_path / "knees"


def shell(*words):
    """``kneeclip words`` in this process; SystemExit tells how it ended."""
    sys.argv = ["kneeclip", *map(str, words)]
    cli.main()


def shell_that_ends_well(*words):
    with pytest.raises(SystemExit) as exit:
        shell(*words)
    assert not exit.value.code


@needs_fork
def test_accelerate_launch_trains_the_same_run_and_evaluates_each_image_once(folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "argv", [])
    common = ["--data", folder, "--model", MODEL, "--batch-size", "8", "--epochs", "5", "--lr", "0.0001"]
    done = accelerate_launch("train", *common, "--out", tmp_path / "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Kept epoch") == done.stdout.count("Next: kneeclip evaluate") == 1
    assert len(list((tmp_path / "cache").iterdir())) == 1
    shell_that_ends_well("train", *common, "--out", tmp_path / "one")
    assert_same_run(tmp_path / "one", tmp_path / "two")

    shell_that_ends_well("evaluate", tmp_path / "two", "--data", folder, "--json", tmp_path / "one.json")
    capfd.readouterr()
    words = ("evaluate", tmp_path / "two", "--data", folder, "--json", tmp_path / "two.json")
    processes.launch(shell_that_ends_well, *words)
    out = capfd.readouterr().out
    assert out.count("never for diagnosis") == out.count("Numbers: ") == 1
    one, two = (json.loads((tmp_path / name).read_text()) for name in ("one.json", "two.json"))
    assert two["n"] == 10 == np.sum(two["confusion"])
    assert one["confusion"] == two["confusion"] and one["ece"] == pytest.approx(two["ece"], abs=1e-6)


@needs_fork
@pytest.mark.parametrize("words", [("train", "--arm", "clipkoa"), ("train", "--nonsense")])
def test_an_error_is_said_once_in_a_launch_and_ends_it(words, capfd, monkeypatch):
    monkeypatch.setattr(sys, "argv", [])
    with pytest.raises(KneeError):
        processes.launch(shell, *words)
    err = capfd.readouterr().err
    assert err.count(words[-1]) == (2 if words[-1] == "clipkoa" else 1)  # that sentence names its culprit twice
    assert err.count("kneeclip: the recipe") <= 1 and "Traceback" not in err


def test_the_pages_show_what_was_measured():
    results = ROOT / "results" / "scaling"
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    report = json.loads((results / "scaling.json").read_text())
    rates, counted = report["measured"], report["counted"]
    for shown in (
        f"{rates['png_bytes']:,} bytes an image", f"{rates['decode_images_per_s']:,} images/s",
        f"{rates['step_row_bytes']} bytes a step", f"{counted['weights']:,} weights",
        f"{counted['training_bytes'] / 1e9:.1f} GB", f"{counted['checkpoint_bytes'] / 1e9:.1f} GB",
        f"{counted['gradient_bytes'] / 1e9:.2f} GB", *(f"{row['steps']:,} |" for row in report["arithmetic"]),
    ):  # fmt: skip
        assert shown in page, shown
    pixels = [f"{row['bytes']['pixels (uint8, 224 px)'] / 1e9:.2g} GB" for row in report["arithmetic"][:1]]
    assert pixels[0] in page
    lines = (results / "README.md").read_text(encoding="utf-8").splitlines()
    runs = json.loads((results / "processes.json").read_text())["runs"]
    for name, row in runs.items():
        loss, weights = row["loss_max_difference"], row["weights_max_relative_difference"]
        assert f"| {name} | {loss:.1e} | {weights:.1e} |" in lines
        assert loss < 1e-5 and weights < 1e-6 and row["steps"] == 20


def test_colab_without_two_gpus_is_refused_before_anything_is_run(monkeypatch):
    """There Accelerate's launcher calls the function once, in the notebook's own process."""
    import torch

    colab = types.SimpleNamespace(get_ipython=lambda: "<google.colab._shell.Shell object>")
    monkeypatch.setitem(sys.modules, "IPython", colab)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")
    called, threads = [], torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with pytest.raises(KneeError, match="starts no processes here .*processes=2.*accelerate launch"):
            processes.launch(called.append, 1)
        assert not called and torch.get_num_threads() == 2, "the notebook would go on with one thread"
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("platform", ["win32", "darwin"])
def test_a_launch_is_refused_where_nobody_has_tried_to_fork(platform, monkeypatch):
    monkeypatch.setattr(sys, "platform", platform)
    with pytest.raises(KneeError, match=f"can't fork .*{platform}.*accelerate launch"):
        processes.launch(print)


def test_one_process_is_no_launch():
    with pytest.raises(KneeError, match="processes=1.*2 or more"):
        processes.launch(print, processes=1)
