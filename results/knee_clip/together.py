"""python results/knee_clip/together.py DATA NETWORK...: what knee-clip could learn at most from these teachers.

A NETWORK is what ``photographs.py DATA`` leaves in its work folder. Each network and knee-clip, both views averaged,
with a temperature fitted on `tune`; then the mean of them all. Reports on `tune` and, once, on validation, for which
nothing is chosen by it: a student that reaches its teachers' answers comes to about their figures, so theirs say how
far one may hope to get with them. Also how much lower the cross-entropy on `tune` is from one to the other, two by
two, patients resampled. Writes together.json beside this file.
"""

from __future__ import annotations

import sys
from itertools import combinations
from pathlib import Path

import photographs
import teacher as teaching
import torch
from records import lower_by
from sklearn.metrics import log_loss

import kneeclip as kc
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json


def main(data: str, files: list[Path]) -> None:
    torch.set_flush_denormal(True)  # as in photographs.py
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    knees = kc.load_knees(data)
    films = {name: teaching.turned(knees[name]).to(device) for name in ("tune", "validation")}
    each = photographs.tempered_answers(files, knees, films, device)
    told = {}
    for who, answers in [*each.items(), ("together", photographs.mean_answers(each))]:
        told[who] = {
            name: kc.evaluate(answers[name], knees[name]["grade"], knees[name]["patient"], n_boot=1000, seed=0)
            for name in films
        }
        for name, report in told[who].items():
            report["cross_entropy"] = float(log_loss(knees[name]["grade"], answers[name], labels=range(5)))
        print(who, {name: [report[key] for key in ("accuracy", "qwk", "ece")] for name, report in told[who].items()})
    rows = knees["tune"]
    pairs = [
        {"before": a, "now": b} | lower_by(each[a]["tune"], each[b]["tune"], rows["grade"], rows["patient"])
        for a, b in combinations(each, 2)
    ]
    record = {"graders": told, "cross_entropy_on_tune_lower_by": pairs, "environment": environment(device)}
    write_json(Path(__file__).with_suffix(".json"), record)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], [Path(file) for file in sys.argv[2:]])
