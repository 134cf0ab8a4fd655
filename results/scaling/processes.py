"""python results/scaling/processes.py [OUT]: one process against two and three, and a run handed from one to the other.

Writes processes.json: the largest difference of a step's loss, and of each weight tensor relative to its norm, from
the run of one process. CPU, float32, phantom-clip on phantoms, 20 steps whose batches never divide evenly.
"""

import json
import sys
import tempfile
from pathlib import Path

from safetensors.torch import load_file

import kneeclip as kc
from kneeclip.cards import environment
from kneeclip.checkpoints import write_json
from kneeclip.phantom import make_phantoms
from kneeclip.processes import launch

MODEL, STOP = "phantom-clip", 11
# 53 images in steps of 15: 15, 15, 15 and 8; over two processes 8 + 7, over three 5 + 5 + 5, at last 3 + 3 + 2
# select="none": the weights compared are those after the last step
RECIPE = kc.Recipe(epochs=5, batch_size=15, lr=1e-4, augment=0.5, save_every=5, select="none")
SIZES = {"train": (53, 1), "tune": (13, 2)}


class Stopped(Exception):
    pass


def job(knees: dict, out: Path, stop_at: int | None = None) -> None:
    def watch(_, steps):
        if len(steps) == stop_at:
            raise Stopped

    kc.train(*kc.load_clip(MODEL), knees, "criteria", RECIPE, out=out, progress=False, watch=watch)


def compare(one: Path, other: Path) -> dict:
    a, b = (json.loads((folder / "history.json").read_text(encoding="utf-8"))["steps"] for folder in (one, other))
    weights, others = (load_file(folder / "model.safetensors") for folder in (one, other))
    relative = {k: float((v.double() - others[k].double()).norm() / v.double().norm()) for k, v in weights.items()}
    keys = {k: v for k, v in relative.items() if k.endswith("k_proj.bias")}
    rest = {k: v for k, v in relative.items() if k not in keys}
    worst = max(rest, key=rest.get)
    return {
        "steps": len(a),
        "loss_max_difference": max(abs(x["total"] - y["total"]) for x, y in zip(a, b, strict=True)),
        "loss_largest": max(row["total"] for row in a),
        "weights_max_relative_difference": rest[worst],
        "weights_worst_tensor": worst,
        "k_proj_bias_max_relative_difference": max(keys.values()),
    }


def main(out: Path) -> None:
    knees = {}
    for split, (n, seed) in SIZES.items():
        drawn = make_phantoms((n + 1) // 2, seed, size=112)
        knees[split] = {"image": drawn.images[:n], "grade": drawn.grades[:n], "patient": list(drawn.patients[:n])}
    with tempfile.TemporaryDirectory() as tmp:
        one = Path(tmp) / "one"
        job(knees, one)
        rows = {}
        for n in (2, 3):
            launch(job, knees, Path(tmp) / str(n), processes=n)
            rows[f"{n} processes"] = compare(one, Path(tmp) / str(n))
        try:
            launch(job, knees, Path(tmp) / "2to1", STOP)
        except kc.KneeError:  # Stopped, as the launch tells it
            job(knees, Path(tmp) / "2to1")
        rows[f"2 processes, stopped in step {STOP}, resumed by 1"] = compare(one, Path(tmp) / "2to1")
        try:
            job(knees, Path(tmp) / "1to2", STOP)
        except Stopped:
            launch(job, knees, Path(tmp) / "1to2")
        rows[f"1 process, stopped in step {STOP}, resumed by 2"] = compare(one, Path(tmp) / "1to2")
    report = {
        "world": "phantom knees",
        "model": MODEL,
        "recipe": vars(RECIPE),
        "images": {split: n for split, (n, _) in SIZES.items()},
        "compared_with": "1 process, the same global batch",
        "runs": rows,
        "environment": environment(),
        "command": "OMP_NUM_THREADS=1 python results/scaling/processes.py",
    }
    write_json(out / "processes.json", report)
    for name, row in rows.items():
        loss, weights = row["loss_max_difference"], row["weights_max_relative_difference"]
        print(f"{name:48s} losses {loss:.1e}  weights {weights:.1e}")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]) if len(sys.argv) == 2 else Path(__file__).parent)
