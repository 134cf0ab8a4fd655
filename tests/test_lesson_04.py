"""Notebook 04: its exercises name the typical mistakes; its linear experiments are what they say they are."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score, log_loss

from kneeclip import pixels, probe
from kneeclip.ablation import compare_arms
from kneeclip.checks import check
from kneeclip.errors import KneeError
from kneeclip.evaluation import compare
from kneeclip.presets import ARMS, TWO_VIEW_ARMS


def symmetrised(combine, axis=-1):
    return lambda f: lambda x: combine(f(x), f(x.flip(axis)))


SOLUTIONS = [
    ("04", lambda p, q: -(p * q).sqrt().sum(-1).log()),
    ("04-extra", symmetrised(lambda z, z_flip: (z + z_flip) / 2)),
]
MISTAKES = [
    ("04", lambda p, q: (p * q).sqrt().sum(-1).log(), "sign"),
    ("04", lambda p, q: (p * q).sqrt().sum(-1), "overlap"),
    ("04", lambda p, q: torch.tensor(1.0), "shape"),
    ("04", lambda p, q: (p, q), "no number and no tensor"),
    ("04-extra", lambda f: f(torch.rand(3, 4, 6)), "returns a function"),
    ("04-extra", lambda f: f, "f itself"),
    ("04-extra", symmetrised(lambda z, z_flip: (z + z_flip) / 2, axis=-2), "last axis"),
    ("04-extra", symmetrised(lambda z, z_flip: z + z_flip), "sum"),
    ("04-extra", symmetrised(lambda z, z_flip: (z.softmax(-1) + z_flip.softmax(-1)) / 2), "probabilities"),
    ("04-extra", symmetrised(lambda z, z_flip: z_flip), "still changes"),
    ("04-extra", symmetrised(torch.maximum), "not the average"),
    ("04-extra", symmetrised(lambda z, z_flip: z.mean()), "shape"),
]


@pytest.mark.parametrize(("exercise", "answer", "word"), MISTAKES)
def test_a_typical_mistake_is_named(exercise, answer, word, capsys):
    assert check(exercise, answer) is False
    assert word in capsys.readouterr().out


@pytest.mark.parametrize(("exercise", "answer"), SOLUTIONS)
def test_a_right_answer_passes(exercise, answer):
    assert check(exercise, answer) is True


@pytest.fixture(scope="module")
def lopsided():
    """240 knees of 120 patients: the height of a bright spot tells the grade, on a right knee left of the middle."""
    rng = np.random.default_rng(0)
    grades, sides = rng.integers(0, 5, 240), np.tile(["R", "L"], 120)
    images = rng.integers(0, 15, (240, 8, 8)).astype(np.uint8)
    images[np.arange(240), grades + 1, 1] += 160
    images[sides == "L"] = images[sides == "L"][:, :, ::-1]
    return images, grades, np.repeat(np.arange(120), 2), sides


def test_right_knees_only_fail_on_the_left_and_flips_mend_it(lopsided):
    rows = pixels.one_sided(*lopsided, components=10, size=8, n_boot=50)
    assert [row["trained_on"] for row in rows] == list(pixels.TRAINING_SETS)
    right, flips, both, both_flips, canonical = rows
    assert right["right"] > 0.9 and right["left"] < 0.4 and min(right["ci"]["gap"]) > 0.4
    assert min(row["left"] for row in rows[1:]) > 0.9
    assert flips["flip_agreement"] > right["flip_agreement"] and canonical["flip_agreement"] is None
    assert [row["n_train"] for row in rows] == [80, 160, 160, 320, 160]
    for row in rows:
        assert row["gap"] == pytest.approx(row["right"] - row["left"]) and row["n"] == 240
        assert row["ci"]["left"][0] <= row["left"] <= row["ci"]["left"][1]


def test_folds_keep_a_patients_knees_together(lopsided):
    patients = lopsided[2]
    folds = pixels.patient_folds(patients, 3, seed=0)
    assert sorted(np.concatenate([test for _, test in folds])) == list(range(240))
    for train, test in folds:
        assert not set(patients[train]) & set(patients[test]) and len(train) + len(test) == 240
    with pytest.raises(KneeError, match="3 folds need 3"):
        pixels.patient_folds([1, 1, 2, 2], 3, seed=0)


def test_what_one_sided_refuses(lopsided):
    images, grades, patients, sides = lopsided
    with pytest.raises(KneeError, match="L or R"):
        pixels.one_sided(images, grades, patients, [""] * 240)
    with pytest.raises(KneeError, match="uint8"):
        pixels.one_sided(images / 255, grades, patients, sides)


@pytest.fixture(scope="module")
def lopsided_features(lopsided):
    images, grades, patients, sides = lopsided
    return *pixels.pixel_components(images, np.arange(160), components=8, size=8), grades, sides == "L"


def test_pixel_components_of_a_flipped_image_are_those_of_its_flip(lopsided):
    images = lopsided[0]
    X, X_flip = pixels.pixel_components(images, slice(0, 160), components=8, size=8)
    turned, _ = pixels.pixel_components(
        np.concatenate([images[:160], images[:, :, ::-1]]), slice(0, 160), components=8, size=8
    )
    assert np.allclose(X_flip, turned[160:], atol=1e-2) and not np.allclose(X, X_flip, atol=1)


def test_the_clip_arm_is_logistic_regression(lopsided_features):
    X, X_flip, grades, _ = lopsided_features
    l2 = 0.01
    heads = probe.linear_probe(X, X_flip, grades, "clip", views=None, steps=800, lr=0.1, l2=l2, seeds=[0, 1])
    Z = (X - X.mean(0)) / X.std(0, ddof=1)
    reference = LogisticRegression(C=1 / (l2 * len(X)), tol=1e-8, max_iter=5000).fit(Z, grades)
    p, _ = heads.predict(X, X_flip)

    def objective(p, W):
        return log_loss(grades, p) + 0.5 * l2 * np.square(W).sum()

    best = objective(reference.predict_proba(Z), reference.coef_)
    for s in range(2):
        assert objective(p[s], heads.weight[s].numpy()) == pytest.approx(best, abs=2e-4)


def test_heads_trained_side_by_side_are_those_trained_alone(lopsided_features):
    X, X_flip, grades, left = lopsided_features
    for arm in ARMS:
        both = probe.linear_probe(X, X_flip, grades, arm, mirror=left, steps=20, views=32, seeds=[3, 4])
        alone = probe.linear_probe(X, X_flip, grades, arm, mirror=left, steps=20, views=32, seeds=[4])
        assert torch.allclose(both.weight[1], alone.weight[0], atol=1e-5)
        assert not torch.allclose(both.weight[0], both.weight[1], atol=1e-3)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_sees_equally_many_views(arm, lopsided_features, monkeypatch):
    X, X_flip, grades, left = lopsided_features
    real, seen = probe.arm_losses, []
    monkeypatch.setattr(probe, "arm_losses", lambda z, y, recipe: seen.append((len(z), len(y))) or real(z, y, recipe))
    heads = probe.linear_probe(X, X_flip, grades, arm, mirror=left, steps=3, views=32, seeds=[0])
    # in a two-view arm half as many images a step, both views of each
    assert seen == [(32, 16 if arm in TWO_VIEW_ARMS else 32)] * 3 and heads.views == 96


def test_arms_see_what_they_should(lopsided_features):
    X, X_flip, grades, left = lopsided_features
    short = dict(steps=30, views=64, seeds=[0])

    def weights(arm, a, b, **more):
        return probe.linear_probe(a, b, grades, arm, **short, **more).weight

    noise = np.random.default_rng(1).normal(size=X.shape).astype(np.float32)
    assert torch.equal(weights("clip", X, X_flip), weights("clip", X, noise)), "clip never sees the flips"
    for arm in ("flip_aug", *TWO_VIEW_ARMS):
        assert not torch.allclose(weights(arm, X, X_flip), weights(arm, X, noise), atol=1e-3)
    by_hand = np.where(left[:, None], X_flip, X)
    assert torch.equal(weights("canonical", X, X_flip, mirror=left), weights("clip", by_hand, noise))
    assert torch.allclose(weights("consistency", X, X_flip, weight=0.0), weights("consistency", X, noise, weight=0.0))
    with pytest.raises(KneeError, match="nobody said"):
        weights("canonical", X, X_flip)


def test_canonical_heads_mirror_the_left_knees_they_grade(lopsided_features):
    X, X_flip, grades, left = lopsided_features
    heads = probe.linear_probe(X, X_flip, grades, "canonical", mirror=left, steps=100, views=64, seeds=[0])
    p, p_flip = heads.predict(X, X_flip, mirror=left)
    q, q_flip = heads.predict(X_flip, X, mirror=~left)  # all films flipped, and the sides with them
    assert np.array_equal(p, q) and np.array_equal(p_flip, q_flip)


def test_canonical_asks_which_knees_are_left_ones_and_takes_no_letters(lopsided_features):
    X, X_flip, grades, left = lopsided_features
    for mirror in (np.where(left, "L", "R"), left[:-1], left.astype(int)):
        with pytest.raises(KneeError, match='give sides == "L"'):
            probe.linear_probe(X, X_flip, grades, "canonical", mirror=mirror, steps=1, views=32)


def test_features_are_the_towers(tiny, lopsided):
    model, processor = tiny
    images = np.random.default_rng(0).integers(0, 255, (5, 28, 28)).astype(np.uint8)
    X, X_flip = probe.features(model, processor, images, batch_size=2)
    turned, _ = probe.features(model, processor, images[:, :, ::-1])
    assert X.shape == (5, model.config.vision_config.hidden_size) and torch.allclose(X_flip, turned, atol=1e-5)


def test_compare_arms_agrees_with_compare_and_scikit_learn():
    rng = np.random.default_rng(0)
    grades, patients = rng.integers(0, 5, 200), np.repeat(np.arange(100), 2)
    a, b = (rng.dirichlet(np.ones(5), (2, 200)) + np.eye(5)[grades] * strength for strength in (0.2, 0.5))
    a, b = a / a.sum(-1, keepdims=True), b / b.sum(-1, keepdims=True)
    rows, differences = compare_arms({"clip": (a, a), "symmetry": (b, a)}, grades, patients, n_boot=200)
    assert rows[0]["qwk"] == pytest.approx(
        np.mean([cohen_kappa_score(grades, run.argmax(1), weights="quadratic") for run in a])
    )
    assert rows[0]["flip_agreement"] == 1 and rows[0]["averaged"] == rows[0]["accuracy"]
    assert rows[0]["seeds"] == 2 and len(rows[0]["by_seed"]["accuracy"]) == 2
    one, expected = compare_arms({"clip": (a[:1], None), "symmetry": (b[:1], None)}, grades, patients, n_boot=200)
    assert one[0]["averaged"] is None and {row["metric"] for row in expected} == {"accuracy", "qwk"}
    known = compare(a[0], b[0], grades, patients, n_boot=200)
    for row in expected:
        assert row["difference"] == pytest.approx(known[row["metric"]]["difference"])
        assert row["ci"] == pytest.approx(known[row["metric"]]["ci"])
    assert [row["arm"] for row in differences] == ["symmetry"] * 4
    with pytest.raises(KneeError, match="stack the seeds"):
        compare_arms({"clip": (a[0], None)}, grades, patients)
    sure = np.eye(5)[[[0] * 4]]  # always one grade, and no other there is: QWK is 0/0
    rows, differences = compare_arms({"clip": (sure, None), "symmetry": (sure, None)}, [0] * 4, list("aabb"), n_boot=20)
    assert rows[0]["qwk"] is None and rows[0]["accuracy"] == 1
    assert [row["difference"] for row in differences] == [0, None]


def test_the_stored_record_is_of_the_whole_train_split_and_says_how_it_was_made():
    report = json.loads((Path(__file__).parents[1] / "results/one_sided/real.json").read_text(encoding="utf-8"))
    assert [row["trained_on"] for row in report["rows"]] == list(pixels.TRAINING_SETS)
    assert (report["n"], report["n_patients"], sum(report["counts"])) == (5778, 2889, 5778)
    assert {"folds", "components", "size", "seed"} <= set(report["settings"]) and report["command"]
