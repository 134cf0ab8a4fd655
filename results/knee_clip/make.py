"""python results/knee_clip/make.py DATA [--work runs/knee-clip] [--out kneeclip/assets/knee-clip]

Makes knee-clip, the small CLIP for real knees that comes with the package, in three steps: a CLIP of its size and
224 px on phantoms; convolutional teachers on the real train images (`teacher.py`); then that CLIP learns to say what
the teachers say, on both views of every image. `tune` is looked at, says which teachers teach and sets the
temperature; validation and test are decoded with the rest and never graded. The same command goes on after a kill.
On an H200 it took 12 minutes, its parts side by side (``--only start``, ``--only teacher-0`` … make one, so that
several processes can share a work folder); two cores would need days (estimated).
"""

from __future__ import annotations

import argparse
import copy
import json
import math
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import teacher as teaching
import torch
import torch.nn.functional as F
from records import Store, data_of
from torch import nn
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPProcessor

import kneeclip as kc
from kneeclip import model as clip
from kneeclip.cards import NOT_FOR_DIAGNOSIS, environment
from kneeclip.checkpoints import write_atomically, write_json
from kneeclip.evaluation import fit_temperature
from kneeclip.newborn import Pretraining
from kneeclip.pretrain import pretrain
from kneeclip.prompts import as_prompts
from kneeclip.tower import run_layer
from kneeclip.updating import BETAS, EPS, MAX_LOGIT_SCALE, parameter_groups

#: The CLIP that the student starts from, on phantoms alone: phantom-clip's recipe, larger and at 224 px.
START = Pretraining(image_size=224, patch_size=16, width=256, layers=6, lr=7e-4)
#: Halves or whole, mixed images or not.
TEACHERS = tuple(teaching.Settings(seed=i, halves=i > 1, mixup=0.2 * (i % 2)) for i in range(4))
NEAR = 0.02  # a teacher teaches if its loss on `tune`, tempered, is this near to the best one's


@dataclass(frozen=True)
class Settings:
    """Everything that decides the student's weights, seed included."""

    prompts: str = "criteria"
    size: int = 176  # pixels of a film's middle, at its own 224: what the model sees
    epochs: int = 120
    batch_size: int = 64  # images
    views: int = 2  # of each image in a step: both, or the one that chance draws
    lr: float = 1e-3
    weight_decay: float = 0.1
    kl: float = 1.0  # weights of the three losses: to a teacher's probabilities,
    ce: float = 0.2  # of cross-entropy to the grade, on both views as in the Symmetry Loss,
    dense: float = 1.0  # and to a teacher's map, patch by patch; falls to 0, as the answers matter in the end
    ema: float = 0.999
    seed: int = 0
    own: float = 0.0  # share of answers noted before, its own among them, in what it is to say
    warmup: float = 3  # epochs
    every: int = 5  # epochs between two looks at `tune`, and two saves


def new_student(start: Path, s: Settings) -> tuple[CLIPModel, CLIPProcessor]:
    """The phantoms' CLIP, looking at the middle of the film alone, and a processor that keeps it."""
    old, processor = kc.load_clip(start)
    config = CLIPConfig.from_dict(old.config.to_dict())
    film, patch = config.vision_config.image_size, config.vision_config.patch_size
    config.vision_config.image_size = s.size
    model = CLIPModel(config)
    weights = {name: value for name, value in old.state_dict().items() if "position_ids" not in name}
    name = "vision_model.embeddings.position_embedding.weight"
    places = weights[name][1:].T.unflatten(1, (film // patch, film // patch))[None]  # (1, width, P, P)
    theta = torch.eye(2, 3)[None] * s.size / film  # where the middle's patches lie on the whole film
    grid = F.affine_grid(theta, (1, 1, s.size // patch, s.size // patch), align_corners=False)
    middle = F.grid_sample(places, grid, align_corners=False)[0].flatten(1).T
    weights[name] = torch.cat([weights[name][:1], middle])
    model.load_state_dict(weights, strict=False)
    with torch.no_grad():
        model.logit_scale.fill_(math.log(20))
    old = processor.image_processor
    images = CLIPImageProcessorPil(
        size={"shortest_edge": film},
        crop_size={"height": s.size, "width": s.size},
        image_mean=old.image_mean,
        image_std=old.image_std,
    )
    return model, CLIPProcessor(image_processor=images, tokenizer=processor.tokenizer)


def disguised(films: torch.Tensor, size: int, share: float, u: torch.Tensor) -> torch.Tensor:
    """Films (N, H, W) uint8 -> (N, S, S) in 0 to 1: their central `share`, warped and exposed as `u` says."""
    x = teaching.warped(films, size, share, u)[:, 0]
    x = teaching.exposed(x, u)
    mean = x.mean((1, 2), keepdim=True)
    x = (x - mean) * (1 + 0.2 * u[:, 6])[:, None, None] + mean + 0.06 * u[:, 7][:, None, None]
    return x.clamp(0, 1)


@torch.no_grad()
def taught(teacher, x: torch.Tensor, views: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """What the teacher says of x (N, S, S): flip-averaged probabilities (N, 5), and both views' maps (2N, P, C).

    With one view it is asked of x alone, and the maps are (N, P, C).
    """
    z = teaching.standardised(x[:, None])
    with teaching.mixed(x.device):
        logits, middle = teacher(torch.cat([z, z.flip(-1)][:views]).to(memory_format=torch.channels_last))
    maps = middle.float().flatten(2).transpose(1, 2)
    return logits.float().view(views, len(x), 5).mean(0).softmax(-1), F.layer_norm(maps, maps.shape[-1:])


def train_student(model, processor, teachers, films, grades, s: Settings, store: Store, watch, own=None) -> CLIPModel:
    """The running average of `model`, from films (N, H, W) uint8, their grades (N,) and the teachers.

    Every batch asks one teacher, by lot: on average the student is pulled to the mean of what they say, at the price
    of asking one. `own` (N, 5) are answers that were noted before, for a share of what it is to say; where they are
    all of it, nobody is asked.
    """
    torch.manual_seed(s.seed)
    device = films.device
    model.to(device)
    prompts = as_prompts(s.prompts)
    tokens = clip.tokenize(model, processor, prompts)
    width = model.config.vision_config.hidden_size
    heads = nn.ModuleList([nn.Linear(width, t.channels) for t in teachers if s.dense]).to(device)
    learnt = nn.ModuleDict({"clip": model, "heads": heads})
    groups = parameter_groups(learnt, s.weight_decay)
    optimizer = torch.optim.AdamW(groups, lr=s.lr, betas=BETAS, eps=EPS, fused=True)
    average = copy.deepcopy(model)
    follow = teaching.follower(average, model)
    parts = {"learnt": learnt, "average": average, "optimizer": optimizer}
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    share, per_epoch = s.size / films.shape[-1], len(films) // s.batch_size
    total = per_epoch * s.epochs
    for epoch in range(store.resume(parts), s.epochs):
        model.train()
        order, sums = torch.randperm(len(films)).to(device), torch.zeros(3, device=device)
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            batch = order[i * s.batch_size : (i + 1) * s.batch_size]
            u = teaching.chance(len(batch), device)
            x, q = disguised(films[batch], s.size, share, u), 0.0
            if teachers and (s.own < 1 or s.dense):
                which = int(torch.randint(len(teachers), ())) if len(teachers) > 1 else 0
                # the same warp and exposure for both, each at the size that it is used to
                same = teachers[which].shown == s.size
                shown = x if same else disguised(films[batch], teachers[which].shown, share, u)
                q, maps = taught(teachers[which], shown, s.views)
            if own is not None:
                q = s.own * own[batch] + (1 - s.own) * q
            x = torch.cat([x, x.flip(-1)][: s.views])  # (views · N, S, S) in one forward
            for group in optimizer.param_groups:
                warm = min(1, (step + 1) / (s.warmup * per_epoch))
                group["lr"] = s.lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / total))
            with teaching.mixed(device):
                X, patches = _features(model, ((x - mean) / std)[:, None].expand(-1, 3, -1, -1))
                T = clip.texts_to_matrix(model, tokens, prompts.counts)
                told = heads[which](patches) if s.dense else None
            logits = model.logit_scale.exp() * clip.similarity(F.normalize(X.float(), dim=-1), T.float())
            log_p, q = logits.log_softmax(-1), q.repeat(s.views, 1)
            kl = (q * (q.log() - log_p)).sum(1).mean()
            ce = F.nll_loss(log_p, grades[batch].repeat(s.views))  # of both views half the Symmetry Loss
            dense = F.mse_loss(told.float(), maps) if s.dense else torch.zeros_like(kl)
            optimizer.zero_grad()
            (s.kl * kl + s.ce * ce + s.dense * (1 - step / total) * dense).backward()
            nn.utils.clip_grad_norm_(learnt.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            follow(min(s.ema, (2 + step) / (11 + step)))
            sums += torch.stack([kl, ce, dense]).detach()
        last = epoch + 1 == s.epochs
        if last or (epoch + 1) % s.every == 0:
            watch(epoch, (sums / per_epoch).tolist(), average)
        store.save(parts, epoch + 1, last)
    return average.eval()


def _features(model: CLIPModel, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings (N, D), not normalised, and the patches (N, P, width) that the last layer looks at."""
    tower = model.vision_model
    h = tower.pre_layrnorm(tower.embeddings(pixels))
    for layer in tower.encoder.layers[:-1]:
        h = run_layer(layer, h)
    last = run_layer(tower.encoder.layers[-1], h, answered=1)[:, 0]
    return model.visual_projection(tower.post_layernorm(last)), h[:, 1:]


def main(data: str, work: Path, out: Path, only: str | None, s: Settings, teachers, start_settings, device) -> None:
    torch.backends.cudnn.benchmark = True  # the sizes are always the same
    start = work / "start"
    record, asked_of_start = start / "pretraining.json", json.loads(json.dumps(asdict(start_settings)))
    if only in (None, "start"):
        if not record.exists():
            pretrain(start, start_settings)
        phantoms = json.loads(record.read_text(encoding="utf-8"))
        if phantoms["settings"] != asked_of_start:
            raise kc.KneeError("the folder holds a start of other settings", record, "name another --work")
    if only == "start":
        return
    knees = kc.load_knees(data)
    train, tune = knees["train"], knees["tune"]
    films, watched = teaching.turned(train).to(device), teaching.turned(tune).to(device)
    grades = torch.tensor(train["grade"], device=device)
    cohort = data_of(grades)
    every = 5 if device.type == "cuda" else 1  # on a CPU an epoch is minutes
    stores = {f"teacher-{t.seed}": Store(work, f"teacher-{t.seed}", asdict(t) | cohort, every) for t in teachers}

    def trained(t: teaching.Settings) -> teaching.Teacher:
        store = stores[f"teacher-{t.seed}"]

        def watch(epoch, losses, teacher):
            store.note(epoch, losses, *teaching.grade(teacher, watched, t).double().cpu().numpy(), tune)

        return teaching.train_teacher(films, grades, t, store, watch)

    if only:
        trained(next(t for t in teachers if f"teacher-{t.seed}" == only))
        return
    teach = [trained(t) for t in teachers]
    loss = [stores[f"teacher-{t.seed}"].history[-1]["tempered_loss"] for t in teachers]
    asked = [i for i, value in enumerate(loss) if value <= min(loss) + NEAR]
    print("teachers", asked, flush=True)
    told = {"start": asked_of_start, "teachers": [asdict(t) for t in teachers], "asked": asked, "student": asdict(s)}
    stores["student"] = Store(work, "student", told | cohort, s.every)
    model, processor = new_student(start, s)
    pixels = clip.preprocess(processor, tune["image"])

    def watch(epoch, losses, average):
        stores["student"].note(epoch, losses, *kc.predict(average, processor, pixels, s.prompts), tune)

    near = [teach[i] for i in asked]
    model = train_student(model, processor, near, films, grades, s, stores["student"], watch).cpu()
    history = {"start": phantoms["history"]} | {name: store.history for name, store in stores.items()}
    ship(model, processor, train, tune, out, {"recipe": told | {"arm": "distilled"}, "history": history}, s)


def ship(model, processor, train, tune, out: Path, record: dict, s: Settings) -> None:
    """The calibrated model in half precision, with its prompts, record and card.

    By chance `tune` has more of the easy KL0 than the train split it was taken from, which would make a fitted
    temperature too sure of itself: its images are weighted to the train split's shares.
    """
    p, _ = kc.predict(model, processor, tune["image"], s.prompts)
    grades = np.array(tune["grade"])
    shares, found = (np.bincount(rows["grade"], minlength=5) / len(rows["grade"]) for rows in (train, tune))
    temperature = fit_temperature(p, grades, (shares / found)[grades])
    clip.fold_temperature(model, temperature)
    clip.save_clip(model, processor, out, half=True)
    prompts = as_prompts(s.prompts)
    write_json(out / "prompts.json", asdict(prompts))
    record |= {"prompts": prompts.name, "preset": "knees", "data": "real knees (Chen 2018)"}
    write_json(out / "run.json", record | {"temperature": temperature, "environment": environment()})
    write_atomically(out / "README.md", lambda tmp: tmp.write_text(card(model, s), encoding="utf-8"))


def card(model: CLIPModel, s: Settings) -> str:
    count, patch = sum(p.numel() for p in model.parameters()), model.config.vision_config.patch_size
    return (
        "---\nlibrary_name: transformers\npipeline_tag: zero-shot-image-classification\nlicense: cc-by-4.0\n---\n"
        "# knee-clip\n\n"
        f"**{NOT_FOR_DIAGNOSIS}** A small CLIP that grades single-knee radiographs (Kellgren–Lawrence 0–4).\n\n"
        f"- {count:,} weights in float16, read as float32; sees the middle {s.size} of 224 px of a film "
        f"in patches of {patch}.\n"
        "- Learnt from the train split of the *Knee Osteoarthritis Severity Grading Dataset* (Chen 2018, Mendeley "
        "Data V1, [10.17632/56rmx5bjcr.1](https://doi.org/10.17632/56rmx5bjcr.1), CC BY 4.0; derived from the "
        "Osteoarthritis Initiative), without its `tune` patients; those chose the recipe and set the temperature.\n"
        "- How: a CLIP that was trained on captioned phantoms learnt what convolutional teachers, trained on the same "
        "images, say of both views of every image. `python results/knee_clip/make.py DATA` makes it (how this copy "
        "came about: `results/knee_clip/README.md`); settings, history, versions: `run.json`. One seed.\n"
        '- Classes: the five texts of `prompts.json`. A `transformers.pipeline` needs `hypothesis_template="{}"`: its '
        "own template puts words around them. Figures on validation: `results/knee_clip/`.\n"
        "- Known limits: one cohort, one way of cropping, one seed; a picture of anything gets a grade.\n"
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    parser.add_argument("--work", type=Path, default=Path("runs/knee-clip"), help="for what a killed run needs")
    parser.add_argument("--out", type=Path, default=Path("kneeclip/assets/knee-clip"))
    parser.add_argument("--only", choices=["start", *(f"teacher-{t.seed}" for t in TEACHERS)], help="make it and stop")
    parser.add_argument("--epochs", type=int, default=Settings.epochs, help="of the student")
    parser.add_argument("--teacher-epochs", type=int, default=teaching.Settings.epochs)
    parser.add_argument("--patients", type=int, default=START.patients, help="phantom patients of the start")
    given = parser.parse_args()
    main(
        given.data,
        given.work,
        given.out,
        given.only,
        Settings(epochs=given.epochs),
        [replace(t, epochs=given.teacher_epochs) for t in TEACHERS],
        replace(START, patients=given.patients),
        torch.device("cuda" if torch.cuda.is_available() else "cpu"),
    )
