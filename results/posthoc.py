"""python results/posthoc.py: what was asked of the finished studies after their plans, from their runs' files alone.

None of it was planned, so none of it is a test; results/README.md says where it uses a figure of these. Writes
posthoc.json beside this file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy import stats

import kneeclip as kc
from kneeclip.checkpoints import write_json
from kneeclip.evaluation import flip_average
from kneeclip.ledger import read_results
from kneeclip.report import N_BOOT
from kneeclip.resampling import draw_patients, interval, mean_by_resample
from kneeclip.verdicts import LEVEL, t_interval

HERE = Path(__file__).parent


def over_patients(patients: np.ndarray, *terms: tuple[int, np.ndarray, np.ndarray]) -> list[float]:
    """95 % interval of Σ sign · mean of values (N,) over rows (N,), patients resampled; a term: sign, values, rows."""
    owner, draws = draw_patients(patients, len(patients), N_BOOT, 0, LEVEL)
    return interval(sum(sign * mean_by_resample(values, owner, draws, rows) for sign, values, rows in terms), LEVEL)


def real_study(name: str) -> dict:
    """Differences that the plan did not have, each arm's accuracy by fold, and how far the folds really differ."""
    _, images, records = read_results(HERE / name)
    fold, grade, patient = (np.array(images[name]) for name in ("fold", "grade", "patient"))
    right = {}
    for run, record in records.items():
        p, flipped = np.array(record["p"]), np.array(record["p_flip"])
        arm = run.variant.arm
        for view, q in ((arm, p), (f"{arm}, averaged", flip_average(p, flipped))):
            right.setdefault(view, np.zeros(len(grade)))[fold == run.fold] = q.argmax(1) == grade[fold == run.fold]
    everywhere = np.ones(len(grade))
    told = {}
    for a, b in (("canonical", "clip"), ("canonical", "clip, averaged"), ("clip, averaged", "clip")):
        by_fold = np.array([(right[a] - right[b])[fold == k].mean() for k in range(5)])
        told[f"{a} - {b}"] = {
            "difference": float((right[a] - right[b]).mean()),
            "ci": over_patients(patient, (1, right[a], everywhere), (-1, right[b], everywhere)),
            "by_fold": by_fold.tolist(),
            "corrected_ci": t_interval(by_fold[:, None], 1 / 4),
        }
    ends = [over_patients(patient, (1, right["clip_koa"], fold == k), (-1, right["clip"], fold == k)) for k in range(5)]
    error = np.array([high - low for low, high in ends]) / (2 * stats.norm.ppf((1 + LEVEL) / 2))
    apart = np.array([(right["clip_koa"] - right["clip"])[fold == k].mean() for k in range(5)])
    weighted = np.average(apart, weights=error**-2)
    q = float((((apart - weighted) / error) ** 2).sum())  # Cochran's Q: one difference, and sampling alone?
    told["clip_koa - clip, between folds"] = {
        "sd": float(apart.std(ddof=1)),
        "error_of_sampling_images": float(np.sqrt((error**2).mean())),
        "sd_without_it": float(np.sqrt(max(apart.var(ddof=1) - (error**2).mean(), 0))),
        "q": q,
        "p": float(stats.chi2.sf(q, 4)),
    }
    arms = sorted(name for name in right if "averaged" not in name)
    told["accuracy_by_fold"] = {arm: [float(right[arm][fold == k].mean()) for k in range(5)] for arm in arms}
    history = {run: record["history"][-1] for run, record in records.items()}
    told["last_epoch"] = {
        arm: {
            loss: sorted(row[loss] for run, row in history.items() if run.variant.arm == arm)
            for loss in ("consistency", "total")
        }
        for arm in ("symmetry", "clip_koa")
    }
    return told


def right_only() -> dict:
    """What the missing side costs the *same* left knees, and whether agreement alone narrows the gap between sides."""
    _, images, records = read_results(HERE / "phantom_right_only")
    grade, patient, side = (np.array(images[name]) for name in ("grade", "patient", "side"))
    right = {}
    for run, record in records.items():
        v = run.variant
        if v.sides == "R" and v.arm in ("clip", "canonical", "consistency"):
            right.setdefault(v.arm, {})[run.seed] = (np.array(record["p"]).argmax(1) == grade).astype(float)
    mean = {arm: np.mean(list(runs.values()), axis=0) for arm, runs in right.items()}
    left, other = (side == "L").astype(float), (side == "R").astype(float)

    def of(arm, rows, seed=None):
        return float((mean[arm] if seed is None else right[arm][seed])[rows > 0].mean())

    seeds = sorted(right["clip"])
    cost = np.array([of("canonical", left, s) - of("clip", left, s) for s in seeds])
    better, worse = (np.array([of("consistency", x, s) - of("clip", x, s) for s in seeds]) for x in (left, other))
    gap = better - worse
    on_left = (1, mean["consistency"], left), (-1, mean["clip"], left)
    on_right = (1, mean["consistency"], other), (-1, mean["clip"], other)
    return {
        "clip on left knees": of("clip", left),
        "clip on right knees": of("clip", other),
        "the same models on left knees, mirrored": of("canonical", left),
        "mirrored - as they are, left knees": {
            "difference": float(cost.mean()),
            "ci": over_patients(patient, (1, mean["canonical"], left), (-1, mean["clip"], left)),
            "seeds_ci": t_interval(cost[None]),
        },
        "consistency - clip, right knees": {
            "difference": float(worse.mean()),
            "ci": over_patients(patient, *on_right),
        },
        "gap between the sides, consistency - clip": {
            "difference": float(gap.mean()),
            "ci": over_patients(patient, *on_left, *((-sign, *rest) for sign, *rest in on_right)),
            "seeds_ci": t_interval(gap[None]),
        },
    }


def calibrated() -> dict:
    """The calibration error that 826 images of a perfectly calibrated grader would show, by simulation."""
    _, images, records = read_results(HERE / "real_study")
    run = next(run for run in records if run.variant.arm == "clip_koa" and run.fold == 0)
    p, rng = np.array(records[run]["p"]), np.random.default_rng(0)
    found = []
    for _ in range(1000):
        q = p[rng.integers(len(p), size=826)]
        grades = (q.cumsum(1) < rng.random(826)[:, None]).sum(1).clip(max=4)
        found.append(kc.evaluate(q, grades, [str(i) for i in range(826)], n_boot=0)["ece"])
    return {"n": 826, "mean": float(np.mean(found)), "ci": [float(x) for x in np.quantile(found, [0.025, 0.975])]}


if __name__ == "__main__":
    told = {name: real_study(name) for name in ("real_study", "real_study_224")}
    told |= {"phantom_right_only": right_only(), "ece_of_a_calibrated_grader": calibrated()}
    write_json(HERE / "posthoc.json", told)
