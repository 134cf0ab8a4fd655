"""python results/phantom_to_real/run.py DATA [MODEL] [--splits SPLIT ...]: what models of phantoms say of real knees.

AUC for KL ≥ 2 and Spearman's rank correlation of the expected grade with the grade, of `tune` (to watch), validation
(to report) and train (no model of phantoms learnt from it), prompts `criteria`, original view, into MODEL.json beside
this file; the phantoms that its pretraining was watched on beside them.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import kneeclip as kc
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json
from kneeclip.loading import model_folder
from kneeclip.resampling import draw_patients, interval

N_BOOT, SEED = 1000, 0
SPLITS = ("tune", "validation", "train")


def told(name: str, knees, splits) -> dict:
    """Both figures with their intervals, split by split, of the model `name`."""
    model, processor = kc.load_clip(name)
    found = {}
    for split in splits:
        rows = knees[split]
        grades, patients = np.array(rows["grade"]), np.array(rows["patient"])
        p, _ = kc.predict(model, processor, rows["image"], "criteria")
        report, expected = kc.evaluate(p, grades, patients, n_boot=N_BOOT, seed=SEED), kc.expected_grade(p)
        owner, draws = draw_patients(patients, len(grades), N_BOOT, SEED, 0.95)
        of_patient = [np.flatnonzero(owner == i) for i in range(owner.max() + 1)]
        boot = []
        for counts in draws.astype(int):  # a patient drawn twice appears twice
            chosen = np.concatenate([np.tile(of_patient[i], counts[i]) for i in np.flatnonzero(counts)])
            boot.append(spearmanr(expected[chosen], grades[chosen]).statistic)
        found[split] = {
            "n": len(grades),
            "auc_kl2": report["auc_kl2"],
            "spearman": float(spearmanr(expected, grades).statistic),
            "ci": {"auc_kl2": report["ci"]["auc_kl2"], "spearman": interval(np.array(boot), 0.95)},
        }
    return found


def watched(name: str) -> dict:
    """What its pretraining saw at its end on the phantoms that it was watched on."""
    record = json.loads((model_folder(name) / "pretraining.json").read_text(encoding="utf-8"))
    return {key: record["history"][-1][key] for key in ("qwk", "accuracy")}


def main(data: str, name: str, splits: list[str]) -> None:
    file = Path(__file__).parent / f"{Path(name).name}.json"
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if lost := [split for split in SPLITS if split in before and split not in splits]:
        what = f"the file holds {' and '.join(lost)} too"
        raise kc.KneeError(what, file, "ask for these splits as well, or delete it")
    figures = told(name, kc.load_knees(data), splits)
    record = {"model": Path(name).name, "n_boot": N_BOOT, "seed": SEED, **figures}
    record |= {"phantoms": watched(name), "environment": environment()}
    write_json(file, record)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    parser.add_argument("model", metavar="MODEL", nargs="?", default="phantom-clip", help="a bundled model or a folder")
    parser.add_argument("--splits", nargs="+", choices=SPLITS, default=[*SPLITS])
    given = parser.parse_args()
    main(given.data, given.model, given.splits)
