"""Every metric of every resample at once: patients are drawn, and each patient's sums are counted as often.

`evaluation` asks for the intervals; scikit-learn with sample weights gives the same numbers one resample at a time,
and the suite holds the two against each other.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterable

import numpy as np

from kneeclip.errors import KneeError

BINS = 15  # of the top probability, for the calibration error


def calibration_gap(p: np.ndarray, grades: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bin of each image's top probability c, and right (1 or 0) minus c: ECE sums the latter by bin."""
    top = p.max(1)
    return np.clip(np.ceil(top * BINS) - 1, 0, BINS - 1).astype(int), (p.argmax(1) == grades) - top


def draw_patients(patients, n: int, n_boot: int, seed: int, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Owner of each row, (N,), and how often each patient is drawn in each resample, (B, P)."""
    if isinstance(patients, str) or not isinstance(patients, Iterable):
        raise KneeError("that is no list of patients", type(patients).__name__, "give the id of each image's patient")
    ids = list(patients)
    if len(ids) != n:
        raise KneeError("each image needs one patient", f"{n} images, {len(ids)} patients")
    if any(i is None or i != i or i == "" for i in ids):
        raise KneeError("an image has no patient", remedy="give every row the id of its patient")
    for name, value in (("n_boot", n_boot), ("seed", seed)):
        if not isinstance(value, numbers.Integral) or value < 0:
            raise KneeError(f"{name} can't be so", f"{name}={value!r}", "give a whole number from 0")
    if not isinstance(level, numbers.Real) or not 0 < level < 1:
        raise KneeError("the level of an interval lies between 0 and 1", f"level={level!r}", "0.95 is usual")
    names, owner = np.unique([str(i) for i in ids], return_inverse=True)
    count = len(names)
    if count < 2:
        n_boot = 0  # one patient drawn again is the same patient: an interval of no width would say "certain"
    drawn = np.random.default_rng(seed).integers(count, size=(n_boot, count))
    drawn += count * np.arange(n_boot)[:, None]  # each resample counts in its own stretch
    return owner, np.bincount(drawn.ravel(), minlength=n_boot * count).reshape(n_boot, count).astype(float)


def mean_by_resample(values: np.ndarray, owner: np.ndarray, draws: np.ndarray, among=None) -> np.ndarray:
    """The mean of `values` (N,) in every resample, (B,); NaN where nobody of those asked about was drawn.

    Parameters
    ----------
    owner, draws
        From `draw_patients`.
    among : (N,) bool, optional
        The rows to average over; all of them if nothing is given.
    """
    rows = np.ones(len(values), bool) if among is None else np.asarray(among)
    sums, counts = (np.bincount(owner, x, minlength=draws.shape[1]) for x in (np.asarray(values) * rows, rows))
    with np.errstate(divide="ignore", invalid="ignore"):
        return (draws @ sums) / (draws @ counts)


def bootstrap(p: np.ndarray, grades: np.ndarray, owner: np.ndarray, draws: np.ndarray) -> dict:
    """The metrics of every resample, name -> (B,); NaN where undefined."""
    P = draws.shape[1]
    bins, gap = calibration_gap(p, grades)
    gaps = np.bincount(owner * BINS + bins, gap, minlength=P * BINS).reshape(P, BINS)
    with np.errstate(divide="ignore", invalid="ignore"):  # no serious knee drawn, or no other: NaN
        area = _auc(p[:, 2:].sum(1), grades >= 2, owner, draws)
    return {
        **bootstrap_guesses(p.argmax(1), grades, owner, draws, p.shape[1]),
        "auc_kl2": area,
        "ece": np.abs(draws @ gaps).sum(1) / (draws @ np.bincount(owner)),
    }


def bootstrap_guesses(guess: np.ndarray, grades: np.ndarray, owner: np.ndarray, draws: np.ndarray, K: int) -> dict:
    """The metrics of every resample that need the guessed grades only, name -> (B,); NaN where undefined."""
    P = draws.shape[1]
    cells = np.bincount((owner * K + grades) * K + guess, minlength=P * K * K).reshape(P, K * K)
    matrix = (draws @ cells).reshape(-1, K, K)  # (B, K, K), rows the truth
    truth, guessed, hits = matrix.sum(2), matrix.sum(1), np.diagonal(matrix, axis1=1, axis2=2)  # (B, K)
    n = truth.sum(1)
    apart = np.abs(np.subtract.outer(np.arange(K), np.arange(K)))  # (K, K), in grades
    with np.errstate(divide="ignore", invalid="ignore"):  # a grade that was not drawn: NaN, and left out
        f1 = np.where(truth > 0, 2 * hits / (truth + guessed), np.nan)
        by_chance = np.einsum("bi,ij,bj->b", truth, apart**2, guessed) / n
        return {
            "accuracy": hits.sum(1) / n,
            "balanced_accuracy": np.nanmean(hits / truth, axis=1),
            "macro_f1": np.nanmean(f1, axis=1),
            "qwk": 1 - (matrix * apart**2).sum((1, 2)) / by_chance,
            "mae": (matrix * apart).sum((1, 2)) / n,
        }


def _auc(score: np.ndarray, serious: np.ndarray, owner: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Share of (serious, other) pairs that the score puts in order, a tie counting half: (B,)."""
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-1.0))  # where a new score begins
    areas = []
    for some in np.array_split(draws, max(1, len(draws) // 100)):  # 100 resamples at a time: little memory
        weight = some[:, owner[order]]
        high = np.add.reduceat(weight * serious[order], starts, axis=1)
        low = np.add.reduceat(weight * ~serious[order], starts, axis=1)
        below = low.cumsum(1) - low / 2
        areas.append((high * below).sum(1) / (high.sum(1) * low.sum(1)))
    return np.concatenate(areas)


def interval(values: np.ndarray, level: float) -> list[float] | None:
    """The percentile interval of (B,) resampled values, NaN left out."""
    values = values[~np.isnan(values)]
    return np.quantile(values, [(1 - level) / 2, (1 + level) / 2]).tolist() if len(values) else None


def defined(value: float) -> float | None:
    """A number that JSON knows: None where it is not defined (NaN)."""
    return None if np.isnan(value) else float(value)
