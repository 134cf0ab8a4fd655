"""The teachers of knee-clip: small residual networks, trained from nothing on the real train images.

Why a network of another kind: convolutions know beforehand that a knee moved by two pixels is the same knee, which a
transformer has to learn, and 5,232 images are few. One teaches the model that ships; several, of other seeds,
can (row 10 of LOG.md). They are thrown away afterwards.
"""

from __future__ import annotations

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from kneeclip.training import parameter_groups

#: Everything that decides the teachers' weights, seeds included.
SETTINGS = {
    "size": 128,  # pixels
    "crop": 176 / 224,  # share of the film's width that they show, around its centre
    "width": 32,  # channels of the first stage; doubled in each of the next three
    "dropout": 0.3,
    "epochs": 30,
    "batch_size": 64,
    "lr": 2e-3,
    "weight_decay": 0.05,
    "label_smoothing": 0.1,
    "ema": 0.998,
    "seeds": (0,),  # one teacher each
}


class Block(nn.Module):
    """Two convolutions and a way around them [He et al. 2016, with the averaging shortcut of ResNet-D]."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.c1 = nn.Conv2d(before, after, 3, stride, 1, bias=False)
        self.b1 = nn.BatchNorm2d(after)
        self.c2 = nn.Conv2d(after, after, 3, 1, 1, bias=False)
        self.b2 = nn.BatchNorm2d(after)
        self.around = nn.Identity()
        if stride > 1 or before != after:
            pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.around = nn.Sequential(pool, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        h = F.relu(self.b1(self.c1(x)), inplace=True)
        return F.relu(self.b2(self.c2(h)) + self.around(x), inplace=True)


class Teacher(nn.Module):
    """(N, 1, S, S) standardised grey levels -> logits (N, 5) and the third stage's map (N, 4 · width, S/16, S/16)."""

    def __init__(self, width: int, dropout: float = 0.0):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, channels = [], width
        for stage in range(4):
            for first in (True, False):
                after = width * 2**stage
                blocks.append(Block(channels, after, 2 if stage and first else 1))
                channels = after
        self.body, self.dropout, self.head = nn.Sequential(*blocks), nn.Dropout(dropout), nn.Linear(channels, 5)

    def forward(self, x):
        middle = self.body[:6](self.stem(x))
        pooled = self.body[6:](middle).mean((2, 3))
        return self.head(self.dropout(pooled)), middle


def standardised(x: torch.Tensor) -> torch.Tensor:
    """(N, 1, S, S) of grey levels 0 to 1: each film with mean 0 and about unit spread, whatever its exposure."""
    x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 0.05)
    return x.to(memory_format=torch.channels_last)


def warped(x: torch.Tensor, size: int, share: float, u: torch.Tensor | None) -> torch.Tensor:
    """Films (N, H, W) uint8 as (N, 1, size, size) in 0 to 1: their central `share`, or about it where `u` says so.

    `u` (N, 8) in [-1, 1): turns by up to 12°, zooms by 15 %, shifts by 6 %, stretches by 6 %; half are flipped.
    """
    n = len(x)
    if u is None:
        theta = torch.tensor([[share, 0, 0], [0, share, 0]]).float().expand(n, 2, 3)
    else:
        angle, zoom, stretch = u[:, 0] * math.radians(12), share * torch.exp(0.15 * u[:, 1]), torch.exp(0.06 * u[:, 4])
        cos, sin = angle.cos(), angle.sin()
        rows = [[cos * zoom * stretch, -sin * zoom, 0.12 * u[:, 2]], [sin * zoom * stretch, cos * zoom, 0.12 * u[:, 3]]]
        theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
        theta[:, :, 0] *= torch.where(torch.rand(n) < 0.5, -1.0, 1.0)[:, None]
    grid = F.affine_grid(theta, (n, 1, size, size), align_corners=False)
    return F.grid_sample(x[:, None].float() / 255, grid, padding_mode="border", align_corners=False)


def _seen(x: torch.Tensor, train: bool) -> torch.Tensor:
    """What the teacher is shown of films (N, H, W): the centre, and in training a disguised one."""
    if not train:
        return standardised(warped(x, SETTINGS["size"], SETTINGS["crop"], None))
    u = torch.rand(len(x), 8) * 2 - 1
    x = warped(x, SETTINGS["size"], SETTINGS["crop"], u)
    x = x.clamp(1e-4, 1) ** torch.exp(0.35 * u[:, 5])[:, None, None, None]  # exposure
    negative = (torch.rand(len(x)) < 0.04)[:, None, None, None]  # about 1.3 % of the public films are
    x = standardised(torch.where(negative, 1 - x, x))
    return x * (1 + 0.15 * u[:, 6])[:, None, None, None] + 0.2 * u[:, 7][:, None, None, None]


@torch.no_grad()
def grade(teacher: Teacher, films: torch.Tensor) -> torch.Tensor:
    """Probabilities (2, N, 5) of films (N, H, W): of the view as it is and of its flip."""
    teacher.eval()
    found = []
    for part in films.split(128):
        x = _seen(part, False)
        with torch.autocast("cpu", torch.bfloat16):
            found.append(torch.stack([teacher(view)[0].float() for view in (x, x.flip(-1))]))
    return torch.cat(found, 1).softmax(-1)


def train_teacher(films, grades, seed: int, store, watch) -> Teacher:
    """The teacher of one seed, from films (N, H, W) uint8 whose left knees are mirrored, and their grades (N,).

    `store` keeps and gives back what a killed run has reached (see `make.Store`); ``watch(epoch, loss, teacher)``
    looks on. The teacher is the running average of the weights.
    """
    s = SETTINGS
    torch.manual_seed(seed)
    model = Teacher(s["width"], s["dropout"]).to(memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameter_groups(model, s["weight_decay"]), lr=s["lr"])
    parts = {"model": model, "average": average, "optimizer": optimizer}
    per_epoch = len(films) // s["batch_size"]
    total = per_epoch * s["epochs"]
    targets = torch.eye(5) * (1 - s["label_smoothing"]) + s["label_smoothing"] / 5
    for epoch in range(store.resume(parts), s["epochs"]):
        model.train()
        order, losses = torch.arange(len(films))[torch.randperm(len(films))], 0.0
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            batch = order[i * s["batch_size"] : (i + 1) * s["batch_size"]]
            x = _seen(films[batch], True)
            for group in optimizer.param_groups:
                warm = min(1, (step + 1) / (2 * per_epoch))
                group["lr"] = s["lr"] * warm * (0.5 + 0.5 * math.cos(math.pi * step / total))
            with torch.autocast("cpu", torch.bfloat16):
                logits, _ = model(x)
            loss = -(targets[grades[batch]] * logits.float().log_softmax(-1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses += loss.item()
            follow(average, model, min(s["ema"], (2 + step) / (11 + step)))
        watch(epoch, losses / per_epoch, average)
        store.save(parts, epoch + 1)
    return average.eval()


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, keep: float) -> None:
    """average = keep · average + (1 - keep) · model, batch norm's statistics included."""
    for a, b in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if a.dtype.is_floating_point:
            a.lerp_(b, 1 - keep)
        else:
            a.copy_(b)
