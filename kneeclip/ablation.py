"""Several arms, several seeds, the same knees: means over the seeds, and paired differences by patient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from kneeclip.errors import KneeError
from kneeclip.evaluation import evaluate, flip_average
from kneeclip.resampling import bootstrap_guesses, defined, draw_patients, interval, mean_by_resample

MEASURES = ("accuracy", "qwk", "flip_agreement", "averaged")


def compare_arms(
    predictions: Mapping[str, tuple],
    grades,
    patients,
    *,
    controls: Sequence[str] = ("clip", "flip_aug"),
    n_boot: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> tuple[list[dict], list[dict]]:
    """Each arm's metrics, averaged over its seeds, and each arm minus each control.

    Patients are resampled; in every resample the metric of each seed is computed and averaged over the seeds, for
    all arms alike. The intervals speak of new patients graded by these very runs, not of new training sets.

    Parameters
    ----------
    predictions : mapping of arm -> (p, p_flip)
        Probabilities of both views, each (S, N, K), S seeds. `p_flip` may be None: no flip agreement, no average.
    grades, patients : (N,)
    controls : sequence of str
        Arms that the others are compared with; those that are not among the predictions are left out.

    Returns
    -------
    rows : list of dict
        ``arm``, ``seeds``, and for ``accuracy``, ``qwk``, ``flip_agreement``, ``averaged`` (accuracy of the
        flip-averaged logits) the mean over the seeds, or None; ``ci``; ``by_seed``: metric -> list of S values.
    differences : list of dict
        ``arm``, ``minus``, ``metric``, ``difference`` and ``ci``, [low, high].

    Raises
    ------
    KneeError
        If an array is not (S, N, K), and as `kneeclip.evaluation.evaluate`.

    Notes
    -----
    Notebook: 04.
    """
    grades = np.asarray(grades)
    owner, draws = draw_patients(patients, len(grades), n_boot, seed, level)
    values, boots = {}, {}
    for arm, (p, p_flip) in predictions.items():
        if np.ndim(p) != 3 or np.shape(p)[1] != len(grades):
            raise KneeError(f"the predictions of {arm} must be (seeds, N, K)", f"{np.shape(p)}", "stack the seeds")
        runs = [_one_seed(p[s], None if p_flip is None else p_flip[s], grades, owner, draws) for s in range(len(p))]
        names = [name for name in MEASURES if name in runs[0]]
        values[arm] = {name: [run[name][0] for run in runs] for name in names}
        boots[arm] = {name: np.mean([run[name][1] for run in runs], axis=0) for name in names}
    rows = []
    for arm, by_seed in values.items():
        means = {name: defined(np.mean(by_seed[name])) if name in by_seed else None for name in MEASURES}
        ci = {name: interval(boot, level) for name, boot in boots[arm].items()}
        rows.append({"arm": arm, "seeds": len(predictions[arm][0]), **means, "ci": ci, "by_seed": by_seed})
    differences = []
    for control in [name for name in controls if name in values]:
        for arm in [name for name in values if name != control]:
            for name in [name for name in values[arm] if name in values[control]]:
                apart = defined(np.mean(values[arm][name]) - np.mean(values[control][name]))
                ci = interval(boots[arm][name] - boots[control][name], level)
                differences.append({"arm": arm, "minus": control, "metric": name, "difference": apart, "ci": ci})
    return rows, differences


def _one_seed(p, p_flip, grades, owner, draws) -> dict:
    """metric -> (value, its resamples (B,)) of one run."""
    point = evaluate(p, grades, owner, n_boot=0)
    boot = bootstrap_guesses(p.argmax(1), grades, owner, draws, p.shape[1])
    scores = {name: (np.nan if point[name] is None else point[name], boot[name]) for name in ("accuracy", "qwk")}
    if p_flip is not None:
        agree = p.argmax(1) == p_flip.argmax(1)
        right = flip_average(p, p_flip).argmax(1) == grades
        for name, hit in (("flip_agreement", agree), ("averaged", right)):
            scores[name] = (float(hit.mean()), mean_by_resample(hit, owner, draws))
    return scores
