"""Arrays in, metrics out, each with an interval that knows that a patient has two knees.

A probability array is called `p`, (N, K); the truth is `grades`, (N,), 0 to K-1; `patients`, (N,), says whose
knee each row is. Nothing here has heard of a model. The point estimates are scikit-learn's. The bootstrap
repeats them in NumPy on sums kept for each patient: a resample only changes how often each sum counts.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax
from scipy.stats import binomtest
from sklearn import metrics as sk

from kneeclip.errors import KneeError
from kneeclip.probabilities import as_array, as_pair, as_probabilities, flip_average, log_of, with_grades
from kneeclip.resampling import bootstrap, calibration_gap, defined, draw_patients, interval, mean_by_resample


def evaluate(p, grades, patients, *, flipped=None, n_boot=1000, seed=0, level=0.95) -> dict:
    """Every number that a report of a grader holds, with intervals from resampling patients.

    Parameters
    ----------
    p : array (N, K)
        Probabilities of the original view.
    grades : array of int (N,)
        The truth, 0 to K-1.
    patients : sequence (N,)
        Whose knee each row is. Knees of one patient are drawn together or not at all.
    flipped : array (N, K), optional
        Probabilities of the horizontally flipped view: adds `flip_agreement` and `averaged`.
    n_boot : int
        Resamples; 0 leaves the intervals out (each None).
    seed, level : int, float
        Of the resampling, and of the percentile intervals.

    Returns
    -------
    dict
        Plain Python types, ready for JSON; None is what can't be computed. Metrics lie between 0 and 1, `qwk`
        between -1 and 1, and `mae` is in KL grades.

        - `accuracy`, `mae` of the argmax; `qwk`, Cohen's kappa with quadratic weights;
        - `balanced_accuracy`, `macro_f1`: plain means of recall and F1 over the grades that occur in the
          truth of the sample, or of the resample: a grade with no image there is left out, not counted as 0;
        - `auc_kl2`: area under the ROC curve of p₂+p₃+p₄ for "grade 2 or more"; None if one side is empty;
        - `ece`: Σ over 15 equal-width bins of the top probability c, (m-1)/15 < c ≤ m/15, of the bin's share
          of the images × |its accuracy - its mean c|;
        - `flip_agreement`: share of images with the same argmax in both views;
        - `confusion`: K×K counts, rows the truth; `per_grade`: dicts of grade, n, recall, precision, f1;
        - `averaged`: all of these, and their `ci`, for flip-averaged logits;
        - `ci`: metric -> [low, high]; and n, n_patients, n_boot, seed, level.

    Raises
    ------
    KneeError
        For shapes that differ, values that are no probabilities, grades outside 0 to K-1, and no rows at all.

    Notes
    -----
    Source: ECE, Guo et al. 2017, eq. 3; resampling whole clusters, Davison & Hinkley 1997, sec. 3.8.
    Notebook: 05.
    """
    p, grades = with_grades(p, grades)
    owner, draws = draw_patients(patients, len(p), n_boot, seed, level)
    scores = _scores(p, grades, owner, draws, level)
    report = {"n": len(p), **scores, "flip_agreement": None, "averaged": None}
    if flipped is not None:
        mean = flip_average(p, flipped)
        report["averaged"] = _scores(mean, grades, owner, draws, level) | _by_grade(mean, grades)
        agree = p.argmax(1) == as_array(flipped).argmax(1)
        report["flip_agreement"] = float(agree.mean())
        report["ci"]["flip_agreement"] = interval(mean_by_resample(agree, owner, draws), level)
    return report | _by_grade(p, grades) | _settings(draws, seed, level)


#: The metrics that `compare` holds against each other.
PAIRED = ("accuracy", "balanced_accuracy", "macro_f1", "qwk", "mae", "auc_kl2", "ece")


def compare(p_a, p_b, grades, patients, *, n_boot=1000, seed=0, level=0.95) -> dict:
    """Paired differences, b minus a, of two graders of the same images.

    Both are scored on the same resamples of patients: what makes an image hard for both cancels out, so the
    interval is often narrower than the graders' own intervals suggest.

    Parameters
    ----------
    p_a, p_b : array (N, K)
        Probabilities of the two graders, rows in the same order.
    grades, patients, n_boot, seed, level
        As in `evaluate`.

    Returns
    -------
    dict
        Each of `PAIRED` -> dict of a, b, difference and ci, [low, high] of the difference; and n, n_patients,
        n_boot, seed, level. A negative difference of `mae` (KL grades) or `ece` means that b is better.

    Raises
    ------
    KneeError
        As `evaluate`, and for two arrays of different shapes.

    Notes
    -----
    Notebook: 05.
    """
    p_a, p_b, grades = as_pair(p_a, p_b, grades)
    owner, draws = draw_patients(patients, len(p_a), n_boot, seed, level)
    a, b = _point(p_a, grades), _point(p_b, grades)
    boot_a, boot_b = (bootstrap(p, grades, owner, draws) for p in (p_a, p_b))
    report = {"n": len(p_a)}
    for name in PAIRED:
        difference = None if None in (a[name], b[name]) else b[name] - a[name]
        ci = interval(boot_b[name] - boot_a[name], level)
        report[name] = {"a": a[name], "b": b[name], "difference": difference, "ci": ci}
    return report | _settings(draws, seed, level)


def mcnemar(p_a, p_b, grades) -> dict:
    """Exact two-sided McNemar test: do two graders differ in how many images they get right?

    Only images that one grader alone gets right speak: each is a coin flip if the two are equally good. The
    test takes images as independent, and two knees of a patient are not: read it beside `compare`.

    Parameters
    ----------
    p_a, p_b : array (N, K)
    grades : array of int (N,)

    Returns
    -------
    dict
        `n_only_a`, `n_only_b` (images that only a, or only b, gets right) and `p_value`, 1 if both are 0.

    Raises
    ------
    KneeError
        As `compare`.

    Notes
    -----
    Source: McNemar 1947, in its exact binomial form.
    Notebook: 05.
    """
    p_a, p_b, grades = as_pair(p_a, p_b, grades)
    right_a, right_b = p_a.argmax(1) == grades, p_b.argmax(1) == grades
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    n = only_a + only_b
    p_value = float(binomtest(only_a, n).pvalue) if n else 1.0  # a fair coin
    return {"n_only_a": only_a, "n_only_b": only_b, "p_value": p_value}


def expected_grade(p) -> np.ndarray:
    """The mean grade Σₖ k·pₖ of each row, (N, K) -> (N,), in KL grades from 0 to K-1. Notebook: 05."""
    p = as_probabilities(p)
    return p @ np.arange(p.shape[1])


def fit_temperature(p, grades, weights=None) -> float:
    """The temperature T at which softmax(log p / T) fits the grades best (least negative log-likelihood).

    Parameters
    ----------
    p : array (N, K)
        Probabilities on *tune*: a temperature picked where it is then scored flatters the calibration.
    grades : array of int (N,)
    weights : array (N,), optional
        How much each image counts: where *tune* has other shares of the grades than the model will meet.

    Returns
    -------
    float
        Between 0.05 and 20; above 1 for an over-confident grader. Where every image is right there is no best one (the
        sharper the likelier), and where the probabilities are no better than even ones it is near 20.

    Raises
    ------
    KneeError
        As `evaluate`.

    Notes
    -----
    Source: Guo et al. 2017, sec. 4.2. The loss is convex in 1/T, so in log T too it has a single valley.
    Notebook: 05.
    """
    p, grades = with_grades(p, grades)
    z = log_of(p)
    if weights is not None:
        weights = as_array(weights, float)
        if weights.shape != grades.shape or not (np.isfinite(weights) & (weights >= 0)).all() or not weights.any():
            what = "the weights say how much each image counts"
            remedy = f"give {len(grades)} numbers, none negative and one above 0 at least"
            raise KneeError(what, f"shape {weights.shape}", remedy)

    def loss(log_t: float) -> float:
        z_t = z / math.exp(log_t)
        return float(np.average(logsumexp(z_t, axis=1) - z_t[np.arange(len(z)), grades], weights=weights))

    bounds = (math.log(0.05), math.log(20))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7}).x)


def with_temperature(p, T: float) -> np.ndarray:
    """softmax(log p / T), (N, K): softer above T = 1, sharper below, the argmax unchanged. Notebook: 05."""
    if not T > 0:
        raise KneeError("a temperature has to be above 0", f"T={T}", "fit it with fit_temperature")
    return softmax(log_of(as_probabilities(p)) / T, axis=1)


def _scores(p: np.ndarray, grades: np.ndarray, owner: np.ndarray, draws: np.ndarray, level: float) -> dict:
    boot = bootstrap(p, grades, owner, draws)
    return {**_point(p, grades), "ci": {name: interval(values, level) for name, values in boot.items()}}


def _point(p: np.ndarray, grades: np.ndarray) -> dict:
    """The metrics of the whole sample, by scikit-learn."""
    guess, labels, serious = p.argmax(1), range(p.shape[1]), grades >= 2
    qwk = None  # where truth and guess are one single grade throughout, chance agrees as well: kappa is 0/0
    if len(np.union1d(guess, grades)) > 1:
        qwk = float(sk.cohen_kappa_score(grades, guess, labels=labels, weights="quadratic"))
    macro = dict(labels=np.unique(grades), average="macro", zero_division=0)
    bins, gap = calibration_gap(p, grades)
    return {
        "accuracy": float(sk.accuracy_score(grades, guess)),
        # balanced_accuracy_score is the same number, with a warning for guesses that the truth does not hold
        "balanced_accuracy": float(sk.recall_score(grades, guess, **macro)),
        "macro_f1": float(sk.f1_score(grades, guess, **macro)),
        "qwk": qwk,
        "mae": float(sk.mean_absolute_error(grades, guess)),
        "auc_kl2": float(sk.roc_auc_score(serious, p[:, 2:].sum(1))) if len(set(serious)) == 2 else None,
        "ece": float(np.abs(np.bincount(bins, gap)).sum() / len(p)),
    }


def _by_grade(p: np.ndarray, grades: np.ndarray) -> dict:
    guess, labels = p.argmax(1), range(p.shape[1])
    columns = sk.precision_recall_fscore_support(grades, guess, labels=labels, zero_division=np.nan)
    return {
        "confusion": sk.confusion_matrix(grades, guess, labels=labels).tolist(),
        "per_grade": [
            {"grade": k, "n": int(n), "recall": defined(recall), "precision": defined(precision), "f1": defined(f1)}
            for k, precision, recall, f1, n in zip(labels, *columns, strict=True)
        ],
    }


def _settings(draws: np.ndarray, seed: int, level: float) -> dict:
    return {"n_patients": draws.shape[1], "n_boot": len(draws), "seed": int(seed), "level": float(level)}
