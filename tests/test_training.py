"""Training: every arm learns, a killed run ends in the same bits, and what does not fit is said."""

import dataclasses
import errno
import hashlib
import json
import math
import os
import time

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from accelerate.state import AcceleratorState
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

from kneeclip import training, updating
from kneeclip.batches import epoch_batches, epoch_plan, load_resident, make_views
from kneeclip.cards import environment
from kneeclip.checkpoints import fingerprint, load_state, read_json, require_state, save_state
from kneeclip.data import load_knees
from kneeclip.errors import KneeError
from kneeclip.losses import clip_koa_loss
from kneeclip.model import load_clip, predict
from kneeclip.presets import ARMS, Recipe, get_preset
from kneeclip.prompts import read_prompts
from kneeclip.runstate import RunState
from kneeclip.training import train
from kneeclip.updating import arm_losses, learning_rate


def weights(run):
    return {name: value.clone() for name, value in run.model.state_dict().items()}


def same_bits(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_learns_brightness(arm, tiny, arrays, recipe):
    recipe = dataclasses.replace(recipe, arm=arm, epochs=12, lr=3e-3, augment=0.1)
    run = train(*tiny, arrays, "criteria", recipe)
    assert run.history[-1]["original"] < 0.8 * run.history[0]["original"]
    assert run.history[run.best_epoch]["tune_qwk"] == max(row["tune_qwk"] for row in run.history)
    assert run.history[-1]["step"] == len(run.steps) == 12 * 3
    two_views = arm in ("symmetry", "clip_koa")
    assert ("flipped" in run.steps[0]) == two_views
    assert all(row["total"] > 0 for row in run.steps)


def test_arm_losses_are_the_losses_module():
    generator = torch.Generator().manual_seed(0)
    logits, y = torch.randn(8, 5, generator=generator), torch.tensor([0, 1, 2, 3])
    z, z_flip = logits.chunk(2)
    both = clip_koa_loss(z, z_flip, y, form="kl", weight=0.5, reduction="none")
    recipe = Recipe(consistency="kl", weight=0.5)
    torch.testing.assert_close(arm_losses(logits, y, recipe)["total"], both["total"])
    symmetry = arm_losses(logits, y, dataclasses.replace(recipe, arm="symmetry"))
    torch.testing.assert_close(symmetry["total"], both["symmetry"])
    consistency = arm_losses(logits, y, dataclasses.replace(recipe, arm="consistency"))
    torch.testing.assert_close(consistency["total"], both["original"] + 0.5 * both["consistency"])
    single = arm_losses(z, y, dataclasses.replace(recipe, arm="clip"))
    torch.testing.assert_close(single["total"], both["original"])


def test_views_of_every_arm():
    images = torch.arange(2 * 4 * 4, dtype=torch.uint8).view(2, 4, 4)
    mirror, draws = torch.tensor([True, False]), torch.zeros(2, 7)
    draws[1, 6] = 0.9
    flip = images.float().flip(-1)

    def views(arm):
        return make_views(images, mirror, draws, Recipe(arm=arm, augment=0))

    assert torch.equal(views("clip"), images.float())
    for arm in ("symmetry", "consistency", "clip_koa"):
        assert torch.equal(views(arm), torch.cat([images.float(), flip]))
    assert torch.equal(views("canonical"), torch.stack([flip[0], images[1].float()]))
    assert torch.equal(views("flip_aug"), torch.stack([flip[0], images[1].float()]))


def test_both_views_share_one_augmentation_and_it_is_keyed_by_image():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8, generator=generator)
    draws, mirror = torch.rand(6, 7, generator=generator), torch.zeros(6, dtype=bool)
    recipe = Recipe(augment=1.0)
    views = make_views(images, mirror, draws, recipe)
    assert torch.equal(views[6:], views[:6].flip(-1))
    assert (views[:6] - images).abs().mean() > 3
    alone = make_views(images[2:3], mirror[2:3], draws[2:3], recipe)
    torch.testing.assert_close(alone[0], views[2], rtol=0, atol=1e-3)


def test_the_augmentation_turns_zooms_and_shifts_as_affine_grid_does():
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    image = (4 * x + 5 * y).expand(6, 28, 28).clone()  # smooth: a wrong sign or axis moves it by whole grey levels
    draws = torch.rand(6, 7, generator=generator)
    draws[:, 4:6] = 0.5  # neither contrast nor brightness
    u = draws * 2 - 1
    angle, zoom = u[:, 0] * math.radians(10), 1 + 0.12 * u[:, 1]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    theta = torch.stack([cos, -sin, 0.16 * u[:, 2], sin, cos, 0.16 * u[:, 3]], -1).view(-1, 2, 3)
    grid = F.affine_grid(theta, [6, 1, 28, 28], align_corners=False).clamp(-27 / 28, 27 / 28)
    expected = F.grid_sample(image[:, None], grid, align_corners=False)[:, 0]
    before = image.clone()
    views = make_views(image.to(torch.uint8), torch.zeros(6, dtype=bool), draws, Recipe(arm="clip", augment=1.0))
    assert torch.equal(image, before) and (expected - image).abs().mean() > 2
    torch.testing.assert_close(views, expected, rtol=0, atol=1e-2)


def test_the_epoch_plan_is_a_permutation_drawn_from_seed_and_epoch(tiny, arrays, recipe):
    data = load_resident(tiny[1], arrays, "train", training.make_accelerator("no"), recipe, False)
    order, draws = epoch_plan(data, recipe, 3)
    again, draws_again = epoch_plan(data, recipe, 3)
    other, _ = epoch_plan(data, recipe, 4)
    assert sorted(order.tolist()) == list(range(22))
    assert torch.equal(order, again) and torch.equal(draws, draws_again) and not torch.equal(order, other)
    batches = epoch_batches(data, recipe, 3)
    assert [len(batch) for batch, _ in batches] == [8, 8, 6]
    assert torch.equal(torch.cat([batch for batch, _ in batches]), order)
    assert torch.equal(torch.cat([own for _, own in batches]), draws[order]), "the numbers go with the image"


def test_balance_draws_every_grade_equally_often_and_no_copy_twice_alike(tiny, arrays, recipe):
    rng = np.random.default_rng(0)
    grade = np.repeat([0, 1, 2, 3], [1000, 600, 380, 20])  # and nobody of grade 4
    image = rng.integers(0, 256, (2000, 28, 28), dtype=np.uint8)
    accelerator = training.make_accelerator("no")
    data = load_resident(tiny[1], {"train": {"image": image, "grade": grade}}, "train", accelerator, recipe, False)
    for balance in (1.0, 0.5):
        asked = dataclasses.replace(recipe, balance=balance, augment=1.0)
        batches = epoch_batches(data, asked, 0)
        order, draws = (torch.cat(parts) for parts in zip(*batches, strict=True))
        assert len(order) == 2000 and draws.shape == (2000, 7)
        shares = torch.bincount(data.grades[order], minlength=5) / 2000
        expected = balance * np.array([0.25] * 4 + [0]) + (1 - balance) * np.bincount(grade, minlength=5) / 2000
        assert shares.numpy() == pytest.approx(expected, abs=0.04)  # four standard errors
        places = torch.nonzero(order == order[data.grades[order] == 3][0])[:, 0]
        assert len(places) > 3  # of twenty images that fill up to a quarter of the epoch
        views = make_views(data.images[order[places]], data.mirror_on_device[order[places]], draws[places], asked)
        assert all((a - b).abs().mean() > 3 for a, b in zip(views[: len(places)], views[1 : len(places)], strict=False))


def test_a_balanced_run_resumes_to_the_same_bits(tiny_folder, arrays, recipe, tmp_path):
    recipe = dataclasses.replace(recipe, balance=0.7, save_every=2)
    whole = train(*load_clip(tiny_folder), arrays, "criteria", recipe)

    def stop(_, steps):
        if len(steps) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run", watch=stop)
    resumed = train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run")
    assert 0 < resumed.resumed_at < 5 and same_bits(weights(whole), weights(resumed)) and whole.steps == resumed.steps


def test_an_epochs_loss_is_the_mean_over_its_images(tiny, arrays, recipe):
    """22 images in steps of 8: the last step has 6, and is no third of the epoch."""
    run = train(*tiny, arrays, "criteria", recipe)
    for row in run.history:
        steps = [step["total"] for step in run.steps if step["epoch"] == row["epoch"]]
        assert row["total"] == pytest.approx(np.average(steps, weights=[8, 8, 6]), rel=1e-12)
        assert row["total"] != pytest.approx(np.mean(steps), rel=1e-6)


def test_learning_rate_warms_up_and_ends_at_zero():
    recipe = Recipe(lr=1.0, warmup=0.2)
    rates = [learning_rate(step, 10, recipe) for step in range(11)]
    assert rates[:2] == [0.5, 1.0] and rates[2] == 1.0
    assert rates[10] == pytest.approx(0)
    assert all(a >= b for a, b in zip(rates[1:], rates[2:], strict=False))


def test_micro_batches_equal_one_big_batch(tiny_folder, arrays, recipe):
    # 22 images in steps of 8, so the last one is short; pieces of 3 don't divide either
    recipe = dataclasses.replace(recipe, lr=1e-4)
    big = train(*load_clip(tiny_folder), arrays, "criteria", recipe)
    small = train(*load_clip(tiny_folder), arrays, "criteria", dataclasses.replace(recipe, micro_batch=3))
    for a, b in zip(big.steps, small.steps, strict=True):
        assert a["total"] == pytest.approx(b["total"], abs=1e-5)


def test_same_seed_same_bits_and_another_seed_others(tiny_folder, arrays, recipe):
    a, b, c = (
        train(*load_clip(tiny_folder), arrays, "criteria", dataclasses.replace(recipe, seed=s)) for s in (0, 0, 1)
    )
    assert same_bits(weights(a), weights(b))
    assert not same_bits(weights(a), weights(c))


class Killed(BaseException):
    """Stands for a SIGKILL inside the process: nothing may catch it."""


@pytest.mark.parametrize("step", [1, 3, 4, 5])
def test_a_run_stopped_at_any_step_resumes_to_the_same_bits(step, tiny_folder, arrays, recipe, tmp_path, monkeypatch):
    recipe = dataclasses.replace(recipe, save_every=1, calibrate=True)
    whole = train(*load_clip(tiny_folder), arrays, "criteria", recipe)
    real_step, calls = training.update, []

    def dying_step(*args):
        calls.append(1)
        if len(calls) > step:
            raise Killed
        return real_step(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "update", dying_step)
        with pytest.raises(Killed):
            train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run")
    resumed = train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run")
    assert resumed.resumed_at == step
    assert same_bits(weights(whole), weights(resumed))
    for a, b in zip(whole.steps, resumed.steps, strict=True):
        assert a == b
    drop = {"seconds"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in whole.history] == [
        {k: v for k, v in row.items() if k not in drop} for row in resumed.history
    ]
    assert not list((tmp_path / "run").glob("*checkpoint*"))  # what a finished run no longer needs
    read_back = train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run")
    assert same_bits(weights(whole), weights(read_back)) and "finished before" in read_back.notes[-1]


def test_the_run_is_a_plain_transformers_folder(tiny, arrays, recipe, tmp_path):
    from PIL import Image
    from transformers import pipeline

    run = train(*tiny, arrays, "criteria", dataclasses.replace(recipe, calibrate=True), out=tmp_path / "run")
    plain = CLIPModel.from_pretrained(tmp_path / "run")
    assert same_bits(weights(run), plain.state_dict())
    images = [Image.fromarray(pixels) for pixels in arrays["tune"]["image"]]
    p, _ = predict(run.model, tiny[1], images, "criteria")
    grader = pipeline("zero-shot-image-classification", model=str(tmp_path / "run"))
    texts = run.prompts.flat
    for i, image in enumerate(images):
        answer = grader(image.convert("RGB"), candidate_labels=texts, hypothesis_template="{}")
        scores = {row["label"]: row["score"] for row in answer}
        np.testing.assert_allclose([scores[text] for text in texts], p[i], atol=1e-5)
    shown = {path.name: path.stat().st_mode & 0o044 for path in (tmp_path / "run").iterdir()}
    assert all(shown.values()), "others must be able to read a run"
    assert CLIPProcessor.from_pretrained(tmp_path / "run").tokenizer("a knee")["input_ids"]
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert record["recipe"] == dataclasses.asdict(run.recipe) and record["temperature"] == run.temperature
    card = (tmp_path / "run" / "README.md").read_text()
    assert 'hypothesis_template="{}"' in card
    assert "never for diagnosis" in card and "clip_koa" in card and "with the texts of `prompts.json`" in card
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    assert [row["step"] for row in history["epochs"]] == [3, 6] and len(history["steps"]) == 6


def test_a_run_knows_its_base_model_and_its_world_without_being_told(tiny_folder, recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    knees = load_knees("phantom", phantom_patients={"train": 4, "tune": 2, "validation": 2, "test": 0}, sides="L")
    settings = dataclasses.replace(recipe, arm="canonical", epochs=1)
    train(*load_clip(tiny_folder), knees, "ensemble", settings, out=tmp_path / "run", progress=False)
    record = json.loads((tmp_path / "run" / "run.json").read_text())
    assert (record["preset"], record["data"], record["base"]) == ("phantom", "phantom knees", str(tiny_folder))
    card = (tmp_path / "run" / "README.md").read_text()
    assert "A grade has several texts" in card and "mirror them before you show them" in card
    train(
        *load_clip(tiny_folder, fresh_seed=1), knees, "names", settings, out=tmp_path / "fresh", card={"data": "mine"}
    )
    record = json.loads((tmp_path / "fresh" / "run.json").read_text())
    assert record["base"].endswith("random weights") and record["data"] == "mine"


def test_a_file_in_the_place_of_the_result_is_refused_before_training(tiny, arrays, recipe, tmp_path):
    (tmp_path / "knee.png").write_bytes(b"mine")
    with pytest.raises(KneeError, match="a file stands where"):
        train(*tiny, arrays, "names", recipe, out=tmp_path / "knee.png", watch=lambda *_: pytest.fail("it trained"))
    assert (tmp_path / "knee.png").read_bytes() == b"mine"


def test_a_datasetdict_trains_like_its_arrays(tiny_folder, arrays, recipe):
    from datasets import Dataset, DatasetDict, Features, Value
    from datasets import Image as ImageFeature
    from PIL import Image

    features = Features(
        {"image": ImageFeature(mode="L"), "grade": Value("int64"), "patient": Value("string"), "side": Value("string")}
    )
    knees = DatasetDict(
        {
            name: Dataset.from_dict({**split, "image": [Image.fromarray(i) for i in split["image"]]}, features=features)
            for name, split in arrays.items()
        }
    )
    a = train(*load_clip(tiny_folder), arrays, "criteria", recipe)
    b = train(*load_clip(tiny_folder), knees, "criteria", recipe)
    assert same_bits(weights(a), weights(b))


def test_without_tune_the_last_epoch_is_kept_and_said(tiny, arrays, recipe):
    run = train(*tiny, {"train": arrays["train"]}, "criteria", recipe)
    assert run.best_epoch == 1 and "no tune split" in run.notes[0]


def test_calibration_lowers_the_tune_loss(tiny_folder, arrays, recipe):
    losses = {}
    for calibrate in (False, True):
        model, processor = load_clip(tiny_folder)
        train(model, processor, arrays, "criteria", dataclasses.replace(recipe, calibrate=calibrate, epochs=8))
        p, _ = predict(model, processor, arrays["tune"]["image"], "criteria")
        losses[calibrate] = -np.log(p[np.arange(8), arrays["tune"]["grade"]]).mean()
    assert losses[True] <= losses[False] + 1e-6


def test_bf16_after_float32_in_the_same_process(tiny_folder, arrays, recipe):
    full = train(*load_clip(tiny_folder), arrays, "criteria", recipe)
    half = train(*load_clip(tiny_folder), arrays, "criteria", dataclasses.replace(recipe, precision="bf16"))
    assert {value.dtype for value in weights(half).values() if value.is_floating_point()} == {torch.float32}
    assert 0 < abs(full.steps[0]["total"] - half.steps[0]["total"]) < 0.1  # rounded, and no more than that


@pytest.fixture
def fp16_on_a_cpu(monkeypatch):
    """An accelerator that autocasts to fp16 and scales the loss on this CPU: by itself Accelerate wants a GPU."""

    def make(scale):
        accelerator = training.make_accelerator("no")
        accelerator.state._mixed_precision, accelerator.native_amp = "fp16", True
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
        monkeypatch.setattr(training, "make_accelerator", lambda precision: accelerator)
        return accelerator.scaler

    yield make
    AcceleratorState._reset_state()


def test_loss_scaling_skips_what_overflows_and_then_learns(fp16_on_a_cpu, tiny_folder, arrays, recipe, tmp_path):
    full = train(*load_clip(tiny_folder), arrays, "criteria", recipe)
    scaler = fp16_on_a_cpu(2.0**30)
    model, processor = load_clip(tiny_folder)
    before, moved = {name: value.clone() for name, value in model.state_dict().items()}, []

    def watch(history, steps):
        moved.append(not same_bits(before, model.state_dict()))

    recipe = dataclasses.replace(recipe, epochs=8, save_every=1, lr=1e-3)
    half = train(model, processor, arrays, "criteria", recipe, out=tmp_path / "run", watch=watch)
    assert not moved[0] and moved[-1] and 1 < scaler.get_scale() < 2.0**30
    assert 0 < abs(half.steps[0]["total"] - full.steps[0]["total"]) < 0.05  # rounded, and no more than that
    assert half.history[-1]["total"] < half.history[0]["total"]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights(half).values())


def test_a_killed_fp16_run_resumes_with_its_scale(fp16_on_a_cpu, tiny_folder, arrays, recipe, tmp_path):
    recipe = dataclasses.replace(recipe, save_every=1)
    fp16_on_a_cpu(2.0**30)
    whole = train(*load_clip(tiny_folder), arrays, "criteria", recipe)

    def stop(history, steps):
        if len(steps) == 5:
            raise Killed

    fp16_on_a_cpu(2.0**30)
    with pytest.raises(Killed):
        train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run", watch=stop)
    fp16_on_a_cpu(2.0**30)
    resumed = train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run")
    assert resumed.resumed_at == 4 and same_bits(weights(whole), weights(resumed))


def test_a_gradient_that_no_scale_mends_stops_the_run(fp16_on_a_cpu, tiny, arrays, recipe):
    fp16_on_a_cpu(4.0)
    tiny[0].visual_projection.weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(KneeError, match="no longer finite .*1[0-9]{3}[LR].*bf16") as caught:
        train(*tiny, arrays, "criteria", recipe)
    assert caught.value.remedy


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 on the paper's architecture needs a GPU")
def test_fp16_on_the_real_architecture(arrays, recipe):
    from kneeclip.newborn import train_tokenizer
    from kneeclip.prompts import get_prompts

    tokenizer = train_tokenizer(get_prompts("criteria").flat, 600)
    ids = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    text = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 8}
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    config = CLIPConfig(  # ViT-B/16 in every shape, random weights, our small tokenizer
        projection_dim=512, text_config={**text, **ids, "vocab_size": 49408}, vision_config={**vision, "patch_size": 16}
    )
    torch.manual_seed(0)
    model = CLIPModel(config)
    processor = CLIPProcessor(image_processor=CLIPImageProcessorPil(), tokenizer=tokenizer)
    recipe = dataclasses.replace(recipe, precision="fp16", epochs=4, lr=1e-4, warmup=0.0)
    run = train(model, processor, arrays, "criteria", recipe, progress=False)
    assert all(np.isfinite(row["total"]) for row in run.steps)
    assert run.history[-1]["total"] < run.history[0]["total"]
    assert all(value.dtype == torch.float32 and value.isfinite().all() for value in weights(run).values())


@pytest.mark.skipif(torch.cuda.is_available(), reason="here fp16 works")
def test_fp16_without_a_gpu_is_refused_not_ignored(tiny, arrays, recipe):
    with pytest.raises(KneeError, match="fp16 needs a GPU"):
        train(*tiny, arrays, "criteria", dataclasses.replace(recipe, precision="fp16"))


def test_a_recipe_is_a_recipe_and_a_frozen_model_learns_nothing(tiny, arrays, recipe):
    for wrong in (get_preset("phantom"), dataclasses.asdict(recipe), None):
        with pytest.raises(KneeError, match="no recipe.*preset.recipe"):
            train(*tiny, arrays, "criteria", wrong)
    tiny[0].requires_grad_(False)
    with pytest.raises(KneeError, match=r"frozen: call model.requires_grad_\(True\)"):
        train(*tiny, arrays, "criteria", recipe)


def test_another_run_in_the_folder_is_refused(tiny_folder, arrays, recipe, tmp_path):
    train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run")
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    for change in ("arm", "prompts", "weights"):
        model, processor = load_clip(tiny_folder, fresh_seed=5 if change == "weights" else None)
        other = dataclasses.replace(recipe, arm="clip") if change == "arm" else recipe
        prompts = "names" if change == "prompts" else "criteria"
        with pytest.raises(KneeError, match="another run.*choose another folder"):
            train(model, processor, arrays, prompts, other, out=tmp_path / "run")
    assert before == {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}


def test_other_tune_labels_are_another_run(tiny_folder, arrays, recipe, tmp_path):
    train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run")
    other = {**arrays, "tune": {**arrays["tune"], "grade": (arrays["tune"]["grade"] + 1) % 5}}
    with pytest.raises(KneeError, match="another run"):
        train(*load_clip(tiny_folder), other, "criteria", recipe, out=tmp_path / "run")


def test_seconds_add_up(tiny, arrays, recipe, tmp_path):
    # a run's time is the sum of its epochs' times, and no epoch's time holds another's
    start = time.perf_counter()
    run = train(*tiny, arrays, "criteria", recipe, out=tmp_path / "run")
    passed = time.perf_counter() - start
    total = json.loads((tmp_path / "run" / "run.json").read_text())["seconds"]
    by_epoch = sum(row["seconds"] for row in run.history)
    assert total == pytest.approx(by_epoch, abs=0.06)
    assert by_epoch <= passed + 0.005 * len(run.history)  # each is rounded to hundredths, the total to tenths


def test_a_loss_that_is_not_finite_names_the_images_and_keeps_the_checkpoint(
    tiny_folder, arrays, recipe, tmp_path, monkeypatch
):
    recipe = dataclasses.replace(recipe, save_every=1)
    real = updating.arm_losses
    calls = []

    def poisoned(*args):
        calls.append(1)
        losses = real(*args)
        return {k: v * float("nan") for k, v in losses.items()} if len(calls) == 3 else losses

    monkeypatch.setattr(updating, "arm_losses", poisoned)
    with pytest.raises(KneeError, match="no longer finite .*1[0-9]{3}[LR].*bf16.*checkpoint is kept") as caught:
        train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path / "run")
    assert len(caught.value.culprits) == 6  # the short last batch of 22
    tensors, meta = load_state(tmp_path / "run" / "checkpoint.safetensors")
    assert meta["step"] == 2 and all(torch.isfinite(t).all() for t in tensors.values())


def test_data_that_do_not_fit_are_said_in_a_sentence(tiny, arrays, recipe):
    train_split = arrays["train"]
    cases = {
        "no split called train": ({"tune": arrays["tune"]}, recipe),
        "lacks a column": ({"train": {"image": train_split["image"]}}, recipe),
        "22 images and 21 grades": ({"train": {**train_split, "grade": train_split["grade"][:-1]}}, recipe),
        "outside 0 to 4": ({"train": {**train_split, "grade": train_split["grade"] + 1}}, recipe),
        "canonical arm": (
            {"train": {k: train_split[k] for k in ("image", "grade")}},
            dataclasses.replace(recipe, arm="canonical"),
        ),
    }
    for word, (knees, settings) in cases.items():
        with pytest.raises(KneeError, match=word):
            train(*tiny, knees, "criteria", settings)


@pytest.mark.parametrize(
    "setting",
    [
        {"arm": "clipkoa"}, {"weight": -1.0}, {"consistency": "cosine"}, {"precision": "fp8"}, {"epochs": 0},
        {"batch_size": 0}, {"lr": 0.0}, {"warmup": 2.0}, {"select": "auc"}, {"micro_batch": 0}, {"balance": -0.1},
        {"epochs": 10**400}, {"weight": -(10**400)}, {"lr": float("nan")}, {"lr": float("inf")}, {"last_k": 0},
    ],
)  # fmt: skip
def test_a_bad_recipe_names_the_setting(setting):
    with pytest.raises(KneeError, match=next(iter(setting))) as caught:
        Recipe(**setting)
    assert caught.value.remedy


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, {"a": torch.ones(3)}, {"step": 1})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(KneeError, match="No space left on device.*intact"):
        save_state(path, {"a": torch.zeros(3)}, {"step": 2})
    tensors, meta = load_state(path)
    assert meta == {"step": 1} and torch.equal(tensors["a"], torch.ones(3))
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_weights_of_every_precision_have_their_fingerprint():
    values = torch.linspace(-1, 1, 8)
    assert len({fingerprint([], {"w": values.to(kind)}) for kind in (torch.float32, torch.bfloat16, torch.half)}) == 3
    by_numpy = hashlib.sha256(b"[]w" + values.numpy().tobytes()).hexdigest()  # what runs that are there were given
    assert fingerprint([], {"w": values}) == by_numpy == fingerprint([], {"w": values.view(2, 4)})
    assert fingerprint([], {"w": torch.tensor(True)}) != fingerprint([], {"w": torch.tensor(False)})


def test_a_run_on_the_cpu_says_cpu_on_a_machine_with_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "a card")
    assert environment()["device"] == "a card" and environment(torch.device("cuda"))["device"] == "a card"
    assert environment(torch.device("cpu"))["device"].startswith("CPU, ")
    assert environment(torch.device("mps"))["device"] == "MPS"


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = tmp_path / "checkpoint.safetensors"
    save_state(path, {"a": torch.ones(3)}, {"step": 1})
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(KneeError, match="damaged.*checkpoint.safetensors"):
        load_state(path)
    path.write_bytes(b"")
    with pytest.raises(KneeError, match="damaged.*checkpoint.safetensors"):
        load_state(path)


def test_a_file_that_may_not_be_read_is_no_damaged_one(tmp_path, monkeypatch):
    """Nobody is told to delete a run that is whole. (Root may read everything, so the system's answer is made up.)"""

    def refuse(path, *args, **more):
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    save_state(tmp_path / "best.safetensors", {"a": torch.ones(3)}, {"step": 1})
    (tmp_path / "run.json").write_text("{}", encoding="utf-8")
    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr("io.open", refuse)
    for read in (
        lambda: load_state(tmp_path / "best.safetensors"),
        lambda: require_state(tmp_path / "best.safetensors"),
        lambda: read_json(tmp_path / "run.json", "delete it"),
        lambda: read_prompts(tmp_path / "run.json"),
    ):
        with pytest.raises(KneeError, match="can't be read .*ermission.*: check who may read it"):
            read()


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_the_best_weights_are_looked_at_before_the_run_goes_on(
    harm, tiny_folder, arrays, recipe, tmp_path, monkeypatch
):
    def stop(history, steps):
        if history:
            raise Killed

    with pytest.raises(Killed):
        train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path, watch=stop)
    harm(tmp_path / "best.safetensors")
    monkeypatch.setattr(training, "update", lambda *args: pytest.fail("it trained first"))
    with pytest.raises(KneeError, match="damaged .*best.safetensors.*: delete"):
        train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path)


def test_after_a_kill_between_two_files_the_best_epoch_is_the_one_whose_weights_are_kept(
    tiny_folder, arrays, recipe, tmp_path, monkeypatch
):
    """The second epoch was the better one when it was killed, and, made again elsewhere, it is not."""
    recipe = dataclasses.replace(recipe, epochs=2)

    def scores(*values):
        values = iter(values)
        names = ("tune_accuracy", "tune_qwk", "tune_flip_agreement")
        monkeypatch.setattr(training, "_tune_metrics", lambda *_: dict.fromkeys(names, next(values)))

    write, calls = RunState._write, []

    def dying(state, *args):
        calls.append(1)
        if len(calls) == 2:
            raise Killed
        write(state, *args)

    scores(0.5, 0.6)
    with monkeypatch.context() as patch:
        patch.setattr(RunState, "_write", dying)
        with pytest.raises(Killed):
            train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path)
    kept = load_state(tmp_path / "best.safetensors")[0]
    scores(0.4)
    run = train(*load_clip(tiny_folder), arrays, "criteria", recipe, out=tmp_path)
    assert run.best_epoch == 1 and all(torch.equal(value, weights(run)[name]) for name, value in kept.items())


def test_a_second_training_is_kept_out_of_the_folder_and_the_lock_goes_with_the_first(tiny, arrays, recipe, tmp_path):
    def intrude(history, steps):
        with pytest.raises(KneeError, match="another training is writing"):
            train(*tiny, arrays, "names", dataclasses.replace(recipe, seed=5), out=tmp_path / "run")
        assert len(steps) > 0

    train(*tiny, arrays, "names", dataclasses.replace(recipe, epochs=1), out=tmp_path / "run", watch=intrude)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["recipe"]["seed"] == recipe.seed
    assert not (tmp_path / "run" / ".training").exists()


def test_a_folder_of_somebody_s_notes_is_left_alone(tiny, arrays, recipe, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(KneeError, match="holds other files"):
        train(*tiny, arrays, "names", recipe, out=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text() == "mine"


def test_grades_are_whole_numbers_and_columns_of_one_length(tiny, arrays, recipe):
    train_rows = arrays["train"]
    halves = [grade + 0.5 for grade in map(int, train_rows["grade"])]
    with pytest.raises(KneeError, match="no whole number"):
        train(*tiny, {"train": train_rows | {"grade": halves}}, "names", recipe)
    with pytest.raises(KneeError, match="differ in length"):
        train(*tiny, {"train": train_rows | {"patient": ["a"]}}, "names", recipe)


def test_a_tune_without_a_mistake_fits_no_temperature_and_says_so(tiny, arrays, recipe, monkeypatch):
    perfect = lambda model, processor, images, *_, **__: (np.eye(5)[arrays["tune"]["grade"]],) * 2  # noqa: E731
    monkeypatch.setattr("kneeclip.processes.predict_shared", perfect)
    before = tiny[0].logit_scale.item()
    run = train(*tiny, arrays, "criteria", dataclasses.replace(recipe, epochs=1, lr=1e-9, calibrate=True))
    assert run.temperature is None and "graded right" in run.notes[0]
    assert tiny[0].logit_scale.item() == pytest.approx(before, abs=1e-6)


def test_the_card_says_chosen_only_where_tune_chose(tiny, arrays, recipe, tmp_path):
    train(*tiny, {"train": arrays["train"]}, "criteria", recipe, out=tmp_path / "run")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "2 of 2, the last" in card and "chosen" not in card and "flatter" not in card


def test_a_recipe_takes_numpys_numbers_and_holds_plain_ones():
    made = Recipe(seed=np.int64(3), epochs=np.int64(2), lr=np.float32(0.5))
    assert [type(value) for value in (made.seed, made.epochs, made.lr)] == [int, int, float]
    assert json.loads(json.dumps(vars(made)))["lr"] == 0.5
    for wrong in (1.5, 20):
        with pytest.raises(KneeError, match="augment"):
            Recipe(augment=wrong)
