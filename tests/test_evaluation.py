"""The numbers: against scikit-learn, against sums done by hand, and against what a bootstrap has to do."""

import json
import math

import numpy as np
import pytest
import torch
from sklearn import metrics as sk

from kneeclip import evaluation as ev
from kneeclip import resampling
from kneeclip.errors import KneeError

K = 5


def _softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def _knees(n=200, seed=0, skill=1.5, grades=range(K), K=K):
    """Grades, two views' probabilities and two knees a patient."""
    rng = np.random.default_rng(seed)
    y = rng.choice(list(grades), n)
    z = rng.normal(size=(n, K))
    z[np.arange(n), y] += skill
    return _softmax(z), _softmax(z + 0.5 * rng.normal(size=z.shape)), y, np.arange(n) // 2


def _ece(p, y, weight=None):
    """The definition, bin by bin."""
    weight = np.ones(len(y)) if weight is None else weight
    top, right, total = p.max(1), p.argmax(1) == y, 0.0
    for m in range(1, 16):
        inside = (top > (m - 1) / 15) & (top <= m / 15)
        if weight[inside].sum():
            accuracy, confidence = (np.average(x[inside], weights=weight[inside]) for x in (right, top))
            total += weight[inside].sum() / weight.sum() * abs(accuracy - confidence)
    return total


def _by_sklearn(p, y, weight=None):
    guess, some = p.argmax(1), np.unique(y if weight is None else y[weight > 0])
    common = dict(sample_weight=weight)
    serious = y >= 2
    weights = np.ones(len(y)) if weight is None else weight
    return {
        "accuracy": sk.accuracy_score(y, guess, **common),
        "balanced_accuracy": sk.balanced_accuracy_score(y, guess, **common),
        "macro_f1": sk.f1_score(y, guess, labels=some, average="macro", zero_division=0, **common),
        "qwk": sk.cohen_kappa_score(y, guess, weights="quadratic", **common),
        "mae": np.average(np.abs(guess - y), weights=weights),
        "auc_kl2": sk.roc_auc_score(serious, p[:, 2] + p[:, 3] + p[:, 4], **common),
        "ece": _ece(p, y, weight),
    }


@pytest.mark.parametrize("grades", [range(K), [0, 2, 4], [1, 2]])
@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_point_estimates_are_scikit_learns(grades):
    p, q, y, patients = _knees(grades=grades)
    report = ev.evaluate(p, y, patients, flipped=q, n_boot=0)
    for name, value in _by_sklearn(p, y).items():
        assert report[name] == pytest.approx(value, abs=1e-12), name
    averaged = np.sqrt(p * q)
    averaged /= averaged.sum(1, keepdims=True)
    for name, value in _by_sklearn(averaged, y).items():
        assert report["averaged"][name] == pytest.approx(value, abs=1e-12), name
    assert report["flip_agreement"] == np.mean(p.argmax(1) == q.argmax(1)) < 1
    for told, view in ((report, p), (report["averaged"], averaged)):
        assert told["confusion"] == sk.confusion_matrix(y, view.argmax(1), labels=range(K)).tolist()
        recalls = sk.recall_score(y, view.argmax(1), labels=range(K), average=None, zero_division=np.nan)
        assert [row["recall"] for row in told["per_grade"]] == pytest.approx(
            [None if np.isnan(r) else r for r in recalls]
        )


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
@pytest.mark.parametrize("grades", [range(K), [0, 2, 4]])
def test_each_resample_is_scikit_learn_with_weights(grades):
    p, _, y, patients = _knees(n=60, seed=1, grades=grades)
    p = np.round(p, 1) + 1e-9  # many ties for the AUC
    p /= p.sum(1, keepdims=True)
    y[:2] = 1  # grade 1 has one patient only: some resamples miss it
    patients = np.where(np.arange(60) < 50, patients, 25)  # and one patient has ten knees
    owner, draws = resampling.draw_patients(patients, len(p), 40, 3, 0.95)
    assert (draws.sum(1) == 26).all() and (draws[:, owner[0]] == 0).any()
    boot = resampling.bootstrap(p, y, owner, draws)
    for b in range(40):
        for name, value in _by_sklearn(p, y, draws[b][owner]).items():
            assert boot[name][b] == pytest.approx(value, abs=1e-12), (name, b)


def test_a_case_small_enough_for_paper():
    # truth 0 0 1 2, guessed 0 1 1 0: two right, one off by 1, one off by 2
    p = np.array([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.1, 0.9, 0.0], [0.5, 0.3, 0.2]])
    report = ev.evaluate(p, [0, 0, 1, 2], ["a", "a", "b", "c"], flipped=p[[0, 1, 3, 2]], n_boot=0)
    assert report["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 0]]
    assert (report["n"], report["n_patients"], report["accuracy"], report["mae"]) == (4, 3, 0.5, 0.75)
    assert report["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 0) / 3)
    assert report["macro_f1"] == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    # observed 1 + 4; expected: truth (2, 1, 1), guessed (2, 2, 0): (2·2·1 + 1·2·1 + 1·2·4 + 1·2·1) / 4
    assert report["qwk"] == pytest.approx(1 - 5 / 4)
    # p₂: .2 for the knee of grade 2 against .1, .1 and 0
    assert report["auc_kl2"] == 1
    # bins 12, 9, 14, 8: each holds one image, off by .2, .6, .1 and .5
    assert report["ece"] == pytest.approx((0.2 + 0.6 + 0.1 + 0.5) / 4)
    assert report["flip_agreement"] == 0.5
    f1 = pytest.approx(2 / 3)
    assert report["per_grade"][1] == {"grade": 1, "n": 1, "recall": 1, "precision": 0.5, "f1": f1}
    assert report["per_grade"][2] == {"grade": 2, "n": 1, "recall": 0, "precision": None, "f1": 0}


def test_ece_by_hand():
    # twice .95 in the last bin, one right: .45 off; twice 14/15, upper edge of the 14th, both right: 1/15 off
    top = np.array([0.95, 0.95, 14 / 15, 14 / 15])
    p = np.stack([top, 1 - top], axis=1)
    report = ev.evaluate(p, [0, 1, 0, 0], list("abcd"), n_boot=0)
    assert report["ece"] == pytest.approx((0.45 + 1 / 15) / 2)
    report = ev.evaluate([[1.0, 0.0]] * 2, [0, 0], list("ab"), n_boot=0)
    assert report["ece"] == 0 and report["qwk"] is None and report["auc_kl2"] is None


def test_report_is_json_and_complete():
    p, q, y, patients = _knees()
    report = ev.evaluate(p, y, patients, flipped=q, n_boot=50, seed=7, level=0.9)
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    headline = {"accuracy", "balanced_accuracy", "macro_f1", "qwk", "mae", "auc_kl2", "ece"}
    asked = headline | {"n", "flip_agreement", "confusion", "per_grade", "averaged", "ci"}
    assert set(report) == asked | {"n_patients", "n_boot", "seed", "level"}
    assert (
        set(report["averaged"]) == headline | {"ci", "confusion", "per_grade"}
        and set(report["averaged"]["ci"]) == headline
    )
    assert set(report["ci"]) == headline | {"flip_agreement"}
    for name, (low, high) in report["ci"].items():
        if name != "ece":  # which is biased upwards by resampling
            assert low < report[name] < high
    assert (report["n_boot"], report["seed"], report["level"], report["n_patients"]) == (50, 7, 0.9, 100)
    alone = ev.evaluate(p, y, patients, n_boot=50, seed=7, level=0.9)
    assert alone["flip_agreement"] is alone["averaged"] is None and "flip_agreement" not in alone["ci"]
    assert alone["ci"]["qwk"] == report["ci"]["qwk"]


def test_intervals_are_those_of_scikit_learn_on_copied_rows():
    """The whole way round, with images of drawn patients really copied."""
    p, q, y, patients = _knees(n=80, seed=2)
    patients = np.where(np.arange(80) < 60, patients, 35)  # one patient has twenty knees
    report = ev.evaluate(p, y, patients, flipped=q, n_boot=60, seed=5, level=0.8)
    owner, draws = resampling.draw_patients(patients, 80, 60, 5, 0.8)
    values, agreements = [], []
    for draw in draws:
        rows = np.concatenate([np.repeat(np.flatnonzero(owner == o), int(c)) for o, c in enumerate(draw)])
        values.append(sk.cohen_kappa_score(y[rows], p[rows].argmax(1), weights="quadratic"))
        agreements.append(np.mean(p[rows].argmax(1) == q[rows].argmax(1)))
    assert report["ci"]["qwk"] == pytest.approx(np.quantile(values, [0.1, 0.9]))
    assert report["ci"]["flip_agreement"] == pytest.approx(np.quantile(agreements, [0.1, 0.9]))


def test_every_patient_is_drawn_equally_often():
    _, draws = resampling.draw_patients(list("abcde"), 5, 4000, 0, 0.95)
    assert (draws.sum(1) == 5).all()
    assert draws.mean(0) == pytest.approx([1] * 5, abs=0.06)  # four standard errors
    assert draws.var(0) == pytest.approx([0.8] * 5, abs=0.12)  # of a binomial, five draws of one in five


def test_bootstrap_repeats_itself_whatever_the_order_of_rows():
    p, _, y, patients = _knees()
    patients = [f"{i:03d}" for i in patients]
    one = ev.evaluate(p, y, patients, n_boot=200)["ci"]
    mix = np.random.default_rng(1).permutation(len(y))
    again = ev.evaluate(p[mix], y[mix], [patients[i] for i in mix], n_boot=200)["ci"]
    for name in one:
        assert again[name] == pytest.approx(one[name])
    assert ev.evaluate(p, y, patients, n_boot=200, seed=1)["ci"]["qwk"] != one["qwk"]


def test_intervals_know_that_knees_share_a_patient():
    p, _, y, _ = _knees(n=150)
    p, y, patients = np.repeat(p, 4, axis=0), np.repeat(y, 4), np.repeat(np.arange(150), 4)
    clustered = ev.evaluate(p, y, patients, n_boot=1000)["ci"]
    naive = ev.evaluate(p, y, np.arange(600), n_boot=1000)["ci"]
    for name in ("accuracy", "qwk", "mae", "auc_kl2", "macro_f1"):
        # four copies of a knee are one knee: half the width would be a claim of four times the evidence
        assert np.ptp(clustered[name]) / np.ptp(naive[name]) == pytest.approx(2, rel=0.12), name


def test_interval_covers():
    """Of 120 samples of patients, the 90 % interval holds the true accuracy about 108 times."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(120):
        right = np.repeat(rng.random(150) < 0.7, 2)  # both knees right or both wrong
        p = np.where(right[:, None], [[0.9, 0.1]], [[0.1, 0.9]])
        ci = ev.evaluate(p, np.zeros(300, int), np.arange(300) // 2, n_boot=150, seed=seed, level=0.9)["ci"]
        held += ci["accuracy"][0] <= 0.7 <= ci["accuracy"][1]
    assert 97 <= held <= 117


def test_undefined_is_none_and_not_an_exception():
    p, _, _, patients = _knees()
    report = ev.evaluate(p, np.zeros(200, int), patients, n_boot=20)
    assert report["auc_kl2"] is report["ci"]["auc_kl2"] is None
    assert report["per_grade"][3] == {"grade": 3, "n": 0, "recall": None, "precision": 0, "f1": 0}
    # one patient with all the serious grades: where it is not drawn there is no AUC, elsewhere there is
    y = np.zeros(200, int)
    y[:2] = 3
    low, high = ev.evaluate(p, y, patients, n_boot=50)["ci"]["auc_kl2"]
    assert 0 <= low <= high <= 1
    assert set(ev.evaluate(p, y, patients, n_boot=0)["ci"].values()) == {None}
    # one patient drawn again and again would give intervals of no width, as if all were known
    assert set(ev.evaluate(p, y, ["one"] * len(y))["ci"].values()) == {None}
    assert ev.compare(p, p[::-1], y, ["one"] * len(y))["accuracy"]["ci"] is None


def test_compare_is_paired():
    p, q, y, patients = _knees(n=400)
    report = ev.compare(p, q, y, patients, n_boot=500)
    a, b = (ev.evaluate(x, y, patients, n_boot=500) for x in (p, q))
    for name in ("accuracy", "qwk", "mae"):
        row = report[name]
        assert (row["a"], row["b"]) == (a[name], b[name]) and row["difference"] == b[name] - a[name]
        assert row["ci"][0] < row["difference"] < row["ci"][1]
        unpaired = np.hypot(np.ptp(a["ci"][name]), np.ptp(b["ci"][name]))
        assert np.ptp(row["ci"]) < 0.85 * unpaired
    assert ev.compare(p, p, y, patients)["qwk"]["ci"] == [0, 0]
    back = ev.compare(q, p, y, patients, n_boot=500)["accuracy"]["ci"]
    assert back == pytest.approx([-v for v in report["accuracy"]["ci"][::-1]])
    json.dumps(report, allow_nan=False)


def test_a_mean_in_every_resample_is_that_of_the_knees_drawn():
    rng = np.random.default_rng(0)
    patients, values, among = rng.integers(0, 20, 50), rng.normal(size=50), rng.random(50) < 0.2
    owner, draws = resampling.draw_patients(patients, 50, 30, 0, 0.95)
    whole, some = (resampling.mean_by_resample(values, owner, draws, rows) for rows in (None, among))
    for times, mean, part in zip(draws, whole, some, strict=True):
        knees = np.repeat(np.arange(50), times[owner].astype(int))
        assert mean == pytest.approx(values[knees].mean())
        assert part == pytest.approx(values[knees][among[knees]].mean())
    assert np.isnan(resampling.mean_by_resample(values, owner, draws, np.zeros(50, bool))).all()


def _pair(both, only_a, only_b, neither):
    """Two graders who get so many knees of grade 0 right."""
    a = np.repeat([1, 1, 0, 0], [both, only_a, only_b, neither])
    b = np.repeat([1, 0, 1, 0], [both, only_a, only_b, neither])
    return tuple(np.stack([x, 1 - x], axis=1) for x in (a, b))


@pytest.mark.parametrize("counts", [(5, 3, 9, 2), (0, 7, 7, 0), (4, 1, 0, 0), (900, 180, 140, 100)])
def test_mcnemar_is_the_exact_binomial(counts):
    a, b = _pair(*counts)
    got = ev.mcnemar(a, b, np.zeros(sum(counts), int))
    assert (got["n_only_a"], got["n_only_b"]) == counts[1:3]
    n = counts[1] + counts[2]
    tail = sum(math.comb(n, k) for k in range(min(counts[1:3]) + 1))  # an exact whole number
    assert got["p_value"] == pytest.approx(min(1, 2 * tail / 2**n), rel=1e-12)


@pytest.mark.parametrize(
    "only_a, only_b, p_value",
    # EVIDENCE 3: 39 images of 1,656 with 15 % (248) and 25 % (414) discordant. Such a net is even where the
    # pairs are: .019 and .069 belong to a net of 38, a net of 39 in one pair more or less gives a little less.
    [(105, 143, 0.0186), (105, 144, 0.0159), (188, 226, 0.0689), (187, 226, 0.0614)],
)
def test_mcnemar_of_the_papers_gain(only_a, only_b, p_value):
    a, b = _pair(1656 - only_a - only_b - 200, only_a, only_b, 200)
    assert ev.mcnemar(a, b, np.zeros(1656, int))["p_value"] == pytest.approx(p_value, abs=5e-5)


def test_mcnemar_without_a_difference():
    p, _, y, _ = _knees()
    assert ev.mcnemar(p, p, y) == {"n_only_a": 0, "n_only_b": 0, "p_value": 1.0}


@pytest.mark.parametrize("T", [0.4, 1.0, 3.0])
def test_temperature_is_recovered(T):
    rng = np.random.default_rng(0)
    z = 2 * rng.normal(size=(20000, K))
    y = (_softmax(z).cumsum(1) > rng.random((20000, 1))).argmax(1)  # grades drawn as z promises
    over_confident = _softmax(z * T)
    found = ev.fit_temperature(over_confident, y)
    assert found == pytest.approx(T, rel=0.03)
    mended = ev.with_temperature(over_confident, found)
    assert np.allclose(mended, _softmax(z * T / found))
    before, after = (ev.evaluate(x, y, range(20000), n_boot=0)["ece"] for x in (over_confident, mended))
    assert after < 0.015 and (T == 1 or after < before / 3)


def test_temperature_is_the_minimum_and_stays_in_bounds():
    p, _, y, _ = _knees()
    T = ev.fit_temperature(p, y)
    nll = {t: sk.log_loss(y, ev.with_temperature(p, t), labels=range(K)) for t in (T, T * 0.98, T * 1.02)}
    assert min(nll, key=nll.get) == T
    right, wrong = (0.9 * np.eye(K)[g] + 0.02 for g in (y, (y + 1) % K))
    assert 0.05 <= ev.fit_temperature(right, y) < 0.1 and 19.9 < ev.fit_temperature(wrong, y) <= 20
    zeros = np.eye(K, dtype=np.float32)[y]
    assert np.isfinite(ev.with_temperature(zeros, 2.0)).all()
    assert 19.9 < ev.fit_temperature(zeros, (y + 1) % K) <= 20


def test_a_weight_of_two_is_an_image_that_stands_there_twice():
    p, _, y, _ = _knees()
    weights = np.where(y == 0, 2, 1)
    twice = np.repeat(np.arange(len(y)), weights)
    weighted = ev.fit_temperature(p, y, weights)
    assert weighted == pytest.approx(ev.fit_temperature(p[twice], y[twice]), rel=1e-5)
    assert weighted != pytest.approx(ev.fit_temperature(p, y), rel=1e-3)


def test_flip_average_is_the_softmax_of_averaged_logits():
    rng = np.random.default_rng(0)
    z, z_flip = 3 * rng.normal(size=(2, 50, K))
    averaged = ev.flip_average(_softmax(z), _softmax(z_flip))
    assert np.allclose(averaged, _softmax((z + z_flip) / 2), atol=1e-12)
    assert np.array_equal(averaged, ev.flip_average(_softmax(z_flip), _softmax(z)))
    assert np.allclose(ev.flip_average([[1.0, 0.0]], [[0.0, 1.0]]), 0.5)  # no view may veto into 0/0


def test_expected_grade():
    assert ev.expected_grade([[0, 0, 0, 0.25, 0.75], [0.2] * 5]).tolist() == pytest.approx([3.75, 2])


def test_inputs_that_cannot_be_scored():
    p, q, y, patients = _knees(n=6)
    nan = p.copy()
    nan[3, 1] = np.nan
    bad = {
        "one row at least": [(np.empty((0, 5)), [], []), (p[0], y, patients)],
        "sum to 1 .row 3.": [(nan, y, patients)],
        "sum to 1 .row 0, row 1, row 2 and 3 more.": [(np.log(p), y, patients), (p * 1.01, y, patients)],
        "one grade": [(p, y[:5], patients), (p, y[:, None], patients)],
        "from 0 to 4 .5, 7.": [(p, [0, 5, 7, 5, 1, 2], patients)],
        "from 0 to 4 .-1.0, 1.5.": [(p, [0, -1, 1.5, 2, 3, 4], patients)],
        "from 0 to 4 .nan.": [(p, [0, np.nan, 1, 2, 3, 4], patients)],
        "one patient .6 images, 5 patients.": [(p, y, patients[:5])],
        "no patient": [(p, y, ["a", None, "b", "b", "c", "c"]), (p, y, ["a", np.nan, "b", "b", "c", "c"])],
    }
    for match, cases in bad.items():
        for case in cases:
            with pytest.raises(KneeError, match=match):
                ev.evaluate(*case)
    with pytest.raises(KneeError, match="differ in shape"):
        ev.evaluate(p, y, patients, flipped=q[:5])
    with pytest.raises(KneeError, match="sum to 1"):
        ev.evaluate(p, y, patients, flipped=q * 2)
    with pytest.raises(KneeError, match="differ in shape"):
        ev.compare(p, q[:, :4] / q[:, :4].sum(1, keepdims=True), y, patients)
    with pytest.raises(KneeError, match="differ in shape"):
        ev.mcnemar(p[:5], q, y)
    with pytest.raises(KneeError, match="n_boot"):
        ev.evaluate(p, y, patients, n_boot=-1)
    with pytest.raises(KneeError, match="level"):
        ev.evaluate(p, y, patients, level=95)
    for T in (0, -1, np.nan):
        with pytest.raises(KneeError, match="above 0"):
            ev.with_temperature(p, T)
    ev.evaluate(p * 1.0005, y, patients, n_boot=0)  # float32's rounding is forgiven


def test_the_smallest_probabilities_are_not_cut_off():
    z, z_flip = np.array([[0.0, -150.0]]), np.array([[-120.0, 0.0]])
    assert np.allclose(ev.flip_average(_softmax(z), _softmax(z_flip)), _softmax((z + z_flip) / 2), atol=1e-12)


@pytest.mark.parametrize("change, word", [
    ({"seed": -1}, "seed=-1"), ({"seed": "a"}, "seed='a'"), ({"patients": None}, "NoneType"),
    ({"patients": "0123"}, "no list of patients"), ({"level": "95"}, "level"), ({"n_boot": 1.5}, "n_boot=1.5"),
    ({"p": torch.full((4, 5), 0.2, requires_grad=True)}, "detach"),
    ({"flipped": torch.full((4, 5), 0.2, dtype=torch.bfloat16)}, "float"),
    ({"p": [["a"] * 5] * 4}, "no numbers"), ({"grades": torch.ones(4, dtype=torch.bfloat16)}, "no numbers"),
])  # fmt: skip
def test_what_can_not_be_evaluated_is_said(change, word):
    given = {"p": np.full((4, 5), 0.2), "grades": [0, 1, 2, 3], "patients": list("aabb")} | change
    with pytest.raises(KneeError, match=word):
        ev.evaluate(**given)


@pytest.mark.parametrize("weights", [[1.0], [0.0] * 4, [1, 1, 1, math.nan], [1, 1, 1, -1], "abcd"])
def test_weights_of_a_temperature_that_weigh_nothing(weights):
    with pytest.raises(KneeError, match="4 numbers|no numbers"):
        ev.fit_temperature(np.full((4, 5), 0.2), [0, 1, 2, 3], weights)
