"""The losses against values worked by hand, an independent NumPy version, and calculus."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from kneeclip import presets
from kneeclip.errors import KneeError
from kneeclip.losses import FORMS, clip_koa_loss, consistency_loss, symmetry_loss


def numpy_losses(z, z_flip, y, form, weight):
    """The definitions once more, in probabilities and in NumPy, sharing no line with the package."""

    def softmax(a):
        e = np.exp(a - a.max(1, keepdims=True))
        return e / e.sum(1, keepdims=True)

    p, q = softmax(z), softmax(z_flip)
    rows = np.arange(len(y))
    original, flipped = -np.log(p[rows, y]), -np.log(q[rows, y])
    m = (p + q) / 2
    consistency = {
        "js": ((p * np.log(p / m)).sum(1) + (q * np.log(q / m)).sum(1)) / 2,
        "kl": ((p * np.log(p / q)).sum(1) + (q * np.log(q / p)).sum(1)) / 2,
        "mse": ((p - q) ** 2).sum(1),
        "bhattacharyya": -np.log(np.sqrt(p * q).sum(1)),
    }[form]
    symmetry = original.mean() + flipped.mean()
    return {
        "original": original.mean(),
        "flipped": flipped.mean(),
        "symmetry": symmetry,
        "consistency": consistency.mean(),
        "total": symmetry + weight * consistency.mean(),
    }


def test_a_recipe_knows_the_forms_that_are_computed():
    """Two lists, because neither room imports the other."""
    assert presets.FORMS == FORMS


@pytest.mark.parametrize("form", FORMS)
def test_equals_the_numpy_version(form):
    rng = np.random.default_rng(3)
    z, z_flip, y = rng.normal(0, 3, (17, 5)), rng.normal(0, 3, (17, 5)), rng.integers(0, 5, 17)
    ours = clip_koa_loss(torch.tensor(z), torch.tensor(z_flip), torch.tensor(y), form=form, weight=0.7)
    theirs = numpy_losses(z, z_flip, y, form, 0.7)
    assert list(ours) == list(theirs)
    for name in theirs:
        assert ours[name].dtype == torch.float64
        assert ours[name].item() == pytest.approx(theirs[name], rel=1e-12), name


def test_values_worked_by_hand():
    # two grades; p = (3/4, 1/4), p' = (1/4, 3/4), the truth is grade 0
    z, z_flip = torch.tensor([[math.log(3.0), 0.0]]), torch.tensor([[0.0, math.log(3.0)]])
    y = torch.tensor([0])
    losses = symmetry_loss(z, z_flip, y)
    assert losses["original"].item() == pytest.approx(math.log(4 / 3))
    assert losses["flipped"].item() == pytest.approx(math.log(4))
    assert losses["symmetry"].item() == pytest.approx(math.log(16 / 3))
    # m = (1/2, 1/2): each KL is 3/4 log(3/2) + 1/4 log(1/2)
    assert consistency_loss(z, z_flip, form="js").item() == pytest.approx(0.75 * math.log(1.5) - 0.25 * math.log(2))
    assert consistency_loss(z, z_flip, form="kl").item() == pytest.approx(0.5 * math.log(3))
    assert consistency_loss(z, z_flip, form="mse").item() == pytest.approx(0.5)
    assert consistency_loss(z, z_flip, form="bhattacharyya").item() == pytest.approx(-math.log(math.sqrt(3) / 2))


@pytest.mark.parametrize("form", FORMS)
def test_gradients_through_both_views(form):
    generator = torch.Generator().manual_seed(0)
    z, z_flip = (torch.randn(3, 5, dtype=torch.float64, generator=generator, requires_grad=True) for _ in range(2))
    y = torch.tensor([0, 2, 4])
    assert torch.autograd.gradcheck(lambda a, b: clip_koa_loss(a, b, y, form=form, weight=1.3)["total"], (z, z_flip))
    consistency_loss(z, z_flip, form=form).backward()
    assert z.grad.abs().sum() > 0 and z_flip.grad.abs().sum() > 0


logits = hnp.arrays(np.float64, (4, 5), elements=st.floats(-30, 30))


@settings(max_examples=60, deadline=None)
@given(z=logits, z_flip=logits, y=st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_half_the_symmetry_loss_is_the_averaged_views_loss_plus_bhattacharyya(z, z_flip, y):
    z, z_flip, y = torch.tensor(z), torch.tensor(z_flip), torch.tensor(y)
    left = 0.5 * symmetry_loss(z, z_flip, y)["symmetry"]
    averaged = torch.nn.functional.cross_entropy((z + z_flip) / 2, y)
    right = averaged + consistency_loss(z, z_flip, form="bhattacharyya")
    assert left.item() == pytest.approx(right.item(), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(z=logits, z_flip=logits)
def test_consistency_is_symmetric_bounded_and_zero_only_on_agreement(z, z_flip):
    z, z_flip = torch.tensor(z), torch.tensor(z_flip)
    bound = {"js": math.log(2), "mse": 2.0, "kl": math.inf, "bhattacharyya": math.inf}
    apart = (z.softmax(-1) - z_flip.softmax(-1)).abs().max() > 1e-4
    for form in FORMS:
        there, back = (consistency_loss(*pair, form=form).item() for pair in ((z, z_flip), (z_flip, z)))
        assert there == pytest.approx(back, abs=1e-12)
        assert -1e-12 <= there <= bound[form] + 1e-12
        assert consistency_loss(z, z + 3.0, form=form).item() == pytest.approx(0, abs=1e-12)  # softmax ignores a shift
        assert not apart or there > 1e-10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_extreme_logits_stay_finite(form, dtype):
    z = torch.tensor([[6e4, -6e4, 0, 0, 0], [0, 6e4, -6e4, 1, 2]], dtype=dtype, requires_grad=True)
    z_flip = torch.tensor([[-6e4, 6e4, 0, 0, 0], [0, 6e4, -6e4, 1, 2]], dtype=dtype, requires_grad=True)
    losses = clip_koa_loss(z, z_flip, torch.tensor([0, 1]), form=form)
    losses["total"].backward()
    assert losses["total"].dtype == torch.float32
    assert all(torch.isfinite(value) for value in losses.values())
    assert torch.isfinite(z.grad).all() and torch.isfinite(z_flip.grad).all()


half = hnp.arrays(np.float32, (4, 5), elements=st.sampled_from([-6e4, -3e4, -1.0, 0.0, 1.0, 3e4, 6e4]))


@settings(max_examples=60, deadline=None)
@given(z=half, z_flip=half, y=st.lists(st.integers(0, 4), min_size=4, max_size=4))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_any_mixture_of_extremes_stays_finite(dtype, z, z_flip, y):
    for form in FORMS:
        views = [torch.tensor(view).to(dtype).requires_grad_() for view in (z, z_flip)]
        losses = clip_koa_loss(*views, torch.tensor(y), form=form)
        losses["total"].backward()
        assert all(value.isfinite() for value in losses.values()), form
        assert all(view.grad.isfinite().all() for view in views), form


def test_a_constant_predictor_is_perfectly_consistent():
    z = torch.zeros(6, 5)
    losses = clip_koa_loss(z, z, torch.arange(6) % 5)
    assert losses["consistency"].item() == 0
    assert losses["original"].item() == pytest.approx(math.log(5))


def test_one_value_an_image_averages_to_the_mean():
    generator = torch.Generator().manual_seed(1)
    z, z_flip, y = torch.randn(9, 5, generator=generator), torch.randn(9, 5, generator=generator), torch.arange(9) % 5
    rows, means = (clip_koa_loss(z, z_flip, y, reduction=r) for r in ("none", "mean"))
    for name in means:
        assert rows[name].shape == (9,)
        assert rows[name].mean().item() == pytest.approx(means[name].item(), rel=1e-6)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda z, y: clip_koa_loss(z, z[:1], y), "two views"),
        (lambda z, y: clip_koa_loss(z[0], z[0], y), "two views"),
        (lambda z, y: clip_koa_loss(z, z, y[:1]), "one grade for each"),
        (lambda z, y: clip_koa_loss(z, z, y + 4), "outside 0 to 4"),
        (lambda z, y: clip_koa_loss(z, z, y, form="cosine"), "cosine"),
        (lambda z, y: clip_koa_loss(z, z, y, weight=-1), "negative"),
        (lambda z, y: clip_koa_loss(z, z, y, weight=float("nan")), "negative"),
    ],
)
def test_what_does_not_fit_is_said_in_a_sentence(call, word):
    with pytest.raises(KneeError, match=word):
        call(torch.zeros(2, 5), torch.tensor([0, 1]))


@pytest.mark.parametrize("weight", ["1", None, math.inf, math.nan, -1])
def test_a_weight_that_is_no_number_from_0(weight):
    z = torch.zeros(2, 5)
    with pytest.raises(KneeError, match="weight=.*give a number from 0"):
        clip_koa_loss(z, z, torch.zeros(2, dtype=torch.long), weight=weight)
