"""python results/knee_clip/make.py DATA [--work runs/knee-clip] [--out kneeclip/assets/knee-clip]

Makes knee-clip, the small CLIP for real knees that comes with the package: a convolutional teacher on the train images
(`teacher.py`), then a CLIP that starts from phantom-clip and learns to say what the teacher says, on both views of
every image. `tune` is looked at and sets the temperature; validation and test are decoded with the rest and never
graded. The same command goes on after a kill. About 20 and 95 minutes on one core with bfloat16 instructions (the
second part 54 on two), and slower without. `--seeds 0 1 2 3 --out runs/four` asks four teachers, as row 10 in LOG.md.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import teacher as teaching
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

import kneeclip as kc
from kneeclip import model as clip
from kneeclip.cards import NOT_FOR_DIAGNOSIS, environment
from kneeclip.checkpoints import write_atomically, write_json
from kneeclip.evaluation import fit_temperature
from kneeclip.prompts import as_prompts
from kneeclip.tower import run_layer
from kneeclip.training import BETAS, EPS, MAX_LOGIT_SCALE, parameter_groups

#: Everything that decides the student's weights, seed included.
SETTINGS = {
    "start": "phantom-clip",
    "prompts": "criteria",
    "resized": 164,  # pixels of the whole film, by CLIP's own preprocessing
    "size": 128,  # pixels of its centre, which the model sees
    "patch": 16,
    "layers": 4,
    "epochs": 150,
    "batch_size": 32,  # images, two views each
    "lr": 1e-3,
    "weight_decay": 0.1,
    "kl": 1.0,  # weights of the three losses: to the teachers' probabilities,
    "ce": 0.2,  # of cross-entropy to the grade, on both views as in the Symmetry Loss,
    "dense": 1.0,  # and to a teacher's map, patch by patch; falls to 0, as the answers matter in the end
    "ema": 0.999,
    "seed": 0,
}


class Store:
    """What a training has reached, history included, in one file of `folder`; of the same settings and data only."""

    def __init__(self, folder: Path, name: str, settings: dict):
        self.path, self.settings, self.history = folder / f"{name}.pt", settings, []
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, parts: dict, epoch: int) -> None:
        found = {name: part.state_dict() for name, part in parts.items()}
        found |= {"epoch": epoch, "generator": torch.get_rng_state()}
        found |= {"settings": self.settings, "history": self.history}
        write_atomically(self.path, lambda tmp: torch.save(found, tmp))

    def resume(self, parts: dict) -> int:
        if not self.path.exists():
            return 0
        found = torch.load(self.path, weights_only=True)
        if found["settings"] != self.settings:
            raise kc.KneeError(
                "the folder holds a training of other settings or data", self.path, "name another --work"
            )
        for name, part in parts.items():
            part.load_state_dict(found[name])
        torch.set_rng_state(found["generator"])
        self.history[:] = found["history"]
        return found["epoch"]


def new_student(start: str) -> tuple[CLIPModel, CLIPProcessor]:
    """phantom-clip's weights in patches of another size, and a processor that keeps the middle of the film."""
    s = SETTINGS
    old, processor = kc.load_clip(start)
    config = CLIPConfig.from_dict(old.config.to_dict())
    tower = config.vision_config
    tower.image_size, tower.patch_size, tower.num_hidden_layers = s["size"], s["patch"], s["layers"]
    model = CLIPModel(config)
    weights = old.state_dict()
    name = "vision_model.embeddings.patch_embedding.weight"
    ratio = weights[name].shape[-1] / s["patch"]
    weights[name] = F.interpolate(weights[name], size=s["patch"], mode="bicubic", align_corners=False) * ratio**2
    model.load_state_dict(weights)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(20))
    old = processor.image_processor
    images = CLIPImageProcessorPil(
        size={"shortest_edge": s["resized"]},
        crop_size={"height": s["size"], "width": s["size"]},
        image_mean=old.image_mean,
        image_std=old.image_std,
    )
    return model, CLIPProcessor(image_processor=images, tokenizer=processor.tokenizer)


def disguised(films: torch.Tensor) -> torch.Tensor:
    """Films (N, 164, 164) uint8 -> (N, S, S) in 0 to 1, warped and exposed anew."""
    u = torch.rand(len(films), 8) * 2 - 1
    x = teaching.warped(films, SETTINGS["size"], SETTINGS["size"] / SETTINGS["resized"], u)[:, 0]
    x = x.clamp(1e-4, 1) ** torch.exp(0.35 * u[:, 5])[:, None, None]
    mean = x.mean((1, 2), keepdim=True)
    x = (x - mean) * (1 + 0.2 * u[:, 6])[:, None, None] + mean + 0.06 * u[:, 7][:, None, None]
    negative = (torch.rand(len(x)) < 0.03)[:, None, None]
    return torch.where(negative, 1 - x, x).clamp(0, 1)


@torch.no_grad()
def taught(teacher, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What the teacher says of x (N, S, S): flip-averaged probabilities (N, 5), and both views' maps (2N, P, C)."""
    z = teaching.standardised(x[:, None])
    with torch.autocast("cpu", torch.bfloat16):
        logits, middle = teacher(torch.cat([z, z.flip(-1)]).to(memory_format=torch.channels_last))
    maps = middle.float().flatten(2).transpose(1, 2)
    return logits.float().view(2, len(x), 5).mean(0).softmax(-1), F.layer_norm(maps, maps.shape[-1:])


def train_student(states: list[dict], films, grades, store: Store, watch) -> tuple[CLIPModel, CLIPProcessor]:
    """knee-clip, from films (N, 164, 164) uint8, their grades (N,) and the teachers' weights.

    With several teachers every batch asks one, by lot: on average the student is pulled to the mean of what they say,
    at the price of asking one.
    """
    s = SETTINGS
    torch.manual_seed(s["seed"])
    model, processor = new_student(s["start"])
    prompts = as_prompts(s["prompts"])
    tokens = clip.tokenize(model, processor, prompts)
    width = teaching.SETTINGS["width"]
    teachers = [teaching.Teacher(width).eval().to(memory_format=torch.channels_last) for _ in states]
    for teacher, state in zip(teachers, states, strict=True):
        teacher.load_state_dict(state)
    heads = nn.ModuleList([nn.Linear(model.config.vision_config.hidden_size, 4 * width) for _ in teachers])
    learnt = nn.ModuleDict({"clip": model, "heads": heads})
    groups = parameter_groups(learnt, s["weight_decay"])
    optimizer = torch.optim.AdamW(groups, lr=s["lr"], betas=BETAS, eps=EPS, fused=True)
    average = copy.deepcopy(model)
    parts = {"learnt": learnt, "average": average, "optimizer": optimizer}
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    per_epoch = len(films) // s["batch_size"]
    total = per_epoch * s["epochs"]
    for epoch in range(store.resume(parts), s["epochs"]):
        model.train()
        order, sums = torch.randperm(len(films)), torch.zeros(3)
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            batch = order[i * s["batch_size"] : (i + 1) * s["batch_size"]]
            x = disguised(films[batch])
            which = int(torch.randint(len(teachers), ())) if len(teachers) > 1 else 0
            q, maps = taught(teachers[which], x)
            x = torch.cat([x, x.flip(-1)])  # (2N, S, S): both views in one forward
            for group in optimizer.param_groups:
                warm = min(1, (step + 1) / (3 * per_epoch))
                group["lr"] = s["lr"] * warm * (0.5 + 0.5 * math.cos(math.pi * step / total))
            with torch.autocast("cpu", torch.bfloat16):
                X, patches = _features(model, ((x - mean) / std)[:, None].expand(-1, 3, -1, -1))
                T = clip.texts_to_matrix(model, tokens, prompts.counts)
                told = heads[which](patches)
            logits = model.logit_scale.exp() * clip.similarity(F.normalize(X.float(), dim=-1), T.float())
            log_p, q = logits.log_softmax(-1), torch.cat([q, q])
            kl = (q * (q.log() - log_p)).sum(1).mean()
            ce = F.nll_loss(log_p, torch.cat([grades[batch]] * 2))  # half the Symmetry Loss
            dense = F.mse_loss(told.float(), maps)
            optimizer.zero_grad()
            (s["kl"] * kl + s["ce"] * ce + s["dense"] * (1 - step / total) * dense).backward()
            nn.utils.clip_grad_norm_(learnt.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            teaching.follow(average, model, min(s["ema"], (2 + step) / (11 + step)))
            sums += torch.stack([kl, ce, dense]).detach()
        watch(epoch, (sums / per_epoch).tolist(), average, processor)
        store.save(parts, epoch + 1)
    return average.eval(), processor


def _features(model: CLIPModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, D), not normalised, and the patches (N, P, width) that the last layer looks at."""
    tower = model.vision_model
    h = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        h = run_layer(layer, h)
    last = run_layer(tower.encoder.layers[-1], h, answered=1)[:, 0]
    return model.visual_projection(tower.post_layernorm(last)), h[:, 1:]


def main(data: str, work: Path, out: Path) -> None:
    knees = kc.load_knees(data)
    train, tune = knees["train"], knees["tune"]
    grades = torch.tensor(train["grade"])
    data_of = {"images": len(grades), "grades": grades.bincount().tolist()}
    seeds = teaching.SETTINGS["seeds"]
    stores = {f"teacher-{n}": Store(work, f"teacher-{n}", teaching.SETTINGS | {"seeds": [n]} | data_of) for n in seeds}
    start = time.perf_counter()

    def note(who, epoch, losses, p, p_flip):
        report = kc.evaluate(p, tune["grade"], tune["patient"], flipped=p_flip, n_boot=0)
        row = {"epoch": epoch + 1, "losses": losses, "seconds": round(time.perf_counter() - start)}
        row |= {name: report[name] for name in ("accuracy", "qwk")}
        row |= {f"averaged_{name}": report["averaged"][name] for name in ("accuracy", "qwk")}
        stores[who].history.append(row)
        print(who, row, flush=True)

    mirrored, watched = (_mirrored(rows) for rows in (train, tune))

    def trained(seed: int) -> teaching.Teacher:
        name = f"teacher-{seed}"
        return teaching.train_teacher(
            mirrored, grades, seed, stores[name],
            lambda epoch, loss, t: note(name, epoch, loss, *teaching.grade(t, watched).double().numpy()),
        )  # fmt: skip

    states = [trained(seed).state_dict() for seed in seeds]
    stores["student"] = Store(work, "student", {"teacher": teaching.SETTINGS} | SETTINGS | data_of)
    resized = np.stack(
        [np.asarray(image.resize((SETTINGS["resized"],) * 2, Image.Resampling.BICUBIC)) for image in train["image"]]
    )
    model, processor = train_student(
        states, torch.from_numpy(resized), grades, stores["student"],
        lambda epoch, losses, m, pr: note("student", epoch, losses, *kc.predict(m, pr, tune["image"], "criteria")),
    )  # fmt: skip
    ship(model, processor, train, tune, out, {name: store.history for name, store in stores.items()})
    for store in stores.values():  # only now is the result safe without them
        store.path.unlink()


def ship(model, processor, train, tune, out: Path, history: dict) -> None:
    """The calibrated model in half precision, with its prompts, record and card.

    By chance `tune` has more of the easy KL0 than the train split it was taken from, which would make a fitted
    temperature too sure of itself: its images are weighted to the train split's shares.
    """
    p, _ = kc.predict(model, processor, tune["image"], SETTINGS["prompts"])
    grades = np.array(tune["grade"])
    shares, found = (np.bincount(rows["grade"], minlength=5) / len(rows["grade"]) for rows in (train, tune))
    temperature = fit_temperature(p, grades, (shares / found)[grades])
    clip.fold_temperature(model, temperature)
    clip.save_clip(model, processor, out, half=True)
    prompts = as_prompts(SETTINGS["prompts"])
    write_json(out / "prompts.json", asdict(prompts))
    recipe = {"arm": "distilled", "student": SETTINGS, "teacher": teaching.SETTINGS}
    record = {"recipe": recipe, "prompts": prompts.name, "preset": "knees", "data": "real knees (Chen 2018)"}
    record |= {"temperature": temperature, "history": history, "environment": environment()}
    write_json(out / "run.json", record)
    write_atomically(out / "README.md", lambda tmp: tmp.write_text(card(model), encoding="utf-8"))


def card(model: CLIPModel) -> str:
    s, count = SETTINGS, sum(p.numel() for p in model.parameters())
    return (
        "---\nlibrary_name: transformers\npipeline_tag: zero-shot-image-classification\nlicense: cc-by-4.0\n---\n"
        "# knee-clip\n\n"
        f"**{NOT_FOR_DIAGNOSIS}** A small CLIP that grades single-knee radiographs (Kellgren–Lawrence 0–4).\n\n"
        f"- {count:,} weights in float16, read as float32; sees the middle {s['size']} of {s['resized']} px of a film "
        f"in patches of {s['patch']}.\n"
        "- Learnt from the train split of the *Knee Osteoarthritis Severity Grading Dataset* (Chen 2018, Mendeley "
        "Data V1, [10.17632/56rmx5bjcr.1](https://doi.org/10.17632/56rmx5bjcr.1), CC BY 4.0; derived from the "
        "Osteoarthritis Initiative), without its `tune` patients; those set the temperature.\n"
        "- How: it started from `phantom-clip` and learnt what a convolutional teacher, trained on the same images, "
        "says of both views of every image. `python results/knee_clip/make.py DATA` makes it (how this copy came "
        "about: `results/knee_clip/README.md`); settings, history, versions: `run.json`. One seed.\n"
        "- Classes: the five texts of `prompts.json`. Figures on validation: `results/knee_clip/`.\n"
        "- Known limits: one cohort, one way of cropping, one seed; a picture of anything gets a grade.\n"
    )


def _mirrored(rows) -> torch.Tensor:
    """Films (N, 224, 224), left knees mirrored to right ones."""
    films = torch.from_numpy(np.stack(kc.data.grey_arrays(rows)))
    left = torch.tensor([side == "L" for side in rows["side"]])
    return torch.where(left[:, None, None], films.flip(-1), films)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    parser.add_argument("--work", type=Path, default=Path("runs/knee-clip"), help="for what a killed run needs")
    parser.add_argument("--out", type=Path, default=Path("kneeclip/assets/knee-clip"))
    parser.add_argument("--seeds", type=int, nargs="+", default=list(teaching.SETTINGS["seeds"]), help="teachers")
    parser.add_argument("--epochs", type=int, default=SETTINGS["epochs"], help="of the CLIP")
    parser.add_argument("--threads", type=int, default=1, help="1 gives the same bits on every run of one machine")
    given = parser.parse_args()
    teaching.SETTINGS["seeds"], SETTINGS["epochs"] = tuple(given.seeds), given.epochs
    torch.set_num_threads(given.threads)
    main(given.data, given.work, given.out)
