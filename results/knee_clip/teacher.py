"""The teachers of knee-clip: small residual networks, trained from nothing on the real train images.

Why networks of another kind: convolutions know beforehand that a knee moved by two pixels is the same knee, which a
transformer has to learn, and 5,232 images are few. Some send the two halves of the joint, the outer side of each to
the left, through one network, so that a margin is learnt from both compartments [after Tiulpin et al. 2018]. They
teach the model that ships, and are thrown away afterwards.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

import kneeclip as kc
from kneeclip.updating import parameter_groups


@dataclass(frozen=True)
class Settings:
    """Everything that decides a teacher's weights, seed included."""

    seed: int = 0
    halves: bool = False  # both halves of the joint through one network, the left one mirrored onto the right one
    mixup: float = 0.0  # of the Beta distribution that two images are mixed by [Zhang et al. 2018]; 0 mixes none
    size: int = 176  # pixels, of the middle of a film of 224
    shown: int = 176  # pixels that this middle is shown at
    width: int = 48  # channels of the first stage; doubled in each of the next three
    dropout: float = 0.3
    epochs: int = 45
    warmup: float = 2  # epochs
    batch_size: int = 64
    lr: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    ordinal: float = 0.0  # above 0, instead of smoothing: how much less likely a grade is the further it lies away
    balanced: bool = False  # every grade is shown equally often, rare ones again and again
    taught: float = 0.0  # the share of what is learnt that is others' answers to the image; the rest is its grade
    ema: float = 0.998


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
            pool = nn.AvgPool2d(stride, ceil_mode=True) if stride > 1 else nn.Identity()
            self.around = nn.Sequential(pool, nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))

    def forward(self, x):
        h = F.relu(self.b1(self.c1(x)), inplace=True)
        return F.relu(self.b2(self.c2(h)) + self.around(x), inplace=True)


class Teacher(nn.Module):
    """(N, 1, S, S) standardised grey levels -> logits (N, 5) and the third stage's map (N, 4 · width, S/16, S/16)."""

    def __init__(self, s: Settings):
        super().__init__()
        self.halves, self.shown, self.channels = s.halves, s.shown, 4 * s.width  # channels of the map
        self.stem = nn.Sequential(
            nn.Conv2d(1, s.width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(s.width),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, channels = [], s.width
        for stage in range(4):
            for first in (True, False):
                after = s.width * 2**stage
                blocks.append(Block(channels, after, 2 if stage and first else 1))
                channels = after
        self.body, self.dropout = nn.Sequential(*blocks), nn.Dropout(s.dropout)
        self.head = nn.Linear(2 * channels * (2 if s.halves else 1), 5)

    def forward(self, x):
        patches = x.shape[-1] // 16
        if self.halves:  # they share the patch in the middle
            half = 16 * ((patches + 1) // 2)
            x = torch.cat([x[..., :half], x[..., -half:].flip(-1)]).contiguous(memory_format=torch.channels_last)
        middle = self.body[:6](self.stem(x))
        top = self.body[6:](middle)
        pooled = torch.cat([top.mean((2, 3)), top.amax((2, 3))], 1)
        if self.halves:
            left, right = pooled.chunk(2)
            pooled = torch.cat([(left + right) / 2, torch.maximum(left, right)], 1)
            left, right = middle.chunk(2)
            middle = torch.cat([left, right.flip(-1)[..., 2 * left.shape[-1] - patches :]], -1)
        return self.head(self.dropout(pooled)), middle


def mixed(device: torch.device):
    """bfloat16 where the machine has it: without, a CPU's convolutions would take ten times as long."""
    if device.type == "cuda":
        quick = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        quick = "AVX512" in torch.backends.cpu.get_cpu_capability()
    return torch.autocast(device.type, torch.bfloat16, enabled=quick)


def standardised(x: torch.Tensor) -> torch.Tensor:
    """(N, 1, S, S) of grey levels 0 to 1: each film with mean 0 and about unit spread, whatever its exposure."""
    x = (x - x.mean((1, 2, 3), keepdim=True)) / (x.std((1, 2, 3), keepdim=True) + 0.05)
    return x.to(memory_format=torch.channels_last)


def warped(x: torch.Tensor, size: int, share: float, u: torch.Tensor | None) -> torch.Tensor:
    """Films (N, H, W) uint8 as (N, 1, size, size) in 0 to 1: their central `share`, or about it where `u` says so.

    `u` (N, 10), of `chance`: turns by up to 12°, zooms by 15 %, shifts by 6 %, stretches by 6 %; half are flipped.
    """
    n = len(x)
    if u is None:
        theta = torch.tensor([[share, 0, 0], [0, share, 0]], device=x.device).float().expand(n, 2, 3)
    else:
        angle, zoom, stretch = u[:, 0] * math.radians(12), share * torch.exp(0.15 * u[:, 1]), torch.exp(0.06 * u[:, 4])
        cos, sin = angle.cos(), angle.sin()
        rows = [[cos * zoom * stretch, -sin * zoom, 0.12 * u[:, 2]], [sin * zoom * stretch, cos * zoom, 0.12 * u[:, 3]]]
        theta = torch.stack([torch.stack(row, 1) for row in rows], 1)
        theta[:, :, 0] *= torch.where(u[:, 8] < 0, -1.0, 1.0)[:, None]
    grid = F.affine_grid(theta, (n, 1, size, size), align_corners=False)
    return F.grid_sample(x[:, None].float() / 255, grid, padding_mode="border", align_corners=False)


def exposed(x: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
    """(N, S, S) in 0 to 1 of another exposure, and 3 % of them as negatives (about 1.3 % of the films are)."""
    x = x.clamp(1e-4, 1) ** torch.exp(0.35 * u[:, 5])[:, None, None]
    return torch.where(u[:, 9, None, None] > 0.94, 1 - x, x)


def chance(n: int, device: torch.device) -> torch.Tensor:
    """(N, 10) in [-1, 1), drawn on the CPU, so that every device gets the same."""
    return (torch.rand(n, 10) * 2 - 1).to(device)


def turned(rows) -> torch.Tensor:
    """The films of a split, (N, H, W) uint8, left knees mirrored to right ones."""
    films = torch.from_numpy(np.stack(kc.data.grey_arrays(rows)))
    left = torch.tensor([side == "L" for side in rows["side"]])
    return torch.where(left[:, None, None], films.flip(-1), films)


def _seen(x: torch.Tensor, s: Settings, train: bool) -> torch.Tensor:
    """What the teacher is shown of films (N, H, W): the centre, and in training a disguised one."""
    share = s.size / x.shape[-1]
    if not train:
        return standardised(warped(x, s.shown, share, None))
    u = chance(len(x), x.device)
    x = standardised(exposed(warped(x, s.shown, share, u)[:, 0], u)[:, None])
    return x * (1 + 0.15 * u[:, 6])[:, None, None, None] + 0.2 * u[:, 7][:, None, None, None]


@torch.no_grad()
def grade(teacher: nn.Module, films: torch.Tensor, s: Settings) -> torch.Tensor:
    """Probabilities (2, N, 5) of films (N, H, W): of the view as it is and of its flip."""
    teacher.eval()
    found = []
    for part in films.split(128):
        x = _seen(part, s, False)
        with mixed(x.device):
            found.append(torch.stack([teacher(view)[0].float() for view in (x, x.flip(-1))]))
    return torch.cat(found, 1).softmax(-1)


def soft_labels(s: Settings) -> torch.Tensor:
    """The probabilities (5, 5) that a network is to say of each grade.

    Smoothed ones [Szegedy et al. 2016], or ordinal ones, softmax(-ordinal · (k - grade)²) [Díaz and Marathe 2019].
    """
    if s.ordinal:
        grades = torch.arange(5.0)
        return (-s.ordinal * (grades - grades[:, None]) ** 2).softmax(-1)
    return torch.eye(5) * (1 - s.label_smoothing) + s.label_smoothing / 5


def new_order(grades: torch.Tensor, s: Settings) -> torch.Tensor:
    """Which images (N,) an epoch shows, by their grades (N,): each of them once, or of every grade about as many."""
    if s.balanced:
        return (1 / grades.bincount())[grades].multinomial(len(grades), replacement=True)
    return torch.randperm(len(grades))


def train_teacher(films, grades, s: Settings, store, watch, new=Teacher, answers=None) -> nn.Module:
    """One teacher, from films (N, H, W) uint8 whose left knees are mirrored, and their grades (N,).

    `new` makes it from its settings; `answers` (N, 5) are the probabilities that it is `taught`.
    `store` keeps and gives back what a killed run has reached (`records.Store`); ``watch(epoch, losses, teacher)``
    looks on. The teacher is the running average of the weights.
    """
    torch.manual_seed(s.seed)
    device = films.device
    model = new(s).to(device, memory_format=torch.channels_last)
    average = copy.deepcopy(model)
    parameters = list(model.parameters())
    optimizer = torch.optim.AdamW(parameter_groups(model, s.weight_decay), lr=s.lr, fused=True)
    parts = {"model": model, "average": average, "optimizer": optimizer}
    follow = follower(average, model)
    per_epoch = len(films) // s.batch_size
    total = per_epoch * s.epochs
    rng = np.random.default_rng(s.seed)
    targets = soft_labels(s).to(device)[grades]
    if s.taught:
        targets = (1 - s.taught) * targets + s.taught * answers
    first = store.resume(parts)
    for _ in range(first * per_epoch):
        rng.beta(s.mixup or 1, s.mixup or 1)  # a resumed run goes on where the numbers had got to
    for epoch in range(first, s.epochs):
        model.train()
        order, losses = new_order(grades.cpu(), s).to(device), torch.zeros((), device=device)
        for i in range(per_epoch):
            step = epoch * per_epoch + i
            batch = order[i * s.batch_size : (i + 1) * s.batch_size]
            x, y = _seen(films[batch], s, True), targets[batch]
            share = rng.beta(s.mixup or 1, s.mixup or 1)
            if s.mixup:
                x, y = share * x + (1 - share) * x.roll(1, 0), share * y + (1 - share) * y.roll(1, 0)
            for group in optimizer.param_groups:
                warm = min(1, (step + 1) / (s.warmup * per_epoch))
                group["lr"] = s.lr * warm * (0.5 + 0.5 * math.cos(math.pi * step / total))
            with mixed(device):
                logits, _ = model(x)
            loss = -(y * logits.float().log_softmax(-1)).sum(1).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses += loss.detach()
            follow(min(s.ema, (2 + step) / (11 + step)))
        watch(epoch, [losses.item() / per_epoch], average)
        store.save(parts, epoch + 1, last=epoch + 1 == s.epochs)
    return average.eval()


def follower(average: nn.Module, model: nn.Module):
    """``follow(keep)``: average = keep · average + (1 - keep) · model, batch norm's statistics included."""
    ours, theirs = ([v for v in part.state_dict().values() if v.is_floating_point()] for part in (average, model))

    def follow(keep: float) -> None:
        get_ema_multi_avg_fn(keep)(ours, theirs, None)

    return follow
