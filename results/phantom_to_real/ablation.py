"""python results/phantom_to_real/ablation.py DATA [--arms ARM ...] [--seeds SEED ...]: what each part brings.

Small CLIPs, each pretrained on 10,000 phantoms for eight epochs, a quarter of `phantom-clip`'s budget: bones and films
as in a population or 2.5 times as varied, shown as drawn or on another film every time; and with the latter two what a
network of photographs sees in them, patch by patch (`maps.py`). Graded on the real knees of `tune`, of train, which
they have not seen either, and zero-shot on the phantoms watched in pretraining, into ablation.json beside this file,
with what maps bring over the seeds that have both. Runs that are there are kept; several processes may make them.
Ten to twenty minutes a model on one core.
"""

import argparse
import json
from pathlib import Path

import maps
import numpy as np
import torch
from run import told, watched

import kneeclip as kc
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json
from kneeclip.data import PRETRAIN_SEED
from kneeclip.newborn import Pretraining
from kneeclip.pretrain import pretrain
from kneeclip.verdicts import t_interval

FILE = Path(__file__).with_suffix(".json")
ARMS = {
    "as drawn": (1.0, False),
    "other films": (1.0, True),
    "variety": (2.5, False),
    "both": (2.5, True),
    "maps": (2.5, True),
}


def finished() -> list[dict]:
    return json.loads(FILE.read_text(encoding="utf-8"))["runs"] if FILE.exists() else []


def gain(runs: list[dict], new: str = "maps", old: str = "both") -> dict:
    """By how much `new` exceeds `old`, seed by seed, with the mean and its 95 % t interval over the seeds."""
    made = {(run["arm"], run["seed"]): run for run in runs if "train" in run}
    seeds = sorted(seed for arm, seed in made if arm == new and (old, seed) in made)
    found = {"arms": [new, old], "seeds": seeds, "train": {}, "tune": {}, "phantoms": {}}
    asked = [(part, figure) for part in ("train", "tune") for figure in ("auc_kl2", "spearman")]
    for part, figure in [*asked, ("phantoms", "qwk")] if seeds else []:
        by_seed = np.array([made[new, seed][part][figure] - made[old, seed][part][figure] for seed in seeds])
        found[part][figure] = {"by_seed": by_seed.tolist(), "mean": by_seed.mean(), "ci": t_interval(by_seed[None])}
    return found


def main(data: str, arms: list[str], seeds: list[int]) -> None:
    torch.set_flush_denormal(True)  # as `maps.main` does: all arms are to compute alike
    knees = kc.load_knees(data)
    for seed in seeds:
        for arm in arms:
            if any((run["arm"], run["seed"]) == (arm, seed) for run in finished()):
                continue
            variety, reexpose = ARMS[arm]
            settings = Pretraining(patients=5000, epochs=8, variety=variety, reexpose=reexpose, seed=seed)
            folder, file = Path("runs/ablation") / f"{arm.replace(' ', '-')}-{seed}", None
            if not (folder / "pretraining.json").exists():
                if arm == "maps":
                    file = folder.with_suffix(".safetensors")
                    if not file.exists():
                        maps.main(file, settings)
                pretrain(folder, settings, maps=file)
            figures = told(str(folder), knees, ("tune", "train"))
            # read again: several processes may make the runs
            found = {"phantoms": watched(str(folder)), **figures, "environment": environment()}
            runs = [*finished(), {"arm": arm, "seed": seed, **found}]
            write_json(FILE, {"arms": ARMS, "runs": runs, "gain": gain(runs)})
            print(json.dumps(runs[-1]), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=[*ARMS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[PRETRAIN_SEED])
    given = parser.parse_args()
    main(given.data, given.arms, given.seeds)
