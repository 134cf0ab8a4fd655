"""A disk that is full and a folder that can't be written, for real: one sentence, and the last checkpoint intact.

A file size limit of this process stands for a full disk everywhere. Where Linux lets a user have mounts of their own,
a disk of a few MB is filled as well, and mounted read-only; permissions alone would not stop root.
"""

import contextlib
import dataclasses
import os
import shutil
import subprocess
import sys

import pytest
import torch

from kneeclip.checkpoints import load_state, save_state, write_json
from kneeclip.errors import KneeError
from kneeclip.model import load_clip, save_clip
from kneeclip.training import train

resource = pytest.importorskip("resource", reason="Windows has no file size limit")


@contextlib.contextmanager
def no_file_above(size: int):
    """Writing past `size` bytes fails with "File too large", as past a disk's end with "No space left"."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_no_room_for_a_checkpoint_in_the_middle_of_a_run(tiny_folder, arrays, recipe, tmp_path):
    recipe = dataclasses.replace(recipe, save_every=1, calibrate=True)
    whole = train(*load_clip(tiny_folder), arrays, "criteria", recipe, progress=False)
    with contextlib.ExitStack() as stack:

        def fill(history, steps):
            if len(steps) == 4:
                stack.enter_context(no_file_above(2**16))

        with pytest.raises(KneeError, match="can't be written .*File too large.* intact.*checkpoint.*resumes"):
            train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path, watch=fill, progress=False)
    assert load_state(tmp_path / "checkpoint.safetensors")[1]["step"] == 3
    assert sorted(path.name for path in tmp_path.iterdir()) == ["best.safetensors", "checkpoint.safetensors"]
    resumed = train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path, progress=False)
    assert resumed.resumed_at == 3
    after = resumed.model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in whole.model.state_dict().items())


def test_no_room_for_the_model_at_the_end(tiny, tiny_folder, tmp_path):
    shutil.copytree(tiny_folder, tmp_path / "clip")
    before = {path.name: path.read_bytes() for path in (tmp_path / "clip").iterdir()}
    with no_file_above(2**14), pytest.raises(KneeError, match="model can't be saved .*clip.*free some space"):
        save_clip(*tiny, tmp_path / "clip")
    assert before == {path.name: path.read_bytes() for path in (tmp_path / "clip").iterdir()}


def test_a_model_is_on_the_disk_before_it_is_in_its_place(tiny, tmp_path, monkeypatch):
    """The run's checkpoint is removed after it: a power cut must not leave names without their bytes."""
    done, sync, move = [], os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: done.append(os.fstat(file).st_ino) or sync(file))

    def replace(a, b):
        assert os.stat(a).st_ino in done, a
        move(a, b)

    monkeypatch.setattr(os, "replace", replace)
    save_clip(*tiny, tmp_path / "clip")
    assert {path.stat().st_ino for path in (tmp_path / "clip").iterdir()} <= set(done)


def test_no_room_for_decoded_images(tmp_path, monkeypatch):
    import numpy as np
    from PIL import Image

    from kneeclip.data import load_knees

    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "knees" / "train" / "0").mkdir(parents=True)
    for i in range(4):
        Image.fromarray(np.full((200, 200), i, np.uint8)).save(tmp_path / "knees" / "train" / "0" / f"900000{i}L.png")
    with no_file_above(2**14), pytest.raises(KneeError, match="can't be stored: .*File too large.*KNEECLIP_CACHE"):
        load_knees(tmp_path / "knees")
    assert not list((tmp_path / "cache").iterdir())
    assert len(load_knees(tmp_path / "knees")["train"]) == 4


def test_a_place_that_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("in the way", encoding="utf-8")
    for write in (
        lambda: write_json(tmp_path / "file" / "m.json", {}),
        lambda: save_state(tmp_path / "file" / "c.safetensors", {"a": torch.ones(1)}, {}),
    ):
        with pytest.raises(KneeError, match="can't be written.*file.*choose another folder") as caught:
            write()
        assert ("resumes" in str(caught.value)) == ("c.safetensors" in str(caught.value))  # numbers resume nothing
    assert (tmp_path / "file").read_text(encoding="utf-8") == "in the way"


SMALL_DISK = """
import os, subprocess, sys, torch
from pathlib import Path
from kneeclip.checkpoints import load_state, save_state
from kneeclip.errors import KneeError
from kneeclip.model import load_clip, save_clip
disk, clip = Path(sys.argv[1]), sys.argv[2]
def refused(call, *words):
    before = {p: p.read_bytes() for p in disk.rglob("*") if p.is_file()}
    try:
        call()
    except KneeError as error:
        assert all(word in str(error) for word in words), error
        assert before == {p: p.read_bytes() for p in disk.rglob("*") if p.is_file()}
    else:
        raise AssertionError(f"nothing was refused: {words}")
mount = lambda *words: subprocess.run(["mount", *words, str(disk)], check=True)
mount("-t", "tmpfs", "-o", "size=2m", "none")
path = disk / "run" / "checkpoint.safetensors"
save_state(path, {"a": torch.ones(250_000)}, {"step": 1})
model, processor = load_clip(clip)
larger = {"a": torch.zeros(300_000)}
refused(lambda: save_state(path, larger, {"step": 2}), "No space left on device", "intact", "resumes")
(disk / "filler").write_bytes(bytes(900_000))
refused(lambda: save_clip(model, processor, disk / "run"), "the model can't be saved", "free some space")
mount("-o", "remount,ro")
refused(lambda: save_state(path, {"a": torch.zeros(3)}, {"step": 2}), "Read-only file system", "another folder")
refused(lambda: save_clip(model, processor, disk / "model"), "Read-only file system", "another folder")
assert load_state(path)[1] == {"step": 1} and torch.equal(load_state(path)[0]["a"], torch.ones(250_000))
"""


def test_a_full_disk_and_a_read_only_one(tiny_folder, tmp_path):
    (tmp_path / "disk").mkdir()
    apart = ["unshare", "--map-root-user", "--mount"]
    try:
        subprocess.run([*apart, "mount", "-t", "tmpfs", "none", tmp_path / "disk"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no mounts of one's own here ({getattr(error, 'stderr', error)})")
    code = [sys.executable, "-c", SMALL_DISK, str(tmp_path / "disk"), str(tiny_folder)]
    done = subprocess.run([*apart, *code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-1000:]
    assert not list((tmp_path / "disk").iterdir())  # the mount was the other process's alone
