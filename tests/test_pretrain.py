"""phantom-clip: how it is made, and what is shipped."""

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from kneeclip import load_clip, predict, pretrain
from kneeclip.checkpoints import save_state
from kneeclip.data import PHANTOM_SPLITS, PRETRAIN_SEED
from kneeclip.errors import KneeError
from kneeclip.evaluation import evaluate
from kneeclip.heads import phantoms_of
from kneeclip.loading import ASSETS


def test_the_contrastive_loss_by_hand():
    X = torch.eye(2)
    scale = torch.tensor(1.0)
    right = pretrain.contrastive_loss(X, X, scale, torch.eye(2, dtype=bool))
    assert right.item() == pytest.approx(math.log(1 + math.exp(-1)))  # -log e / (e + 1)
    same = torch.ones(2, 2, dtype=bool)  # equal captions: both answers are right, half each
    assert pretrain.contrastive_loss(X, X, scale, same).item() == pytest.approx(math.log(1 + math.e) - 0.5)


@pytest.mark.parametrize("taught", [False, True])
def test_pretraining_resumes_and_makes_a_clip_folder(tiny_settings, tmp_path, monkeypatch, taught):
    tiny_settings = dataclasses.replace(tiny_settings, image_size=56)  # a phantom needs some pixels
    options = {"progress": False}
    if taught:
        options["maps"] = tmp_path / "maps.safetensors"
        seen = {"maps": torch.rand(24, 4, 3).half(), "patches": torch.arange(4)}
        save_state(options["maps"], seen, {"of": phantoms_of(tiny_settings), "network": "a network of photographs"})
    whole = pretrain.pretrain(tmp_path / "whole", tiny_settings, **options)
    real, calls = pretrain._zero_shot, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(pretrain, "_zero_shot", dying)
        with pytest.raises(KeyboardInterrupt):
            pretrain.pretrain(tmp_path / "killed", tiny_settings, **options)
    if taught:  # without the maps it would be another training
        with pytest.raises(KneeError, match="settings"):
            pretrain.pretrain(tmp_path / "killed", tiny_settings, progress=False)
    resumed = pretrain.pretrain(tmp_path / "killed", tiny_settings, **options)
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    card = (whole / "README.md").read_text()
    assert "never for diagnosis" in card and ("a network of photographs" in card) == taught
    with pytest.raises(KneeError, match="already holds"):
        pretrain.pretrain(whole, tiny_settings)


def test_one_side_alone_can_be_learnt_from(tiny_settings, tmp_path):
    tiny_settings = dataclasses.replace(tiny_settings, image_size=56)  # a phantom needs some pixels
    both = pretrain._cohort(tiny_settings, torch.device("cpu"))
    right = pretrain._cohort(dataclasses.replace(tiny_settings, sides="R"), torch.device("cpu"))
    kept = both.sides == "R"
    assert len(right) == len(both) / 2 == kept.sum() and set(right.sides) == {"R"}
    assert (right.images == both.images[kept]).all()
    assert torch.equal(right.anatomy.medial_space, both.anatomy.medial_space[kept])
    with pytest.raises(KneeError, match="no such sides"):
        pretrain.pretrain(tmp_path / "out", dataclasses.replace(tiny_settings, sides="right"))


def test_one_sides_knees_must_fill_a_batch_too(tmp_path):
    with pytest.raises(KneeError, match="patients=100.*128 or more"):
        pretrain.pretrain(tmp_path / "p", pretrain.Pretraining(patients=100, sides="R"))


def test_the_tokenizer_reads_anything_and_knees_shortly(tiny):
    tokenizer = tiny[1].tokenizer
    assert tokenizer.decode(tokenizer("definite osteophytes")["input_ids"][1:-1]) == "definite osteophytes"
    assert len(tokenizer("ostéophyte 膝")["input_ids"]) > 3


def test_phantom_clip_is_small_half_precision_and_never_saw_the_tutorial():
    from safetensors import safe_open

    weights = ASSETS / "phantom-clip" / "model.safetensors"
    assert weights.stat().st_size <= 8_000_000
    with safe_open(weights, "pt") as file:
        assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}
    seed = json.loads((ASSETS / "phantom-clip" / "pretraining.json").read_text())["settings"]["seed"]
    assert seed >= PRETRAIN_SEED > max(seed for _, seed in PHANTOM_SPLITS.values())
    assert "never for diagnosis" in (ASSETS / "phantom-clip" / "README.md").read_text()


def test_phantom_clip_grades_phantoms_it_has_not_seen():
    from kneeclip.phantom import make_phantoms

    model, processor = load_clip("phantom-clip")
    knees = make_phantoms(100, seed=77)
    p, p_flip = predict(model, processor, knees.images, "criteria")
    report = evaluate(p, knees.grades, knees.patients, flipped=p_flip)
    assert report["ci"]["qwk"][0] > 0.3  # chance is 0
    nonsense, _ = predict(model, processor, knees.images, "nonsense")
    assert evaluate(nonsense, knees.grades, knees.patients, n_boot=0)["qwk"] < report["qwk"]
    assert np.allclose(p.sum(1), 1)


def test_a_folder_that_can_not_be_written_is_refused_before_the_drawing(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "_cohort", lambda *_: pytest.fail("it drew first"))
    (tmp_path / "file").touch()
    with pytest.raises(KneeError, match="can't be written .*file/p.*--out"):
        pretrain.pretrain(tmp_path / "file" / "p", tiny_settings, progress=False)
