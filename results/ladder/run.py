"""How little tuning is enough? The adaptation ladder on phantoms, and the paper's architecture as a ledger.

python results/ladder/run.py phantoms [OUT]   learning rates on tune, then seeds: phantoms.json and phantoms.png
python results/ladder/run.py figure [OUT]     phantoms.png again, from phantoms.json
python results/ladder/run.py vit [OUT]        two steps of a ViT-B/16 with random weights at every rung: vit_b16.json

Every run is a fresh process, so that its peak of memory is its own. Linux or macOS.
"""

import dataclasses
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

RATES = {
    "probe": (1e-3, 3e-3, 1e-2),
    "lora": (1e-3, 3e-3, 1e-2),
    "last_k": (1e-4, 3e-4, 1e-3),
    "full": (3e-5, 1e-4, 3e-4),
}
SEEDS = (0, 1, 2)
PATIENTS = {"train": (300, 301), "tune": (120, 302), "validation": (300, 303)}  # patients, seed
SHIFT, NOISE, READER = -0.3, 0.07, 1  # the eager reader of notebook 03
BATCH = 8  # images in the step of the ViT


def peak() -> int:
    """Largest resident memory of this process so far, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024


def draw(folder: Path) -> None:
    """The cohort, graded by the eager reader; the joint space of the validation knees in five degrees."""
    from kneeclip import phantom, wording

    reader = phantom.Reader(SHIFT, NOISE, READER)
    for split, (n, seed) in PATIENTS.items():
        knees = phantom.make_phantoms(n, seed, reader=reader)
        degree = np.searchsorted(wording.SPACE_CUTS, phantom.narrowing(knees.anatomy).numpy(), "right")
        rule = phantom.grade(knees.anatomy).numpy()
        named = {"image": knees.images, "grade": knees.grades, "patient": knees.patients, "side": knees.sides}
        np.savez(folder / f"{split}.npz", space=degree, rule=rule, **named)


def load(folder: Path, split: str) -> dict:
    with np.load(folder / f"{split}.npz") as file:
        return {name: file[name] for name in file.files}


def space_prompts():
    from kneeclip.prompts import PromptSet
    from kneeclip.wording import SPACE

    return PromptSet("joint space", tuple((f"a knee radiograph with {row[0]}",) for row in SPACE))


def phantom_run(folder: Path, adapt: str, lr: float, seed: int, judged: bool) -> dict:
    """One run in this process: what it cost, and what it can do afterwards."""
    import psutil
    import torch

    import kneeclip as kc

    torch.set_num_threads(1)
    if adapt == "lora":
        import peft  # noqa: F401 - before the measurement: a library is no part of a step
    preset = kc.get_preset("phantom")
    model, processor = kc.load_clip(preset.model)
    recipe = dataclasses.replace(preset.recipe, arm="clip", epochs=2, adapt=adapt, lr=lr, seed=seed)
    data = {split: load(folder, split) for split in ("train", "tune")}
    before, clock = psutil.Process().memory_info().rss, time.process_time()
    run = kc.train(model, processor, data, preset.prompts, recipe, progress=False)
    row = {"adapt": adapt, "lr": lr, "seed": seed, "trained": run.trained}
    row |= {"cpu_seconds": round(time.process_time() - clock, 1), "peak_above_start": peak() - before}
    row |= {name: run.history[run.best_epoch][name] for name in ("tune_accuracy", "tune_qwk")}
    return row | ({"validation": judge(kc, run.model, processor, folder)} if judged else {})


def judge(kc, model, processor, folder: Path) -> dict:
    """Against the reader, against the rule, and on the joint space in words that no training has used."""
    held = load(folder, "validation")
    p, flipped = kc.predict(model, processor, held["image"], "criteria")
    q, _ = kc.predict(model, processor, held["image"], space_prompts())
    tasks = {"reader": (p, held["grade"], flipped), "rule": (p, held["rule"], None), "space": (q, held["space"], None)}
    reports = {name: kc.evaluate(a, y, held["patient"], flipped=f) for name, (a, y, f) in tasks.items()}
    names = ("accuracy", "qwk", "flip_agreement")
    kept = {
        t: {k: r[k] for k in names if r[k] is not None} | {"ci": {k: r["ci"].get(k) for k in names}}
        for t, r in reports.items()
    }
    return kept | {"n": len(p)}


def fresh(*words) -> dict:
    """This file with other words, in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *map(str, words)], capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def phantoms(out: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, __file__, "draw", folder], check=True)
        rates = []
        for adapt, tried in RATES.items():
            for lr in tried:
                rates.append(fresh("one", folder, adapt, lr, 0, ""))
                print(rates[-1], flush=True)
        best = {a: max((r for r in rates if r["adapt"] == a), key=lambda r: r["tune_accuracy"])["lr"] for a in RATES}
        runs = [fresh("base", folder)]
        for seed in SEEDS:
            for adapt, lr in best.items():
                runs.append(fresh("one", folder, adapt, lr, seed, "judged"))
                print(runs[-1], flush=True)
    report = {"command": "python results/ladder/run.py phantoms", "world": "phantom knees, graded by an eager reader"}
    report |= {"patients": PATIENTS, "chosen": best, "rates": rates, "runs": runs}
    write(out / "phantoms.json", report)
    picture(out)


def picture(out: Path) -> None:
    """phantoms.png from phantoms.json: one dot a run, what it learnt and what it kept."""
    import kneeclip as kc
    from kneeclip.checkpoints import write_atomically

    runs = json.loads((out / "phantoms.json").read_text(encoding="utf-8"))["runs"]
    tasks = {"learnt": "reader", "kept": "space"}
    dots = [{axis: run["validation"][task]["accuracy"] for axis, task in tasks.items()} for run in runs]
    n = runs[0]["validation"]["n"]
    figure = kc.plots.learnt_and_kept(
        [{"adapt": run["adapt"], "seed": run.get("seed", ""), **dot} for run, dot in zip(runs, dots, strict=True)],
        labels=(f"grades as the reader does (n = {n})", f"reads the joint space (n = {n})"),
        world="phantom knees graded by an eager reader",
    )
    write_atomically(out / "phantoms.png", lambda path: figure.savefig(path, format="png", dpi=160))


def base(folder: Path) -> dict:
    import kneeclip as kc

    model, processor = kc.load_clip("phantom-clip")
    return {"adapt": "zero-shot", "trained": 0, "validation": judge(kc, model, processor, folder)}


def vit_run(adapt: str) -> dict:
    """Two steps of BATCH images at 224 px, one view, float32, one thread: memory measured and counted."""
    import psutil
    import torch
    import torch.nn.functional as F
    from transformers import CLIPConfig, CLIPModel

    from kneeclip.adapting import adapted, ledger
    from kneeclip.presets import Recipe
    from kneeclip.updating import Grader, parameter_groups

    torch.set_num_threads(1)
    torch.manual_seed(0)
    if adapt == "lora":
        import peft  # noqa: F401
    model = CLIPModel(CLIPConfig(vision_config={"patch_size": 16})).train()
    recipe = Recipe(adapt=adapt)
    pixels, ids = torch.randn(BATCH, 3, 224, 224), torch.randint(1, 49000, (5, 20))
    ids[:, -1] = model.config.text_config.eos_token_id
    grades = torch.arange(BATCH) % 5

    def loss(model):
        return F.cross_entropy(Grader(model, [1] * 5)(pixels, ids), grades)

    before, clock = psutil.Process().memory_info().rss, time.process_time()
    with adapted(model, recipe):
        optimizer = torch.optim.AdamW(parameter_groups(model, 0.1), lr=1e-5)
        for _ in range(2):  # from the second step on the moments are there while the backward pass runs
            loss(model).backward()
            optimizer.step()
            optimizer.zero_grad()
    step = (time.process_time() - clock) / 2
    row = {"adapt": adapt, "cpu_seconds": round(step, 1), "peak_above_start": peak() - before}
    return row | ledger(model, recipe, loss)


def vit(out: Path) -> None:
    rows = []
    for adapt in RATES:
        rows.append(fresh("vit-one", adapt))
        print(rows[-1], flush=True)
    report = {"command": "python results/ladder/run.py vit", "world": "CLIP with ViT-B/16, random weights"}
    write(out / "vit_b16.json", report | {"images": BATCH, "size": 224, "precision": "float32", "rows": rows})


def write(path: Path, report: dict) -> None:
    from kneeclip.cards import environment
    from kneeclip.checkpoints import write_json

    write_json(path, report | {"environment": environment()})


def main(words: list[str]) -> None:
    out = Path(words[1]) if len(words) == 2 else Path(__file__).parent
    match words:
        case ["phantoms", *_]:
            phantoms(out)
        case ["figure", *_]:
            picture(out)
        case ["vit", *_]:
            vit(out)
        case ["draw", folder]:
            draw(Path(folder))
        case ["one", folder, adapt, lr, seed, judged]:
            print(json.dumps(phantom_run(Path(folder), adapt, float(lr), int(seed), bool(judged))))
        case ["base", folder]:
            print(json.dumps(base(Path(folder))))
        case ["vit-one", adapt]:
            print(json.dumps(vit_run(adapt)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
