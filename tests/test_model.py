"""Our towers against Transformers' own, and what a user can do wrong with a model."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tqdm.auto import tqdm

from kneeclip.errors import KneeError
from kneeclip.model import (
    encode_images,
    encode_texts,
    fold_temperature,
    load_clip,
    predict,
    preprocess,
    save_clip,
    similarity,
    to_pixel_values,
)
from kneeclip.prompts import as_prompts, get_prompts


@pytest.fixture
def images():
    rng = np.random.default_rng(0)
    sizes = [(28, 28), (56, 56), (40, 31), (31, 40), (224, 224)]
    return [Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)) for size in sizes]


def test_our_logits_are_transformers_logits_per_image(tiny, images):
    model, processor = tiny
    prompts = get_prompts("criteria")
    inputs = processor(text=prompts.flat, images=[i.convert("RGB") for i in images], return_tensors="pt", padding=True)
    with torch.no_grad():
        theirs = model(**inputs).logits_per_image
        T = encode_texts(model, processor, prompts)
        X = encode_images(model, to_pixel_values(processor, preprocess(processor, images)))
        S = similarity(X, T)
    torch.testing.assert_close(model.logit_scale.exp() * S, theirs, rtol=1e-5, atol=1e-5)
    assert T.shape == (5, model.config.projection_dim) and X.shape == (5, model.config.projection_dim)
    for rows in (T, X):
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(5))
    assert S.abs().max() <= 1


def test_an_ensemble_is_the_normalised_mean_of_its_texts(tiny):
    model, processor = tiny
    prompts = get_prompts("ensemble")
    with torch.no_grad():
        T = encode_texts(model, processor, prompts)
        for k, row in enumerate(prompts.texts):
            ids = processor.tokenizer(list(row), padding=True, return_tensors="pt")
            single = model.get_text_features(**ids).pooler_output
            mean = (single / single.norm(dim=-1, keepdim=True)).mean(0)
            torch.testing.assert_close(T[k], mean / mean.norm(), rtol=1e-5, atol=1e-6)


def test_preprocessing_equals_the_processors(tiny, images):
    _, processor = tiny
    theirs = processor(images=[image.convert("RGB") for image in images], return_tensors="pt")["pixel_values"]
    ours = to_pixel_values(processor, preprocess(processor, images))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_flips_commute_with_preprocessing_for_square_images(tiny):
    _, processor = tiny
    rng = np.random.default_rng(1)
    for side in (28, 56, 57, 224):
        pixels = rng.integers(0, 256, (side, side), dtype=np.uint8)
        there, back = preprocess(processor, [pixels, pixels[:, ::-1]])
        assert np.array_equal(there[:, ::-1], back), side


def test_flips_do_not_commute_when_the_crop_is_off_centre(tiny):
    # resized to 28 × 39: eleven columns are cut, five on one side and six on the other
    _, processor = tiny
    pixels = np.random.default_rng(1).integers(0, 256, (300, 420), dtype=np.uint8)
    there, back = preprocess(processor, [pixels, pixels[:, ::-1]])
    assert not np.array_equal(there[:, ::-1], back)


def test_predict_is_the_softmax_of_both_views(tiny, images):
    model, processor = tiny
    p, p_flip = predict(model, processor, images, "criteria", batch_size=2)
    flipped = [image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) for image in images if image.width == image.height]
    square = [i for i, image in enumerate(images) if image.width == image.height]
    again, _ = predict(model, processor, flipped, "criteria")
    assert p.shape == p_flip.shape == (5, 5) and p.dtype == np.float64
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(p_flip[square], again, atol=1e-6)
    mirrored, _ = predict(model, processor, images, "criteria", mirror=[True] * 5)
    np.testing.assert_allclose(mirrored, p_flip, atol=1e-6)


def test_predict_takes_a_flipped_view_of_an_array(tiny):
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    turned = images[:, :, ::-1]  # negative strides, which torch has no tensors for
    assert preprocess(tiny[1], images) is images  # 8,000 images are not copied without need
    assert all(map(np.array_equal, predict(*tiny, turned, "criteria"), predict(*tiny, turned.copy(), "criteria")))


@pytest.mark.parametrize("training", [True, False])
def test_predict_leaves_the_models_mode_as_it_was_when_it_fails(training, tiny, monkeypatch):
    model, processor = tiny
    bars = []
    monkeypatch.setattr("kneeclip.model.tqdm", lambda *a, **kw: bars.append(tqdm(*a, **kw)) or bars[-1])
    broken = np.zeros((2, 28, 28), np.uint8)
    model.train(training)
    predict(model, processor, broken, "criteria")
    assert model.training == training
    with pytest.raises(KneeError, match="token"):
        predict(model, processor, broken, ["knee " * 200, "b", "c", "d", "e"])
    assert model.training == training
    monkeypatch.setattr("kneeclip.model.encode_images", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(model, processor, broken, "criteria")
    assert model.training == training
    assert len(bars) == 2 and all(bar.disable for bar in bars)  # which a closed one is


def test_a_plain_pipeline_gives_the_same_probabilities(tiny, images, tmp_path):
    from transformers import pipeline

    model, processor = tiny
    folder = save_clip(model, processor, tmp_path / "saved")
    prompts = get_prompts("criteria")
    p, _ = predict(model, processor, images, prompts)
    grader = pipeline("zero-shot-image-classification", model=str(folder))
    for i, image in enumerate(images):
        answer = grader(image.convert("RGB"), candidate_labels=prompts.flat, hypothesis_template="{}")
        scores = {row["label"]: row["score"] for row in answer}
        np.testing.assert_allclose([scores[text] for text in prompts.flat], p[i], atol=1e-5)


def test_odd_images_are_read_alike_or_refused(tiny):
    model, processor = tiny
    grey = np.random.default_rng(3).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    expected, _ = predict(model, processor, grey, "criteria")
    alike = {
        "PIL L": [Image.fromarray(g) for g in grey],
        "PIL RGB": [Image.fromarray(g).convert("RGB") for g in grey],
        "PIL RGBA": [Image.fromarray(g).convert("RGBA") for g in grey],
        "list of arrays": list(grey),
        "channel last": grey[..., None],
        "channel first": grey[:, None],
        "int64": grey.astype(np.int64),
        "tensor": torch.from_numpy(grey),
    }
    for name, images in alike.items():
        p, _ = predict(model, processor, images, "criteria")
        np.testing.assert_allclose(p, expected, atol=1e-6, err_msg=name)
    refused = {"one image": Image.fromarray(grey[0]), "one array": grey[0], "floats": grey / 255.0, "paths": ["a.png"]}
    for name, images in refused.items():
        with pytest.raises(KneeError):
            predict(model, processor, images, "criteria")
            pytest.fail(name)


def test_half_precision_on_disk_reads_as_float32(tiny, tmp_path):
    model, processor = tiny
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folder = save_clip(model, processor, tmp_path / "half", half=True)
    assert {t.dtype for t in load_file(folder / "model.safetensors").values()} == {torch.float16}
    assert model.dtype == torch.float32
    for name, value in before.items():
        assert torch.equal(value, model.state_dict()[name]), "saving must not round the model in memory"
    again, _ = load_clip(folder)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for a, b in zip(model.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_fresh_weights_keep_the_architecture(tiny_folder):
    a, b, c = (load_clip(tiny_folder, fresh_seed=s)[0].state_dict() for s in (0, 0, 1))
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert any(not torch.equal(a[name], c[name]) for name in a)


def test_a_folded_temperature_divides_the_logits(tiny, images):
    model, processor = tiny
    before = np.log(predict(model, processor, images, "criteria")[0])
    fold_temperature(model, 2.0)
    after = np.log(predict(model, processor, images, "criteria")[0])
    np.testing.assert_allclose(after - after[:, :1], (before - before[:, :1]) / 2, atol=1e-5)


def broken(folder, tmp_path, name):
    copy = tmp_path / name
    shutil.copytree(folder, copy)
    return copy


def test_damaged_or_foreign_checkpoints_give_one_sentence(tiny_folder, tmp_path):
    cases = {}
    cases["no config"] = broken(tiny_folder, tmp_path, "a")
    (cases["no config"] / "config.json").unlink()
    cases["empty config"] = broken(tiny_folder, tmp_path, "b")
    (cases["empty config"] / "config.json").write_text("")
    cases["truncated"] = broken(tiny_folder, tmp_path, "c")
    weights = cases["truncated"] / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    cases["other shape"] = broken(tiny_folder, tmp_path, "d")
    config = json.loads((cases["other shape"] / "config.json").read_text())
    config["projection_dim"] = 24
    (cases["other shape"] / "config.json").write_text(json.dumps(config))
    cases["missing weights"] = broken(tiny_folder, tmp_path, "e")
    weights = cases["missing weights"] / "model.safetensors"
    some = load_file(weights)
    some.pop("visual_projection.weight")
    save_file(some, weights, metadata={"format": "pt"})
    cases["no tokenizer"] = broken(tiny_folder, tmp_path, "g")
    (cases["no tokenizer"] / "tokenizer.json").unlink()
    cases["pickle only"] = broken(tiny_folder, tmp_path, "f")
    (cases["pickle only"] / "model.safetensors").rename(cases["pickle only"] / "pytorch_model.bin")
    cases["nothing there"] = tmp_path / "nowhere"
    cases["a file"] = tmp_path / "b" / "config.json"
    for name, folder in cases.items():
        with pytest.raises(KneeError) as caught:
            load_clip(folder)
        sentence = str(caught.value)
        assert str(folder) in sentence and "\n" not in sentence and len(sentence) < 600, name
        assert caught.value.remedy, name


def test_an_unreachable_hub_gives_one_sentence():
    with pytest.raises(KneeError, match="openai/clip-vit-base-patch16.*network"):
        load_clip("openai/clip-vit-base-patch16")


def test_a_prompt_too_long_is_refused_before_it_is_cut(tiny):
    with pytest.raises(KneeError, match="77"):
        encode_texts(*tiny, as_prompts(["a", "b", "severe " * 90, "d", "e"]))


@pytest.mark.parametrize("build", ["published", "gelu", "checkpointing", "eager", "listened to", "listened to below"])
def test_the_towers_short_cuts_give_the_whole_towers_answer(tiny, tiny_settings, build):
    """Embeddings and gradients are Transformers' own, also where only its own path will do."""
    from dataclasses import replace

    from kneeclip.newborn import new_clip
    from kneeclip.tower import image_features

    model, _ = new_clip(replace(tiny_settings, layers=2), tiny[1].tokenizer)
    model.double()
    tower, calls = model.vision_model, []
    if build == "eager":
        model.set_attn_implementation("eager")
    if build == "gelu":
        for layer in tower.encoder.layers:
            layer.mlp.activation_fn = torch.nn.GELU()
    if build == "checkpointing":
        model.train().gradient_checkpointing_enable()
    if build.startswith("listened to"):
        layer = tower.encoder.layers[0 if build.endswith("below") else -1]
        layer.register_forward_hook(lambda *_: calls.append(1))
    x = torch.randn(3, 3, 28, 28, generator=torch.Generator().manual_seed(0)).double()
    found = {}
    for name, features in (
        ("theirs", lambda: model.get_image_features(pixel_values=x).pooler_output),
        ("ours", lambda: image_features(model, x)),
    ):
        model.zero_grad()
        X = features()
        X.square().sum().backward()
        found[name] = [X, *[p.grad.clone() for p in tower.parameters()], model.visual_projection.weight.grad.clone()]
    for a, b in zip(found["ours"], found["theirs"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)
    assert len(calls) == (2 if build.startswith("listened to") else 0)


def test_a_prediction_is_never_of_other_images_than_those_given(tiny):
    films = [np.full((24, 24), 90, np.uint8)] * 2
    for mirror in ([True], [True] * 3):
        with pytest.raises(KneeError, match="give 2 booleans"):
            predict(*tiny, films, "criteria", mirror=mirror)
    with pytest.raises(KneeError, match="batch_size=-1"):
        predict(*tiny, films, "criteria", batch_size=-1)


def test_mixed_precision_stops_before_the_cosines(tiny, images):
    """In bfloat16, of eight bits, cosines with the grades would tie, and a tie goes to the lower grade."""
    model, processor = tiny
    pixels = to_pixel_values(processor, preprocess(processor, images))
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        X, T = encode_images(model, pixels), encode_texts(model, processor, "criteria")
        S = similarity(X, T)
        double = similarity(X.double(), T.double())
    assert X.dtype == T.dtype == S.dtype == torch.float32 and double.dtype == torch.float64
    torch.testing.assert_close(S, X @ T.t())
    assert (S.bfloat16().float() != S).float().mean() > 0.9  # it is no rounded bfloat16


def test_mirror_is_booleans_and_a_batch_a_whole_number(tiny, images):
    for word in ("R", 1):
        with pytest.raises(KneeError, match='side == "L" for side in sides'):
            predict(*tiny, images, "criteria", mirror=[word] * len(images))
    with pytest.raises(KneeError, match="a whole number from 1"):
        predict(*tiny, images, "criteria", batch_size=1.5)


def test_probabilities_that_are_none_are_refused(tiny, images):
    model, processor = tiny
    model.half()
    with torch.no_grad():
        model.logit_scale.fill_(12.0)  # exp(12) is beyond float16
    with pytest.raises(KneeError, match=r"float16.*call model.float\(\)"):
        predict(model, processor, images, "criteria")


def test_grey_levels_are_no_input_of_the_tower(tiny, images):
    model, processor = tiny
    grey = preprocess(processor, images)
    for pixels in (grey, torch.from_numpy(grey), torch.from_numpy(grey)[:, None].expand(-1, 3, -1, -1)):
        with pytest.raises(KneeError, match=r"give to_pixel_values"):
            encode_images(model, pixels)
