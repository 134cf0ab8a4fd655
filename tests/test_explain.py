"""Gradient attention: against a sum done by hand, on a real small CLIP, and its scores against scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from kneeclip import explain, phantom
from kneeclip.errors import KneeError
from kneeclip.model import encode_images, encode_texts, load_clip, preprocess, similarity, to_pixel_values

PROMPTS = "names"


@pytest.fixture(scope="module")
def drawn():
    return phantom.make_phantoms(6, seed=11)


@pytest.fixture(scope="module")
def bundled():
    return load_clip("phantom-clip")


@pytest.fixture(scope="module")
def regions(drawn):
    return torch.stack(list(phantom.masks(drawn.anatomy).values())).any(0).numpy()


def test_one_layer_by_hand():
    # two heads, two tokens. Head 1: gradient × attention [[.5·2, .5·−1], [0, 1]] -> positive part [[1, 0], [0, 1]];
    # head 2: [[.2·0, .8·1], [.4·1, .6·0]] = [[0, .8], [.4, 0]]. Their mean Ā = [[.5, .4], [.2, .5]], and R = 1 + Ā.
    A = torch.tensor([[[[0.5, 0.5], [0.0, 1.0]], [[0.2, 0.8], [0.4, 0.6]]]])
    dA = torch.tensor([[[[2.0, -1.0], [3.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]]])
    once = torch.tensor([[[1.5, 0.4], [0.2, 1.5]]])
    torch.testing.assert_close(explain.roll_out([A], [dA]), once)
    # a second, equal layer: R + Ā R = (1 + Ā)(1 + Ā)
    torch.testing.assert_close(explain.roll_out([A, A], [dA, dA]), once @ once)


def test_the_map_is_that_of_a_layer_done_by_hand(tiny, drawn):
    """One layer, so the class row is Ā's; its gradient by finite differences of the tower's own mathematics."""
    model, processor = tiny
    images = drawn.images[:2]
    maps = explain.relevance(model, processor, images, PROMPTS, grade=3)
    x = to_pixel_values(processor, preprocess(processor, images))
    vision = model.vision_model
    layer = vision.encoder.layers[0]
    hidden = vision.pre_layrnorm(vision.embeddings(x))
    normed = layer.layer_norm1(hidden)
    split = [f(normed).view(2, 5, 2, 16).transpose(1, 2) for f in (layer.self_attn.q_proj, layer.self_attn.k_proj)]
    value = layer.self_attn.v_proj(normed).view(2, 5, 2, 16).transpose(1, 2)
    A = (split[0] @ split[1].transpose(-1, -2) / 4).softmax(-1).detach().requires_grad_()  # 1/√16
    hidden = hidden + layer.self_attn.out_proj((A @ value).transpose(1, 2).reshape(2, 5, 32))
    hidden = hidden + layer.mlp(layer.layer_norm2(hidden))
    X = model.visual_projection(vision.post_layernorm(hidden[:, 0]))
    X = X / X.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(X, encode_images(model, x))
    z = model.logit_scale.exp() * similarity(X, encode_texts(model, processor, PROMPTS).detach())
    (dA,) = torch.autograd.grad(z[:, 3].sum(), A)
    row = (A * dA).clamp(min=0).mean(1)[:, 0, 1:].detach().view(2, 2, 2).double()
    large = torch.nn.functional.interpolate(row[:, None], size=(28, 28), mode="bilinear")[:, 0]
    assert np.allclose(maps, large / large.sum((1, 2), keepdim=True), atol=1e-7)


def test_maps_are_shares_and_depend_on_the_grade(bundled, drawn):
    model, processor = bundled
    maps = explain.relevance(model, processor, drawn.images, "criteria", batch_size=5)
    assert maps.shape == drawn.images.shape and maps.min() >= 0
    assert np.allclose(maps.sum((1, 2)), 1)
    four = explain.relevance(model, processor, drawn.images, "criteria", grade=4)
    assert np.abs(four - maps).sum((1, 2)).max() > 0.05
    x = to_pixel_values(processor, drawn.images)
    with torch.no_grad():
        guess = similarity(encode_images(model, x), encode_texts(model, processor, "criteria")).argmax(1)
    named = explain.relevance(model, processor, drawn.images, "criteria", grade=guess.tolist())
    assert np.allclose(named, maps, atol=1e-6)  # without a grade it is the predicted one; batches don't matter
    for grade in (5, -1):
        with pytest.raises(KneeError, match="no prompt for that grade"):
            explain.relevance(model, processor, drawn.images, "criteria", grade=grade)
    with pytest.raises(KneeError, match="no image"):
        explain.relevance(model, processor, [], "criteria")


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_handed_back_as_it_came(tiny, drawn, training):
    model, processor = tiny
    for parameter in model.parameters():
        parameter.requires_grad_(training)  # frozen weights must not stop the gradient of the attention
    before = {name: value.clone() for name, value in model.state_dict().items()}
    kinds = (model.config._attn_implementation, model.vision_model.config._attn_implementation)
    model.train(training)
    explain.relevance(model, processor, drawn.images[:3], PROMPTS)
    with pytest.raises(KneeError, match="one of each image"):
        explain.relevance(model, processor, drawn.images[:3], PROMPTS, grade=[1, 2])
    assert model.training is training
    assert (model.config._attn_implementation, model.vision_model.config._attn_implementation) == kinds
    assert "sdpa" in kinds
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_scores_are_share_over_share_and_scikit_learns_auc(regions, drawn):
    rng = np.random.default_rng(0)
    maps = rng.integers(0, 4, regions.shape) + 2.0 * regions  # with ties
    report = explain.scores(maps, regions, drawn.patients, n_boot=50)
    lift = [m[r].sum() / m.sum() / r.mean() for m, r in zip(maps, regions, strict=True)]
    auc = [roc_auc_score(r.ravel(), m.ravel()) for m, r in zip(maps, regions, strict=True)]
    assert report["lift"]["value"] == pytest.approx(np.mean(lift))
    assert report["auc"]["value"] == pytest.approx(np.mean(auc))
    assert (report["n"], report["n_patients"]) == (12, 6)
    even = explain.scores(np.ones(regions.shape[1:]), regions, drawn.patients, against=maps, n_boot=50)
    assert even["lift"]["value"] == pytest.approx(1) and even["auc"]["value"] == pytest.approx(0.5)
    assert even["auc_difference"]["value"] == pytest.approx(0.5 - np.mean(auc))
    low, high = even["lift_difference"]["ci"]
    assert low < even["lift_difference"]["value"] < high < 0
    perfect = explain.scores(regions, regions, drawn.patients, n_boot=0)
    assert perfect["auc"] == {"value": 1.0, "ci": None}
    with pytest.raises(KneeError, match="one map of its own size"):
        explain.scores(maps[:, :5], regions, drawn.patients)
    for broken in (np.zeros(regions.shape), -maps, np.where(regions, np.nan, maps)):
        with pytest.raises(KneeError, match="a map holds relevance"):
            explain.scores(broken, regions, drawn.patients)
    with pytest.raises(KneeError, match="empty"):
        explain.scores(maps, np.zeros_like(regions), drawn.patients)


def test_intervals_resample_patients(regions, drawn):
    """Copies of a patient's knees add no knowledge: the interval stays."""
    maps = np.random.default_rng(1).random(regions.shape)
    once = explain.scores(maps, regions, drawn.patients)
    again = explain.scores(*(np.concatenate([x] * 3) for x in (maps, regions, drawn.patients)))
    assert again["lift"]["ci"] == pytest.approx(once["lift"]["ci"])


def test_the_two_baselines(bundled, regions, drawn):
    constant = explain.average_map(regions, 8)
    assert constant.shape == (112, 112) and constant.sum() == pytest.approx(1) and constant.min() >= 0
    # no finer than a patch: brought back to 8 × 8 it keeps the order of the regions' own patches
    patches = regions.mean(0).reshape(8, 14, 8, 14).mean((1, 3))
    assert constant.reshape(8, 14, 8, 14).mean((1, 3)).argmax() == patches.argmax()
    with pytest.raises(KneeError, match="don't divide"):
        explain.average_map(regions, 9)

    model, processor = bundled
    fresh, _ = load_clip("phantom-clip", fresh_seed=0)
    trained, random = (
        explain.scores(explain.relevance(m, processor, drawn.images, "criteria"), regions, drawn.patients)
        for m in (model, fresh)
    )
    assert trained["auc"]["ci"][0] > random["auc"]["ci"][1]
    assert explain.scores(constant, regions, drawn.patients)["auc"]["value"] > 0.9


def test_a_grade_and_a_batch_are_whole_numbers(tiny):
    films = [np.full((28, 28), 90, np.uint8)] * 2
    for more, word in (
        ({"grade": 1.5}, "grade=1.5"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"batch_size": 2.5}, "2.5"),
    ):
        with pytest.raises(KneeError, match=word):
            explain.relevance(*tiny, films, "criteria", **more)
