"""python results/knee_clip/paired.py DATA FORMER: knee-clip minus the model in the folder FORMER, on the same knees.

Both grade `tune` and validation on the original view; patients are resampled, paired. Asked after knee-clip had been
chosen on `tune`, so it chooses nothing. Writes paired.json beside this file. The model of row 13 in LOG.md:
``git archive 2b99534 kneeclip/assets/knee-clip | tar x -C runs/row-13``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from records import lower_by

import kneeclip as kc
from kneeclip.checkpoints import write_json

N_BOOT, SEED = 1000, 0


def main(data: str, former: str) -> None:
    knees, told = kc.load_knees(data), {}
    models = [kc.load_clip(name) for name in (former, "knee-clip")]
    for split in ("tune", "validation"):
        rows = knees[split]
        grades, patients = np.array(rows["grade"]), np.array(rows["patient"])
        before, now = (kc.predict(*model, rows["image"], "criteria")[0] for model in models)
        found = kc.compare(before, now, grades, patients, n_boot=N_BOOT, seed=SEED)
        told[split] = found | {"cross_entropy_lower_by": lower_by(before, now, grades, patients, N_BOOT, SEED)}
    write_json(Path(__file__).parent / "paired.json", told)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
