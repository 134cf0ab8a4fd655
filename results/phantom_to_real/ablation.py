"""python results/phantom_to_real/ablation.py DATA [SEED ...]: what each half of the domain randomisation brings.

Four small CLIPs a seed, each pretrained on 10,000 phantoms for eight epochs, a quarter of `phantom-clip`'s budget:
bones and films as in a population or 2.5 times as varied, shown as drawn or on another film every time. Graded on the
real knees of `tune`, and zero-shot on the phantoms watched in pretraining, into ablation.json beside this file. Runs
that are there are kept. About eleven minutes a model on one core.
"""

import json
import sys
from pathlib import Path

from run import told

import kneeclip as kc
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json
from kneeclip.data import PRETRAIN_SEED
from kneeclip.newborn import Pretraining
from kneeclip.pretrain import pretrain

FILE = Path(__file__).with_suffix(".json")
ARMS = {"as drawn": (1.0, False), "other films": (1.0, True), "variety": (2.5, False), "both": (2.5, True)}


def main(data: str, seeds: list[int]) -> None:
    knees = kc.load_knees(data)
    runs = json.loads(FILE.read_text(encoding="utf-8"))["runs"] if FILE.exists() else []
    for seed in seeds:
        for arm, (variety, reexpose) in ARMS.items():
            if any((run["arm"], run["seed"]) == (arm, seed) for run in runs):
                continue
            settings = Pretraining(patients=5000, epochs=8, variety=variety, reexpose=reexpose, seed=seed)
            folder = Path("runs/ablation") / f"{arm.replace(' ', '-')}-{seed}"
            if not (folder / "pretraining.json").exists():
                pretrain(folder, settings)
            last = json.loads((folder / "pretraining.json").read_text(encoding="utf-8"))["history"][-1]
            watched = {"qwk": last["qwk"], "accuracy": last["accuracy"]}
            runs.append({"arm": arm, "seed": seed, "phantoms": watched, **told(str(folder), knees, ("tune",))})
            write_json(FILE, {"arms": ARMS, "runs": runs, "environment": environment()})
            print(json.dumps(runs[-1]), flush=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    main(sys.argv[1], [int(seed) for seed in sys.argv[2:]] or [PRETRAIN_SEED])
