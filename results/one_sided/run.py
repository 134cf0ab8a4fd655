"""python results/one_sided/run.py DATA [OUT]: right knees only, on the real train split; numbers and a figure."""

import json
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets

import kneeclip as kc
from kneeclip.checkpoints import write_atomically

SETTINGS = {"folds": 3, "components": 100, "size": 28, "n_boot": 1000, "seed": 0}


def main(data: str, out: Path) -> None:
    knees = kc.load_knees(data)
    train = concatenate_datasets([knees["train"], knees["tune"]])  # together they are the public train split
    images, grades = np.stack(kc.data.grey_arrays(train)), np.array(train["grade"])
    rows = kc.probe.one_sided(images, grades, train["patient"], train["side"], **SETTINGS)
    report = {
        "world": "real knees (Chen 2018), public train split",
        "n": len(grades),
        "n_patients": len(set(train["patient"])),
        "counts": np.bincount(grades, minlength=5).tolist(),
        "majority": float(np.bincount(grades).max() / len(grades)),
        "settings": SETTINGS,
        "versions": {"python": sys.version.split()[0]} | {p: version(p) for p in ("numpy", "pillow", "scikit-learn")},
        "command": "python results/one_sided/run.py DATA",
        "rows": rows,
    }
    text = json.dumps(report, indent=1, default=float) + "\n"
    write_atomically(out / "real.json", lambda path: path.write_text(text, encoding="utf-8"))
    figure = kc.plots.one_sided(rows, majority=report["majority"], world=f"{report['world']}, n = {len(grades):,}")
    write_atomically(out / "real.png", lambda path: figure.savefig(path, format="png", dpi=160))


if __name__ == "__main__":
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    main(sys.argv[1], Path(sys.argv[2]) if len(sys.argv) == 3 else Path(__file__).parent)
