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
from kneeclip.newborn import Pretraining


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

    def told(name):
        """A file of maps, each time of another network."""
        seen = {"maps": torch.rand(24, 4, 3).half(), "patches": torch.arange(4)}
        save_state(tmp_path / name, seen, {"of": phantoms_of(tiny_settings), "network": "a network of photographs"})
        return tmp_path / name

    if taught:
        options["maps"] = told("maps.safetensors")
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
    # without these maps it would be another training
    other = {"progress": False, "maps": told("others.safetensors")}
    for options_of_another in ({"progress": False}, other)[not taught :]:
        with pytest.raises(KneeError, match="another run"):
            pretrain.pretrain(tmp_path / "killed", tiny_settings, **options_of_another)
    resumed = pretrain.pretrain(tmp_path / "killed", tiny_settings, **options)
    assert (whole / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    elsewhere = pretrain.pretrain(tmp_path / "elsewhere", tiny_settings, **other)
    assert (whole / "model.safetensors").read_bytes() != (elsewhere / "model.safetensors").read_bytes()
    card = (whole / "README.md").read_text()
    assert "never for diagnosis" in card and "the tutorial's phantoms have other seeds" in card
    assert ("a network of photographs" in card) == taught
    with pytest.raises(KneeError, match="already holds"):
        pretrain.pretrain(whole, tiny_settings)


def test_one_side_alone_can_be_learnt_from(tiny_settings, tmp_path):
    tiny_settings = dataclasses.replace(tiny_settings, image_size=56)  # a phantom needs some pixels
    both = pretrain.cohort(tiny_settings, torch.device("cpu"))
    right = pretrain.cohort(dataclasses.replace(tiny_settings, sides="R"), torch.device("cpu"))
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


def test_a_rate_that_is_too_high_is_named_and_no_epoch_is_lost(tiny_settings, tmp_path):
    tiny_settings = dataclasses.replace(tiny_settings, image_size=56, lr=1e30)
    with pytest.raises(KneeError, match="no longer finite .*lower the learning rate"):
        pretrain.pretrain(tmp_path / "p", tiny_settings, progress=False)


def test_a_card_says_where_its_phantoms_are_the_tutorials():
    last = {"accuracy": 0.5, "qwk": 0.5, "flip_agreement": 0.5}
    seeds = {PRETRAIN_SEED: "other seeds", PHANTOM_SPLITS["train"][1] - 1: "among them", 104: "among them"}
    for seed, words in seeds.items():
        assert words in pretrain._card(Pretraining(seed=seed), last, None), seed


def test_a_folder_that_can_not_be_used_is_refused_before_the_drawing(tiny_settings, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "cohort", lambda *_: pytest.fail("it drew first"))
    (tmp_path / "file").touch()
    with pytest.raises(KneeError, match="can't be written .*file/p.*--out"):
        pretrain.pretrain(tmp_path / "file" / "p", tiny_settings, progress=False)
    with pytest.raises(KneeError, match="other files"):
        pretrain.pretrain(tmp_path, tiny_settings, progress=False)
