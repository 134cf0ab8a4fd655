"""python results/phantom_to_real/run.py DATA [MODEL]: what a model that saw no real knee says of real ones.

AUC for KL ≥ 2 and Spearman's rank correlation of the expected grade with the grade, of `tune` (to watch) and validation
(to report), prompts `criteria`, original view, into MODEL.json beside this file.
"""

import json
import sys
from pathlib import Path

import numpy as np
from scipy.stats import spearmanr

import kneeclip as kc
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json
from kneeclip.resampling import draw_patients, interval

N_BOOT, SEED = 1000, 0


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


def main(data: str, name: str) -> None:
    figures = told(name, kc.load_knees(data), ("tune", "validation"))
    record = {"model": Path(name).name, "n_boot": N_BOOT, "seed": SEED, **figures, "environment": environment()}
    write_json(Path(__file__).parent / f"{Path(name).name}.json", record)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "phantom-clip")
