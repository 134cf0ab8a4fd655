"""python results/knee_clip/further.py DATA [--start knee-clip] [--epochs 10] [--out FOLDER]

Teaches a finished knee-clip further: by a network that has seen ImageNet (`photographs.py`, 224 px), on both views of
every train image, with what it says itself of the image as it is, so that nothing is forgotten. `tune` is looked at
after every epoch and sets the temperature; the last epoch ships. The same command goes on after a kill.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import photographs
import teacher as teaching
import torch
import torch.nn.functional as F
from make import Store, disguised, mirrored, ship, tempered
from torch import nn

import kneeclip as kc
from kneeclip import model as clip
from kneeclip.checkpoints import write_atomically
from kneeclip.evaluation import flip_average
from kneeclip.prompts import as_prompts
from kneeclip.training import BETAS, EPS, MAX_LOGIT_SCALE, Grader, parameter_groups


@dataclass(frozen=True)
class Settings:
    """Everything that decides the weights, seed included."""

    start: str = "knee-clip"
    prompts: str = "criteria"
    epochs: int = 10
    batch_size: int = 32  # images, two views each
    lr: float = 4e-4
    warmup: float = 0.5  # epochs
    weight_decay: float = 0.1
    own: float = 0.5  # share of its own former answer, to the image as it is, in what it is to say
    ce: float = 0.2  # weight of cross-entropy to the grade, beside the KL divergence to what it is to say
    ema: float = 0.995
    seed: int = 0


def learn_on(model, processor, network, films, grades, own, s: Settings, store: Store, watch) -> nn.Module:
    """The running average of `model`, taught by `network` and by its own former answers `own` (N, 5)."""
    torch.manual_seed(s.seed)
    prompts = as_prompts(s.prompts)
    tokens = clip.tokenize(model, processor, prompts)
    grader = Grader(model, prompts.counts)
    optimizer = torch.optim.AdamW(parameter_groups(model, s.weight_decay), lr=s.lr, betas=BETAS, eps=EPS, fused=True)
    average = copy.deepcopy(model)
    follow = teaching.follower(average, model)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    mean, std = processor.image_processor.image_mean[0], processor.image_processor.image_std[0]
    size = model.config.vision_config.image_size
    per_epoch = len(films) // s.batch_size
    total = per_epoch * s.epochs
    for epoch in range(store.resume(parts), s.epochs):
        model.train()
        order, sums = torch.randperm(len(films)), torch.zeros(2)
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            batch = order[i * s.batch_size : (i + 1) * s.batch_size]
            u = teaching.chance(len(batch), films.device)
            # the same warp and exposure for both, each at the size that it is used to
            x, shown = (disguised(films[batch], n, size / films.shape[-1], u) for n in (size, network.shown))
            with torch.no_grad():
                z = teaching.standardised(shown[:, None])
                q = network(torch.cat([z, z.flip(-1)]))[0].view(2, len(batch), 5).mean(0).softmax(-1)
            q = torch.cat([s.own * own[batch] + (1 - s.own) * q] * 2)
            for group in optimizer.param_groups:
                warm = min(1, (step + 1) / (s.warmup * per_epoch))
                group["lr"] = s.lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / total))
            pixels = ((torch.cat([x, x.flip(-1)]) - mean) / std)[:, None].expand(-1, 3, -1, -1)
            log_p = grader(pixels, tokens).log_softmax(-1)
            kl = (q * (q.log() - log_p)).sum(1).mean()
            ce = F.nll_loss(log_p, torch.cat([grades[batch]] * 2))  # half the Symmetry Loss
            optimizer.zero_grad()
            (kl + s.ce * ce).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            follow(min(s.ema, (2 + step) / (11 + step)))
            sums += torch.stack([kl, ce]).detach()
        watch(epoch, (sums / per_epoch).tolist(), average)
        store.save(parts, epoch + 1, epoch + 1 == s.epochs)
    return average.eval()


def teacher_of(file: Path) -> nn.Module:
    """The network that `photographs.py` has left in its work folder."""
    try:
        found = torch.load(file, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise kc.KneeError("there is no teacher", file, "run photographs.py DATA --shown 224 first") from None
    network = photographs.Photographer(photographs.Settings(**found["settings"]), weights=False)
    network.load_state_dict(found["average"])
    return network.eval().requires_grad_(False)


def main(data: str, teacher: Path, work: Path, out: Path, s: Settings) -> None:
    # numbers next to zero, which the teacher's clipped units leave behind, would make a CPU more than twice as slow
    torch.set_flush_denormal(True)
    begun, network = time.perf_counter(), teacher_of(teacher)
    model, processor = kc.load_clip(s.start)
    knees = kc.load_knees(data)
    train, tune = knees["train"], knees["tune"]
    films = mirrored(torch.from_numpy(np.stack(kc.data.grey_arrays(train))), train)
    pixels = clip.preprocess(processor, tune["image"])
    former = work / "former.npy"
    if not former.exists():
        own = flip_average(*kc.predict(model, processor, train["image"], s.prompts))
        write_atomically(former, lambda tmp: np.save(tmp.open("wb"), own))
    own = torch.from_numpy(np.load(former)).float()
    store = Store(work, "student", asdict(s))

    def watch(epoch, losses, average):
        p, p_flip = kc.predict(average, processor, pixels, s.prompts)
        report = kc.evaluate(p, tune["grade"], tune["patient"], flipped=p_flip, n_boot=0)
        row = {"epoch": epoch + 1, "losses": losses, "seconds": round(time.perf_counter() - begun)}
        row |= {name: report[name] for name in ("accuracy", "qwk")}
        row |= {f"averaged_{name}": report["averaged"][name] for name in ("accuracy", "qwk")}
        store.history.append(row | {"tempered_loss": tempered(p, p_flip, tune["grade"])})
        print(store.history[-1], flush=True)

    if not store.path.exists():
        watch(-1, [], model)  # where it begins
    model = learn_on(model, processor, network, films, torch.tensor(train["grade"]), own, s, store, watch)
    ship(model, processor, train, tune, out, {"recipe": asdict(s), "history": store.history}, s)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", metavar="DATA", help="the public data set: a folder or a zip")
    parser.add_argument("--start", default=Settings.start, help="a folder, or the knee-clip that is installed")
    parser.add_argument("--teacher", type=Path, default=Path("runs/photographs/lite0-224-0.pt"))
    parser.add_argument("--epochs", type=int, default=Settings.epochs)
    parser.add_argument("--work", type=Path, default=Path("runs/further"), help="for what a killed run needs")
    parser.add_argument("--out", type=Path, default=Path("runs/further/knee-clip"))
    given = parser.parse_args()
    settings = Settings(start=given.start, epochs=given.epochs)
    main(given.data, given.teacher, given.work, given.out, settings)
