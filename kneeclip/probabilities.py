"""Arrays of probabilities (N, K): checked, and averaged over both views."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

from kneeclip.errors import KneeError

# Stands in for a probability of 0, so that its logarithm is finite: float32 rounds to 0 below it, and studies, which
# store five decimals, below 5e-6.
_TINY = 1e-45


def flip_average(p, flipped) -> np.ndarray:
    """Probabilities of the averaged logits, softmax((z + z′)/2): √(p p′), made to sum to 1.

    Parameters
    ----------
    p, flipped : array (N, K)
        Probabilities of the original and of the flipped view; swapping them changes nothing.

    Returns
    -------
    array (N, K)

    Raises
    ------
    KneeError
        For values that are no probabilities and for shapes that differ.

    Notes
    -----
    Source: ours; a softmax forgets a constant added to its logits, so log p serves for z.
    Notebook: 04.
    """
    p, flipped = as_probabilities(p), as_probabilities(flipped)
    same_shape(p, flipped)
    return softmax((log_of(p) + log_of(flipped)) / 2, axis=1)


def log_of(p: np.ndarray) -> np.ndarray:
    """log p, of the same shape; finite where p is 0."""
    return np.log(np.where(p > 0, p, _TINY))


def as_probabilities(p) -> np.ndarray:
    """`p` as float64 (N, K), whose rows sum to 1; a KneeError names those that don't."""
    p = as_array(p, float)
    if p.ndim != 2 or 0 in p.shape:
        raise KneeError("probabilities come as N rows of K grades, one row at least", f"shape {p.shape}")
    bad = ~(np.isfinite(p).all(1) & (p >= 0).all(1) & (np.abs(p.sum(1) - 1) <= 1e-3))
    if bad.any():
        rows = [f"row {i}" for i in np.flatnonzero(bad)]
        raise KneeError("some rows are no probabilities that sum to 1", rows, "pass logits through a softmax")
    return p


def as_array(values, dtype=None) -> np.ndarray:
    """NumPy's array of what may be a tensor; one in bfloat16 or with a gradient is no business of NumPy's."""
    try:
        return np.asarray(values, dtype=dtype)
    except (TypeError, ValueError, RuntimeError) as error:
        remedy = "give an array; of a tensor, tensor.detach().float().cpu().numpy()"
        raise KneeError("these are no numbers that NumPy takes", type(values).__name__, remedy) from error


def with_grades(p, grades) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) and whole grades (N,) from 0 to K-1 that belong together; a KneeError where they don't."""
    p, grades = as_probabilities(p), as_array(grades)
    if grades.shape != p.shape[:1]:
        raise KneeError("each row needs one grade", f"p {p.shape}, grades {grades.shape}")
    known = np.isin(grades, np.arange(p.shape[1]))
    if not known.all():
        odd = sorted({str(g) for g in grades[~known]})
        raise KneeError(f"grades are whole numbers from 0 to {p.shape[1] - 1}", odd)
    return p, grades.astype(int)


def as_pair(p_a, p_b, grades) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Two graders' probabilities of the same images, (N, K) each, and the grades (N,)."""
    p_a, p_b = as_probabilities(p_a), as_probabilities(p_b)
    same_shape(p_a, p_b)
    return p_a, *with_grades(p_b, grades)


def same_shape(a: np.ndarray, b: np.ndarray) -> None:
    """A KneeError unless they have one shape."""
    if a.shape != b.shape:
        raise KneeError("the two arrays of probabilities differ in shape", f"{a.shape} and {b.shape}")
