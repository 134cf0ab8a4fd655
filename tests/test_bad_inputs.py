"""What people feed a program, and the sentence that they get: one table, through the shell's own entry.

Each case: what is wrong, the command, and what the sentence must name: the culprit and the remedy. Whatever the case,
the exit is not 0, stderr holds one sentence and no traceback, and every file that was there keeps its bytes.
"""

import io
import json
import os
import re
import shutil
import stat
import struct
import sys
import tracemalloc
import warnings
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load, save

from kneeclip import cli
from kneeclip.errors import KneeError
from kneeclip.films import list_films, read_film


class World:
    """A fresh folder with a sound data set, and ways to spoil copies of things in it."""

    def __init__(self, place: Path, clip: Path, run: Path, unfinished: Path):
        self.place, self.clip, self.run, self.unfinished = place, clip, run, unfinished
        grades = [(split, first + k, k) for split, first in (("train", 9000000), ("val", 9500000)) for k in range(5)]
        self.data = self.folder("knees", *(f"{s}/{k}/{who}{side}.png" for s, who, k in grades for side in "LR"))

    def folder(self, name, *films) -> Path:
        (self.place / name).mkdir(exist_ok=True)
        for film in films:
            (self.place / name / film).parent.mkdir(parents=True, exist_ok=True)
            (self.place / name / film).write_bytes(png(film))
        return self.place / name

    def file(self, name, content: bytes | str | object) -> Path:
        if not isinstance(content, bytes | str):
            content = json.dumps(content)
        path = self.place / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def pipe(self, name) -> Path:
        os.mkfifo(self.place / name)
        return self.place / name

    def image(self, width, height) -> Path:
        """An image that claims to be of that size: nobody should have to decode it to know."""
        head = b"IHDR" + struct.pack(">II", width, height) + png()[24:29]
        return self.file("odd.png", png()[:12] + head + struct.pack(">I", zlib.crc32(head)) + png()[33:])

    def spoilt(self, folder: Path, **files) -> Path:
        """A copy of a folder with some files replaced (bytes, str, JSON), changed (a function), or removed (None)."""
        copy = self.place / f"copy of {folder.name}"
        shutil.copytree(folder, copy)
        for name, content in files.items():
            path = copy / ".".join(name.rsplit("_", 1))
            before = path.read_bytes() if path.exists() else b""
            path.unlink(missing_ok=True)
            if callable(content):
                content = content(before)
            if content is not None:
                self.file(path.relative_to(self.place), content)
        return copy

    def zip(self, *members) -> Path:
        """The sound data set as a zip, with more members: (name, content) or (ZipInfo, content)."""
        path = self.place / "knees.zip"
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for file in sorted(self.data.rglob("*.png")):
                archive.write(file, file.relative_to(self.data))
            for name, content in members:
                archive.writestr(name, content)
        return path

    # the commands, with what the case does not care about

    def predict(self, image, *words):
        return ("predict", image, "--model", self.clip, *words)

    def train(self, *words, data=None):
        words = words if "--out" in words else (*words, "--out", self.place / "new run")
        return ("train", "--data", data or self.data, "--model", self.clip, "--epochs", 2, "--batch-size", 4, *words)

    def evaluate(self, model, *words):
        return ("evaluate", model, "--data", self.data, *words)

    def prompts(self, value):
        return self.train("--prompts", self.file("mine.json", value))


def png(seed="knee", size=(40, 40)) -> bytes:
    file = io.BytesIO()
    rng = np.random.default_rng(list(str(seed).encode()))
    Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def link(name):
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


def lying(path: Path) -> Path:
    """Cut the declared size of the zip's last member to 100 bytes: what it unpacks to is another matter."""
    raw = bytearray(path.read_bytes())
    at = raw.rindex(b"PK\1\2")
    raw[at + 24 : at + 28] = struct.pack("<I", 100)
    path.write_bytes(raw)
    return path


def fewer(content: bytes) -> bytes:
    """The weights without one matrix."""
    tensors = load(content)
    tensors.pop("visual_projection.weight")
    return save(tensors, metadata={"format": "pt"})


def endless(content: bytes) -> bytes:
    """The weights with one NaN, as a half-precision run that went wrong leaves them."""
    tensors = load(content)
    tensors["visual_projection.weight"][0, 0] = float("nan")
    return save(tensors, metadata={"format": "pt"})


def smaller(content: bytes) -> dict:
    """Preprocessing for a tower of another size."""
    settings = json.loads(content)
    settings["image_processor"]["crop_size"] = {"height": 20, "width": 20}
    return settings


def wider(content: bytes) -> dict:
    """The config of another shape."""
    return json.loads(content) | {"projection_dim": 24}


def hollow(content: bytes) -> bytes:
    """A checkpoint with the right fingerprint and nothing else."""
    header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
    meta = {"fingerprint": json.loads(header["__metadata__"]["meta"])["fingerprint"]}
    return save({"a": torch.ones(1)}, metadata={"meta": json.dumps(meta)})


def notebook(world: World) -> Path:
    return world.file("01_page.ipynb", {"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).parent


def nameless(world: World) -> Path:
    return world.folder("nameless", *(f"{split}/{k}/{split}{k}x.png" for split in ("train", "val") for k in range(5)))


FIVE = ["normal", "doubtful", "mild", "moderate", "severe"]
# fmt: off
CASES = {
    # one image
    "an image cut short": (lambda w: w.predict(w.file("cut.png", png()[:200])), "cut.png", "copy it again"),
    "an empty image": (lambda w: w.predict(w.file("empty.png", b"")), "empty.png", "copy it again"),
    "a text called png": (lambda w: w.predict(w.file("note.png", "a knee, honestly")), "note.png", "leave it out"),
    "an image of 1 x 1": (lambda w: w.predict(w.image(1, 1)), "odd.png: 1 x 1", "16 to 10,000 px a side"),
    "an image of 20,000 px": (lambda w: w.predict(w.image(20_000, 20_000)), "odd.png", "16 to 10,000 px a side"),
    "a strip of 20,000 px": (lambda w: w.predict(w.image(20_000, 40)), "20000 x 40", "16 to 10,000 px a side"),
    "an image of 99 megapixels": (lambda w: w.predict(w.image(9_999, 9_999)), "9999 x 9999", "16 to 10,000 px"),
    "an image that is not there": (lambda w: w.predict(w.place / "none.png"), "none.png", "check the path"),
    "a folder for an image": (lambda w: w.predict(w.data), "knees", "copy it again"),
    "a name that breaks the line": (lambda w: w.predict(w.place / "a\nb\x1b[2J.png"), r"a\nb\x1b[2J.png", "check"),
    "a pipe for an image": (lambda w: w.predict(w.pipe("pipe.png")), "pipe.png", "copy it again"),
    "a DICOM file": (lambda w: w.predict(w.file("knee.dcm", bytes(128) + b"DICM")), "knee.dcm", "export DICOM as PNG"),
    "one bad image among good ones":
        (lambda w: w.predict(w.file("good.png", png()), w.file("bad.png", b"x")), "bad.png", "leave it out"),
    # a folder of images
    "no such folder": (lambda w: w.train(data=w.place / "nowhere"), "nowhere", "check the path"),
    "an empty folder": (lambda w: w.train(data=w.folder("empty")), "empty", "train, val or test"),
    "a folder of other things": (lambda w: w.train(data=w.clip), "tiny", "train, val or test"),
    "images in no split":
        (lambda w: w.train(data=w.folder("flat", "0/1L.png", "1/2L.png")), "flat", "train, val or test"),
    "a class 5":
        (lambda w: w.train(data=w.folder("knees", "train/5/9000500L.png")),
         "train/5/9000500L.png", "grades are the folders 0 to 4"),
    "a class named in words":
        (lambda w: w.train(data=w.folder("knees", "train/KL2/9000500L.png")),
         "train/KL2/9000500L.png", "grades are the folders 0 to 4"),
    "a patient in two splits":
        (lambda w: w.train(data=w.folder("knees", "val/0/9000003L.png")),
         "9000003", "keep all of a patient's knees in one split"),
    "a patient in two splits, audited":
        (lambda w: ("audit", w.folder("knees", "val/0/9000003L.png")), "train/3/9000003L.png", "audit again"),
    "an empty folder, audited": (lambda w: ("audit", w.folder("empty")), "empty", "audit again"),
    "no train split":
        (lambda w: w.train(data=w.folder("few", *(f"val/{k}/900000{k}L.png" for k in range(5)))),
         "only validation", "train folder"),
    "a split that is not there": (lambda w: w.evaluate(w.clip, "--split", "test"), "test", "train, validation"),
    "a split that nobody has": (lambda w: w.evaluate(w.clip, "--split", "exam"), "exam", "train, validation"),
    "an unreadable image in the folder":
        (lambda w: w.train(data=w.file("knees/train/0/9000000L.png", png()[:99]).parents[2]),
         "train/0/9000000L.png", "copy it again"),
    "two data sets in one folder":
        (lambda w: w.train(data=w.folder("both", "a/train/0/1L.png", "b/train/0/1L.png")),
         "a, b", "name one of these folders"),
    "sides that nobody has": (lambda w: w.train("--sides", "X"), "sides='X'", "choose both, L or R"),
    "one side of knees that have none":
        (lambda w: w.train("--sides", "R", data=nameless(w)), "sides='R'", "end the file names in L or R"),
    "knees to mirror that have no side":
        (lambda w: w.train("--arm", "canonical", data=nameless(w)), "train", "end the file names in L or R"),
    # a zip
    "a zip that writes outside":
        (lambda w: w.train(data=w.zip(("../train/0/x.png", "x"))), "../train/0/x.png", "unpack it"),
    "a zip with absolute paths":
        (lambda w: w.train(data=w.zip(("/train/0/x.png", "x"))), "/train/0/x.png", "unpack it"),
    "a zip with Windows paths": (lambda w: w.train(data=w.zip((r"train\..\..\x", "x"))), "train/../../x", "unpack it"),
    "a zip with a link": (lambda w: w.train(data=w.zip((link("train/0/x.png"), "y"))), "train/0/x.png", "unpack it"),
    "a zip bomb": (lambda w: w.train(data=w.zip(("train/0/x.bmp", bytes(2**23)))), "knees.zip", "unpack it yourself"),
    "a zip bomb that denies it":
        (lambda w: w.train(data=lying(w.zip(("train/0/9000009L.bmp", bytes(2**23))))),
         "train/0/9000009L.bmp", "copy it again"),
    "half a zip": (lambda w: w.train(data=w.file("h.zip", w.zip().read_bytes()[:3000])), "h.zip", "download it again"),
    "no zip at all": (lambda w: w.train(data=w.file("n.zip", "404 not found")), "n.zip", "download it again"),
    "another kind of archive": (lambda w: w.train(data=w.file("k.tar.gz", b"\x1f\x8b")), "k.tar.gz", "unpack it"),
    # prompts
    "an unknown prompt set": (lambda w: w.train("--prompts", "poetry"), "poetry", "choose one of names, paper"),
    "prompts that are not there": (lambda w: w.train("--prompts", "no.json"), "no.json", "JSON list of 5 texts"),
    "prompts that are no JSON": (lambda w: w.prompts(b"\xff{"), "mine.json", "JSON list of 5 texts"),
    "prompts that are a text":
        (lambda w: w.train("--prompts", w.file("mine.txt", "a knee")), "mine.txt", "JSON list of 5 texts"),
    "prompts that are a number": (lambda w: w.prompts(5), "mine.json", "JSON list of 5 texts"),
    "an empty prompt": (lambda w: w.prompts([*FIVE[:4], " "]), "KL4 is empty (in", "in a few words"),
    "a prompt twice": (lambda w: w.prompts([*FIVE[:4], "Mild "]), "mild", "change one"),
    "prompts for 4 grades": (lambda w: w.prompts(FIVE[:4]), "has 4 (in", "give 5 texts"),
    "prompts for 6 grades": (lambda w: w.prompts([*FIVE, "worst"]), "has 6 (in", "give 5 texts"),
    "a prompt over 77 tokens": (lambda w: w.prompts([*FIVE[:4], "bad " * 99]), "KL4 has", "shorten it by"),
    "prompts of the same tokens": (lambda w: w.prompts([*FIVE[:3], "a  knee", "a knee"]), "KL3, KL4", "change one"),
    # a model
    "no such model": (lambda w: w.evaluate("nosuchmodel"), "nosuchmodel", "name a folder with a config.json"),
    "no network":
        (lambda w: w.evaluate("openai/clip-vit-base-patch16"), "openai/clip-vit", "check the name and the network"),
    "a model folder that is not there":
        (lambda w: w.evaluate("my models/first run"), "my models/first run", "name a folder with a config.json"),
    "a model of no hub": (lambda w: w.evaluate("Röntgen/膝"), "neither a folder", "a hub id such as openai/"),
    "a revision of a model": (lambda w: w.evaluate("org/name@main"), "org/name@main", "a hub id such as openai/"),
    "a model of a name too long": (lambda w: w.evaluate("x" * 300), "xxx", "a shorter name"),
    "a file for a model": (lambda w: w.evaluate(w.clip / "config.json"), "config.json", "name a folder"),
    "a checkpoint cut short":
        (lambda w: w.evaluate(w.spoilt(w.clip, model_safetensors=lambda b: b[:1000])),
         "copy of tiny", "copy the model folder again"),
    "a checkpoint of another shape":
        (lambda w: w.evaluate(w.spoilt(w.clip, config_json=wider)), "copy of tiny", "copy the model folder again"),
    "a checkpoint that lacks weights":
        (lambda w: w.evaluate(w.spoilt(w.clip, model_safetensors=fewer)),
         "visual_projection.weight", "use a complete CLIP checkpoint"),
    "a checkpoint with NaN":
        (lambda w: w.evaluate(w.spoilt(w.clip, model_safetensors=endless)),
         "visual_projection.weight", "from before it broke"),
    "preprocessing of another size":
        (lambda w: w.evaluate(w.spoilt(w.clip, processor_config_json=smaller)),
         "copy of tiny", "copy the model folder again"),
    "a pickle for weights":
        (lambda w: w.evaluate(w.spoilt(w.clip, model_safetensors=None, pytorch_bin=b"\x80\x04N.")),
         "copy of tiny", "convert them to safetensors"),
    "an empty config":
        (lambda w: w.evaluate(w.spoilt(w.clip, config_json="")), "config.json", "copy the model folder again"),
    "a config of nothing":
        (lambda w: w.evaluate(w.spoilt(w.clip, config_json={})), "copy of tiny", "copy the model folder again"),
    "no tokenizer":
        (lambda w: w.evaluate(w.spoilt(w.clip, tokenizer_json=None)), "tokenizer of", "copy the model folder again"),
    # a run
    "a run that is not finished": (lambda w: w.evaluate(w.unfinished), "unfinished", "it resumes"),
    "a run whose record is damaged": (lambda w: w.evaluate(w.spoilt(w.run, run_json=[])), "run.json", "train again"),
    "a run whose prompts are gone":
        (lambda w: w.evaluate(w.spoilt(w.run, prompts_json=None)), "prompts.json", "JSON list of 5 texts"),
    "a run whose history is gone":
        (lambda w: w.train("--out", w.spoilt(w.run, history_json=None)), "history.json", "train again"),
    "a checkpoint cut short, resumed":
        (lambda w: w.train("--out", w.spoilt(w.unfinished, checkpoint_safetensors=lambda b: b[:1000])),
         "checkpoint.safetensors", "train again"),
    "a checkpoint of nothing, resumed":
        (lambda w: w.train("--out", w.spoilt(w.unfinished, checkpoint_safetensors=hollow)),
         "checkpoint.safetensors", "train again"),
    "another run in the folder": (lambda w: w.train("--out", w.run, "--arm", "clip"), "run", "choose another folder"),
    "a model in the folder": (lambda w: w.train("--out", w.clip), "tiny", "choose another folder"),
    "somebody's files in the folder":
        (lambda w: w.train("--out", w.data), "other files", "empty or not there yet"),
    # settings
    "an unknown command": (lambda w: ("trian",), "trian", "kneeclip --help"),
    "an unknown option": (lambda w: w.train("--epoch", 3), "--epoch", "kneeclip train --help"),
    "a missing argument": (lambda w: ("predict",), "IMAGE", "kneeclip predict --help"),
    "a word for a number": (lambda w: w.train("--lr", "fast"), "--lr", "kneeclip train --help"),
    "an unknown arm": (lambda w: w.train("--arm", "clipkoa"), "clipkoa", "clip_koa"),
    "an unknown preset": (lambda w: ("train", "--preset", "papers"), "papers", "phantom, knees, paper"),
    "real knees without data":
        (lambda w: ("train", "--preset", "paper"), "KNEECLIP_DATA", "set it to the folder or zip"),
    "phantoms with data": (lambda w: w.train("--preset", "phantom"), "knees", "leave one of the two away"),
    "real knees from phantoms":
        (lambda w: w.train("--preset", "knees", data="phantom"), "phantom", "leave one of the two"),
    "an unknown form": (lambda w: w.train("--consistency", "cosine"), "cosine", "js, kl, mse, bhattacharyya"),
    "a negative weight": (lambda w: w.train("--weight", -1), "weight=-1.0", "not negative"),
    "a weight that is no number": (lambda w: w.train("--weight", "nan"), "weight=nan", "give a number"),
    "an endless rate": (lambda w: w.train("--lr", "inf"), "lr=inf", "give a number"),
    "a rate of 0": (lambda w: w.train("--lr", 0), "lr=0.0", "above 0"),
    "no epoch": (lambda w: w.train("--epochs", 0), "epochs=0", "a whole number from 1"),
    "no image in a step": (lambda w: w.train("--batch-size", 0), "batch_size=0", "a whole number from 1"),
    "an unknown precision": (lambda w: w.train("--precision", "fp8"), "fp8", "no, bf16 or fp16"),
    "a negative seed": (lambda w: w.evaluate(w.clip, "--seed", -1), "--seed", "kneeclip evaluate --help"),
    "a seed of no generator": (lambda w: w.train("--seed", 2**70), "--seed", "kneeclip train --help"),
    "phantoms without end": (lambda w: ("phantom", "--patients", 10**12), "--patients", "kneeclip phantom --help"),
    "a rate that explodes": (lambda w: w.train("--lr", "1e30"), "9000", "a lower learning rate"),
    "no phantom": (lambda w: ("phantom", "--patients", 0), "n_patients=0", "a whole number from 1"),
    "a phantom of 7 px": (lambda w: ("phantom", "--patients", 2, "--size", 7), "size=7", "32 pixels or more"),
    "no notebooks": (lambda w: ("tutorial", "--notebooks", w.data), "knees", "a clone of the repository"),
    "too few phantoms for a batch":
        (lambda w: ("pretrain", "--patients", 3, "--out", w.place / "p"), "patients", "64 or more"),
    "no epoch of pretraining": (lambda w: ("pretrain", "--epochs", 0, "--out", w.place / "p"), "epochs", "1 or more"),
    # where the result goes
    "a run below a file": (lambda w: w.train("--out", w.file("a", "") / "run"), "a/run", "choose another folder"),
    "numbers below a file": (lambda w: w.evaluate(w.clip, "--json", w.file("a", "") / "m"), "a/m", "another --json"),
    "pages over a file":
        (lambda w: ("tutorial", "--notebooks", notebook(w), "--out", w.file("a", "")), "a", "another folder"),
    "numbers over a folder": (lambda w: w.evaluate(w.clip, "--json", w.data), "knees", "name another --json FILE"),
    "numbers over the run that is to come":
        (lambda w: w.train("--out", w.place / "rj", "--json", w.place / "rj/run.json"), "rj/run.json", "name another"),
    "numbers over a run's config":
        (lambda w: w.train("--out", w.place / "rj", "--json", w.place / "a/../rj/Config.json"),
         "Config.json", "another --json"),
    "numbers over a run's weights":
        (lambda w: w.evaluate(w.run, "--json", w.run / "checkpoint.safetensors"),
         "checkpoint.safetensors", "another --json"),
    "a run of a name too long": (lambda w: w.train("--out", w.place / ("x" * 300)), "xxx", "a shorter name"),
    "numbers of a name too long":
        (lambda w: w.evaluate(w.clip, "--json", w.place / ("x" * 300)), "xxx", "a shorter name"),
    "data of a name too long": (lambda w: w.train(data=w.place / ("x" * 300)), "xxx", "a shorter name"),
    "a pretrained model below a file":
        (lambda w: ("pretrain", "--out", w.file("a", "") / "p"), "a/p", "choose another folder"),
    "a study that is not there": (lambda w: ("study", w.place / "none.yaml"), "none.yaml", "name a YAML file"),
    "a figure below a file":
        (lambda w: ("phantom", "--patients", 2, "--out", w.file("a", "") / "f.png"),
         "a/f.png", "choose another folder"),
    "a figure of no form": (lambda w: ("phantom", "--patients", 2, "--out", "f.doc"), "f.doc", ".png, .svg or .pdf"),
}
# fmt: on


@pytest.fixture(scope="module")
def runs(tiny_folder, tmp_path_factory):
    """A finished run and one that was stopped after its first epoch, both of the sound data set."""
    place = tmp_path_factory.mktemp("runs")
    world = World(place, tiny_folder, place / "run", place / "unfinished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KNEECLIP_CACHE", str(place / "cache"))
        assert shell(patch, world.train("--out", world.run)) == 0

        import kneeclip.training

        real = kneeclip.training.RunState.end_of_epoch

        def stop(self, *args):
            real(self, *args)
            raise KeyboardInterrupt

        patch.setattr(kneeclip.training.RunState, "end_of_epoch", stop)
        assert shell(patch, world.train("--out", world.unfinished)) == 130
    return world.run, world.unfinished


def shell(monkeypatch, words) -> int:
    monkeypatch.setattr(sys, "argv", ["kneeclip", *map(str, words)])
    with pytest.raises(SystemExit) as exit:
        cli.main()
    return exit.value.code or 0


@pytest.mark.parametrize("case", CASES)
def test_one_sentence_and_nothing_lost(case, runs, tiny_folder, tmp_path, monkeypatch, capsys):
    for name in ("KNEECLIP_PRESET", "KNEECLIP_DATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    command, culprit, remedy = CASES[case]
    words = command(World(tmp_path, tiny_folder, *runs))
    places = (tmp_path, tiny_folder, *runs)
    before = {path: path.read_bytes() for place in places for path in place.rglob("*") if path.is_file()}
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("default")
        code = shell(monkeypatch, words)
    err = re.sub(r"(?m)^.*step/s.*$\n?|\x1b\[A|\r", "", capsys.readouterr().err).lstrip(
        "\n"
    )  # a slow run's progress bar
    assert code != 0
    assert err.startswith("kneeclip: ") and err.endswith(".\n") and err.count("\n") == 1, err
    assert "Traceback" not in err and "--debug" not in err, err  # --debug: an error that nobody had thought of
    assert culprit in err and remedy in err, err
    hidden = (DeprecationWarning, PendingDeprecationWarning, ResourceWarning, ImportWarning)
    assert not [w.message for w in warned if not issubclass(w.category, hidden)], "a shell shows warnings too"
    for path, content in before.items():
        assert path.read_bytes() == content, path


def test_a_zip_that_denies_being_a_bomb_costs_no_memory(tiny_folder, tmp_path):
    world = World(tmp_path, tiny_folder, tmp_path, tmp_path)
    listing = list_films(lying(world.zip(("train/0/9000009L.bmp", bytes(2**26)))))
    (film,) = (film for film in listing.films if film.patient == "9000009")
    tracemalloc.start()
    with pytest.raises(KneeError, match="9000009L.bmp"):
        read_film(listing, film)
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


# --- what goes on with a warning, or as if nothing had happened -----------------------------------------------------


def test_what_is_left_out_of_the_data_is_said(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    world = World(tmp_path, tiny_folder, tmp_path, tmp_path)
    world.file("knees/val/2/9600000L.dcm", b"DICM")
    world.folder("knees", "val/1/9500000L.png")
    assert shell(monkeypatch, world.evaluate(tiny_folder)) == 0
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all(line.startswith("Warning: ") for line in said)
    assert "val/2/9600000L.dcm" in said[0] and "kneeclip audit" in said[0]
    assert "val/0/9500000L.png, val/1/9500000L.png" in said[1] and "keep it in one" in said[1]


def test_a_number_left_by_a_launch_silences_nobody(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RANK", "1")
    world = World(tmp_path, tiny_folder, tmp_path, tmp_path)
    assert shell(monkeypatch, world.predict(world.file("9000000L.png", png()), "--json", tmp_path / "n.json")) == 0
    assert "9000000L.png" in capsys.readouterr().out and len(json.loads((tmp_path / "n.json").read_text())) == 1


def test_a_folder_that_may_not_be_entered_is_named(tiny_folder, tmp_path, monkeypatch, capsys):
    """Root may enter every folder, so the system's answer is made up."""
    real = Path.stat

    def refuse(path, **more):
        if "noacc" in path.parts:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **more)

    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Path, "stat", refuse)
    world, place = World(tmp_path, tiny_folder, tmp_path, tmp_path), tmp_path / "noacc" / "r"
    for words in (
        world.train("--out", place),
        world.train(data=place),
        world.evaluate(place),
        world.evaluate(tiny_folder, "--json", place),
        ("audit", place),
        ("tutorial", "--notebooks", notebook(world), "--out", place),
    ):
        assert shell(monkeypatch, words) == 1
        err = capsys.readouterr().err
        assert "Permission denied" in err and "noacc" in err and "--debug" not in err and err.count("\n") == 1, err


# --- what must simply work ---------------------------------------------------------------------------------------


def pictures(place: Path) -> dict[str, Path]:
    grey = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)).resize((120, 120))
    exif = Image.Exif()
    exif[0x0112] = 6
    kinds = {
        "rgba.png": (grey.convert("RGBA"), {}),
        "palette.png": (grey.convert("P"), {"transparency": bytes(range(256))}),
        "deep.png": (Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), {}),
        "turned.jpg": (grey, {"exif": exif}),
        "cmyk.jpg": (grey.convert("CMYK"), {}),
        "large.png": (grey.resize((4000, 4000)), {"compress_level": 1}),
        "large.jpg": (grey.resize((4000, 4000)), {}),
    }
    for name, (image, options) in kinds.items():
        image.save(place / name, **options)
    return [place / name for name in kinds]


def test_images_of_every_kind_are_graded_without_a_word(tiny_folder, tmp_path, monkeypatch, capsys):
    assert shell(monkeypatch, ("predict", *pictures(tmp_path), "--model", tiny_folder)) == 0
    out, err = capsys.readouterr()
    assert err == "" and all(path.name in out for path in tmp_path.glob("*g"))


def test_odd_inputs_are_graded_with_a_warning(tiny_folder, tmp_path, monkeypatch, capsys):
    bone = np.tile(200 - 150 * np.abs(np.linspace(-1, 1, 100)) ** 4, (100, 1)).astype(np.uint8)
    odd = {"uniform": np.full((100, 100), 90, np.uint8), "negative": 255 - bone, "wide": bone[:70]}
    for name, pixels in odd.items():
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    Image.fromarray(bone).save(tmp_path / "good.png")
    assert shell(monkeypatch, ("predict", *sorted(tmp_path.glob("*.png")), "--model", tiny_folder)) == 0
    said = capsys.readouterr().err.splitlines()
    words = {"uniform.png": "blank", "negative.png": "photographic negatives", "wide.png": "not square"}
    assert len(said) == 3
    for name, word in words.items():
        assert [line for line in said if name in line and word in line and line.startswith("Warning: ")], name


def test_other_scripts_folders_nested_and_in_mixed_case(tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("KNEECLIP_PRESET", raising=False)
    world = World(tmp_path, tiny_folder, tmp_path, tmp_path)
    (tmp_path / "Röntgen 膝" / "download").mkdir(parents=True)
    nested = world.data.rename(tmp_path / "Röntgen 膝" / "download" / "KneeKL224")
    (nested / "train").rename(nested / "Train")
    (nested / "val").rename(nested / "VAL")
    world.file("Röntgen 膝/preview.png", png())  # above the data set, and no part of it
    texts = ["正常", "сомнительно", "ελαφρύ", "معتدل", "गंभीर"]
    prompts = world.file("sätze.json", texts)
    run = tmp_path / "Läufe" / "膝"
    words = ("--data", tmp_path / "Röntgen 膝", "--prompts", prompts, "--out", run)
    assert shell(monkeypatch, ("train", "--model", tiny_folder, "--epochs", 1, *words)) == 0
    assert json.loads((run / "prompts.json").read_text(encoding="utf-8"))["texts"] == [[text] for text in texts]
    numbers = tmp_path / "m.json"
    assert shell(monkeypatch, ("evaluate", run, "--data", tmp_path / "Röntgen 膝", "--json", numbers)) == 0
    assert json.loads(numbers.read_text(encoding="utf-8"))["prompts"] == "sätze"
    assert capsys.readouterr().err == ""
