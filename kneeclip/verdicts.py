"""A difference between two arms, and what its intervals let one say: the rule that every plan is held to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy import stats

LEVEL = 0.95  # of every interval
CLAIM = 0.0236  # the paper's gain, as points of accuracy
POWER = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)  # 2.8 standard errors: seen four times in five


def judged(difference: float, ci, by_run: np.ndarray, margin: float | None, shared: float) -> dict:
    """A difference with what its intervals let one say. The rule of every plan: see `verdict`.

    ``runs_ci`` takes the runs' differences as independent; ``corrected_ci``, of folds alone, does not: any two training
    sets of a cross-validation share most of their images. `shared` is `Book.shared`.
    """
    error = (ci[1] - ci[0]) / (2 * stats.norm.ppf((1 + LEVEL) / 2)) if ci else None
    return {
        "difference": difference,
        "ci": ci,
        **spread(by_run),
        "runs_ci": t_interval(by_run),
        "corrected_ci": t_interval(by_run, shared) if len(by_run) > 1 else None,
        "verdict": verdict(ci, margin),
        "detectable": None if error is None else POWER * error,  # four times in five, in a study like this one
    }


def images_for_claim(detectable: float | None, n: int) -> int | None:
    """Images of new patients at which the paper's gain in accuracy would be seen four times in five; these were n."""
    return None if detectable is None else round(n * (detectable / CLAIM) ** 2)


def verdict(ci: Sequence[float] | None, margin: float | None) -> str:
    """What a 95 % interval of a difference lets one say.

    ``differs``: it excludes 0. ``equivalent``: it lies within ± margin. ``differs within the margin``: both.
    ``can't tell``: neither, or there is no interval. Without a margin nothing is equivalent. Notebook: 05.
    """
    if ci is None:
        return "can't tell"
    apart = ci[0] > 0 or ci[1] < 0
    close = margin is not None and -margin < ci[0] and ci[1] < margin
    if apart:
        return "differs within the margin" if close else "differs"
    return "equivalent" if close else "can't tell"


def spread(by_run: np.ndarray) -> dict:
    """The runs' own values, and the standard deviation between seeds (in a fold) and between folds (of their means)."""
    folds, seeds = by_run.shape
    between_seeds = float(np.sqrt(by_run.var(1, ddof=1).mean())) if seeds > 1 else None
    between_folds = float(by_run.mean(1).std(ddof=1)) if folds > 1 else None
    return {"by_run": by_run.ravel().tolist(), "seed_sd": between_seeds, "fold_sd": between_folds}


def t_interval(by_run: np.ndarray, shared: float = 0.0) -> list[float] | None:
    """t interval of the mean over folds, or over seeds where there is one fold: by_run (F, S); None of a single run.

    `shared`, held-out over training images, widens it for training sets that overlap [Nadeau & Bengio 2003:
    the variance is that of one run times 1/n + `shared`]. Notebook: 05.
    """
    values = by_run.mean(1) if by_run.shape[0] > 1 else by_run[0]
    if len(values) < 2 or np.isnan(values).any():
        return None
    error = values.std(ddof=1) * np.sqrt(1 / len(values) + shared)
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * error
    return [float(values.mean() - half), float(values.mean() + half)]


def tested(results: list[dict]) -> dict:
    """McNemar's test of every seed, and the median of their p-values."""
    p_values = [r["p_value"] for r in results]
    return {"by_seed": results, "median_p": float(np.median(p_values))}
