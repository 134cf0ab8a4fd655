"""python results/real_study/by_split.py DATA: are the patients of `tune` easier than those of validation?

The study's folds cut through the public splits, and each image was graded by a run that had not trained on its
patient. So the same gradings say how hard the splits are, for models that chose nothing by them. Writes by_split.json
beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import kneeclip as kc
from kneeclip.checkpoints import write_json
from kneeclip.ledger import read_results

HERE = Path(__file__).parent
SPLITS = ("train", "tune", "validation")


def main(data: str) -> None:
    knees = kc.load_knees(data)
    split_of = {patient: split for split in SPLITS for patient in knees[split]["patient"]}
    _, images, records = read_results(HERE)
    fold, grade, patient = (np.array(images[name]) for name in ("fold", "grade", "patient"))
    split = np.array([split_of[one] for one in patient])
    told = {"n": {name: int((split == name).sum()) for name in SPLITS}, "arms": {}}
    shares = np.bincount(grade[split == "validation"], minlength=5) / (split == "validation").sum()
    for arm in sorted({run.variant.arm for run in records}):
        p = np.full((len(grade), 5), np.nan)
        for run, record in records.items():
            if run.variant.arm == arm:
                p[fold == run.fold] = record["p"]
        row = {}
        for name in SPLITS:
            rows = (split == name) & ~np.isnan(p[:, 0])
            found = kc.evaluate(p[rows], grade[rows], patient[rows])
            recall = [one["recall"] for one in found["per_grade"]]
            row[name] = {m: {"value": found[m], "ci": found["ci"][m]} for m in ("accuracy", "qwk")}
            row[name]["accuracy_at_the_grades_of_validation"] = float(np.dot(shares, recall))
        told["arms"][arm] = row
    write_json(HERE / "by_split.json", told)
    print(json.dumps(told, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    main(parser.parse_args().data)
