"""Linear models on pixels: what can be learnt from the knees of one side, with and without flips."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from kneeclip.errors import KneeError
from kneeclip.resampling import draw_patients, interval, mean_by_resample

#: What `one_sided` trains on: name -> (with left knees, with every image's flip as well, left knees mirrored first).
TRAINING_SETS = {
    "right knees": (False, False, False),
    "right knees + flips": (False, True, False),
    "both sides": (True, False, False),
    "both sides + flips": (True, True, False),
    "canonical": (True, False, True),
}


def patient_folds(patients: Sequence, folds: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(train, test) indices of each fold; the knees of one patient are never on both sides of a fold. Notebook: 04."""
    if len(set(patients)) < folds:
        raise KneeError(f"{folds} folds need {folds} patients", f"{len(set(patients))} patients", "give more of them")
    by_patient = GroupKFold(folds, shuffle=True, random_state=seed)
    return list(by_patient.split(np.zeros(len(patients)), groups=np.asarray(patients)))


def shrink(images: np.ndarray, size: int) -> np.ndarray:
    """(N, H, W) uint8 to (N, size, size) float32 grey levels: the mean of the pixels that fall together."""
    images = np.asarray(images)
    if images.ndim != 3 or images.dtype != np.uint8:
        found = f"shape {images.shape}, type {images.dtype}"
        raise KneeError("images come as one (N, H, W) array of uint8", found, "preprocess them first")
    small = [Image.fromarray(image).resize((size, size), Image.Resampling.BOX) for image in images]
    return np.stack([np.asarray(image, np.float32) for image in small])


def exact_pca(components: int, *, whiten: bool = False) -> PCA:
    """PCA without scikit-learn's randomised solver, whose small components of mirrored data are not mirrored alike."""
    return PCA(components, whiten=whiten, svd_solver="full")


def one_sided(
    images, grades, patients, sides, *, folds: int = 3, components: int = 100, size: int = 28, n_boot=1000, seed=0
) -> list[dict]:
    """Train a linear model on the knees of one side, then of both, with and without flips; test it on either side.

    The model is logistic regression on principal components of the pixels, fitted anew in every fold; each knee is
    graded by the model that saw none of its patient.

    Parameters
    ----------
    images : (N, H, W) uint8
    grades : (N,) int, KL 0-4
    patients : (N,) ids
    sides : (N,) "L" or "R"
    folds, components, size : int
        Patient-grouped folds; principal components, and the side in pixels that the images are shrunk to before.
    n_boot, seed : int
        Resamples of patients behind the intervals; seed of folds and resamples.

    Returns
    -------
    list of dict, one for each of `TRAINING_SETS`
        ``trained_on``; ``n`` knees tested, ``n_train`` images a model was fitted on (mean over the folds, flips
        counted); ``right``, ``left``: accuracy on the knees of that side; ``gap``: right minus left;
        ``flip_agreement``: share of knees that get the same grade when mirrored (None for `canonical`, which turns
        every knee the same way and never meets a mirrored one); ``ci``: name -> 95 % interval.

    Raises
    ------
    KneeError
        For images that are no (N, H, W) uint8, a side that is neither L nor R, and fewer patients than folds.

    Notes
    -----
    Source: ours. Notebook: 04.
    """
    grades, sides = np.asarray(grades), np.asarray(sides)
    if not set(sides.tolist()) <= {"L", "R"}:
        raise KneeError("every knee needs a side, L or R", sorted(set(sides.tolist()) - {"L", "R"}), "add side")
    small, right = shrink(images, size), sides == "R"
    pixels, flipped = small.reshape(len(small), -1), small[:, :, ::-1].reshape(len(small), -1)
    owner, draws = draw_patients(patients, len(small), n_boot, seed, 0.95)
    plan = patient_folds(patients, folds, seed)
    rows = []
    for name, (both_sides, with_flips, mirrored) in TRAINING_SETS.items():
        turned = (~right if mirrored else np.zeros(len(right), bool))[:, None]
        view, other = np.where(turned, flipped, pixels), np.where(turned, pixels, flipped)
        guess, guess_flip, n_train = np.empty_like(grades), np.empty_like(grades), []
        for train, test in plan:
            train = train if both_sides else train[right[train]]
            X, y = view[train], grades[train]
            if with_flips:
                X, y = np.concatenate([X, other[train]]), np.concatenate([y, y])
            linear = make_pipeline(exact_pca(components, whiten=True), LogisticRegression(max_iter=1000))
            linear.fit(X, y)
            guess[test], guess_flip[test] = linear.predict(view[test]), linear.predict(other[test])
            n_train.append(len(X))
        hit = guess == grades
        shares = {"right": _share(hit, right, owner, draws), "left": _share(hit, ~right, owner, draws)}
        shares["gap"] = tuple(a - b for a, b in zip(shares["right"], shares["left"], strict=True))
        if not mirrored:
            shares["flip_agreement"] = _share(guess == guess_flip, np.ones_like(right), owner, draws)
        row = {"trained_on": name, "n": len(grades), "n_train": round(np.mean(n_train)), "flip_agreement": None}
        row |= {key: float(value) for key, (value, _) in shares.items()}
        rows.append(row | {"ci": {key: interval(boot, 0.95) for key, (_, boot) in shares.items()}})
    return rows


def pixel_components(images, train, *, components: int = 100, size: int = 28):
    """Principal components of the pixels of both views: the plainest features there are.

    Parameters
    ----------
    images : (N, H, W) uint8
    train : (N,) bool or indices
        The images whose two views the components are fitted on.

    Returns
    -------
    X, X_flip : (N, components) float32 arrays, the original and the flipped views. Notebook: 04.
    """
    small = shrink(images, size)
    pixels, flipped = small.reshape(len(small), -1), small[:, :, ::-1].reshape(len(small), -1)
    pca = exact_pca(components).fit(np.concatenate([pixels[train], flipped[train]]))
    return tuple(pca.transform(view).astype(np.float32) for view in (pixels, flipped))


def _share(hit, among, owner, draws) -> tuple[float, np.ndarray]:
    """Share of hits among some knees, and the same in each resample of patients (B,)."""
    return hit[among].mean(), mean_by_resample(hit, owner, draws, among)
