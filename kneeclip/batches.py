"""What a training step sees: a split resident on the device, the order of its images, their views.

Everything random is keyed by (seed, epoch, image), or by (seed, epoch, place in the epoch) where `balance` draws an
image several times, and drawn on the CPU, so that a resumed run, another number of processes and another device all
see the same images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from kneeclip import model as clip
from kneeclip.errors import KneeError
from kneeclip.presets import Recipe


@dataclass
class Resident:
    """A split on the device: uint8 pixels, grades, and what evaluation needs to know."""

    images: torch.Tensor | np.ndarray  # train: (N, S, S) uint8 tensor on the device; tune: ndarray
    grades: torch.Tensor  # (N,) int64
    mirror: np.ndarray | None  # canonical arm: the left knees
    mirror_on_device: torch.Tensor
    patients: list
    names: list[str]


def load_resident(processor, knees, split, accelerator, recipe, progress) -> Resident:
    if split not in knees:
        remedy = f"name data with a {split} folder, or in Python give knees[{split!r}]"
        raise KneeError(f"there is no split called {split}", f"only {', '.join(knees) or 'nothing'}", remedy)
    rows = knees[split]
    columns = set(getattr(rows, "column_names", None) or rows)
    missing = {"image", "grade"} - columns
    if missing:
        raise KneeError(f"the split {split} lacks a column", sorted(missing), "give image and grade")
    try:
        grades = np.asarray(rows["grade"], dtype=np.int64)
        if (grades != np.asarray(rows["grade"])).any():
            raise KneeError(f"a grade of {split} is no whole number", split, "use KL grades 0 to 4")
    except (TypeError, ValueError):
        raise KneeError(f"a grade of {split} is no number", split, "use KL grades 0 to 4") from None
    images = clip.preprocess(processor, rows["image"], progress=progress)
    if len(images) != len(grades) or len(grades) == 0:
        raise KneeError(f"the split {split} has {len(images)} images and {len(grades)} grades", split, "give one each")
    if grades.min() < 0 or grades.max() > 4:
        raise KneeError(f"a grade of {split} lies outside 0 to 4", sorted(set(grades.tolist())), "use KL grades 0 to 4")
    patients = list(rows["patient"]) if "patient" in columns else [str(i) for i in range(len(grades))]
    sides = list(rows["side"]) if "side" in columns else [""] * len(grades)
    if not len(patients) == len(sides) == len(grades):
        counts = f"{len(patients)} patients, {len(sides)} sides, {len(grades)} grades"
        raise KneeError(f"the columns of {split} differ in length", counts, "give one each an image")
    if recipe.arm == "canonical" and not set(sides) <= {"L", "R"}:
        remedy = "end the file names in L or R, as in 9001695L.png, or in Python add the column side"
        raise KneeError("the canonical arm mirrors left knees, and the data don't say which they are", split, remedy)
    left = np.array([side == "L" for side in sides])
    device = accelerator.device
    return Resident(
        images=torch.from_numpy(images).to(device) if split == "train" else images,
        grades=torch.from_numpy(grades).to(device),
        mirror=left if recipe.arm == "canonical" else None,
        mirror_on_device=torch.from_numpy(left).to(device),
        patients=patients,
        names=[f"{p}{s}" for p, s in zip(patients, sides, strict=True)],
    )


def epoch_plan(data: Resident, recipe: Recipe, epoch: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The order of the images (N,) and random numbers (N, 7), from (seed, epoch) alone; drawn on the CPU.

    Without `balance` an epoch sees each image once, and image j has the numbers of row j. With it, row i belongs to the
    i-th place of the order: a rare grade's image comes several times, and shall not come as the same picture.
    """
    seed = int(np.random.SeedSequence([recipe.seed, epoch]).generate_state(1)[0])
    generator = torch.Generator().manual_seed(seed)
    n = len(data.grades)
    draws = torch.rand(n, 7, generator=generator)
    if recipe.balance:
        counts = torch.bincount(data.grades.cpu(), minlength=5).float()
        even = 1 / (counts[data.grades.cpu()] * (counts > 0).sum())  # sums to 1, each grade the same share
        weights = recipe.balance * even + (1 - recipe.balance) / n
        order = torch.multinomial(weights, n, replacement=True, generator=generator)
    else:
        order = torch.randperm(n, generator=generator)
    return order.to(data.grades.device), draws.to(data.grades.device)


def epoch_batches(data: Resident, recipe: Recipe, epoch: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """The steps of an epoch: the images (B,) of each, and their random numbers (B, 7); the last may be smaller."""
    order, draws = epoch_plan(data, recipe, epoch)
    own = draws if recipe.balance else draws[order]
    return list(zip(order.split(recipe.batch_size), own.split(recipe.batch_size), strict=True))


def make_views(images: torch.Tensor, mirror: torch.Tensor, draws: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """The views that an arm trains on, as grey levels: (N, S, S), or (2N, S, S) with the flips behind the originals.

    Parameters
    ----------
    images : (N, S, S) uint8
    mirror : (N,) bool, the left knees; only `canonical` looks at it
    draws : (N, 7) uniform random numbers in [0, 1), a row an image: see `epoch_plan`
    """
    x = images.float()
    if recipe.arm == "canonical":
        x = torch.where(mirror[:, None, None], x.flip(-1), x)
    if recipe.augment:
        x = _augment(x, draws * 2 - 1, recipe.augment)
    if recipe.arm == "flip_aug":
        x = torch.where(draws[:, 6, None, None] < 0.5, x.flip(-1), x)
    return torch.cat([x, x.flip(-1)]) if recipe.views == 2 else x


def _augment(x: torch.Tensor, u: torch.Tensor, strength: float) -> torch.Tensor:
    """Turn (±10° at strength 1), zoom (±12 %), shift (±8 %), contrast (±30 %) and brightness (±30 grey levels).

    x (N, S, S) grey levels, u (N, ≥ 6) in [−1, 1). Light on purpose: a joint space is a few pixels wide.
    """
    u = u * strength
    angle, zoom = u[:, 0] * math.radians(10), 1 + 0.12 * u[:, 1]
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    cos, sin, right, down = (value[:, None, None] for value in (cos, sin, 0.16 * u[:, 2], 0.16 * u[:, 3]))
    size = x.shape[-1]
    axis = (2 * torch.arange(size, device=x.device) + 1) / size - 1  # the pixels' centres, −1 to 1
    column, row = axis[None, None, :], axis[None, :, None]
    # F.affine_grid's formula and many times quicker than its product of matrices with three columns
    grid = torch.empty(len(x), 2, size, size, device=x.device)
    grid[:, 0], grid[:, 1] = cos * column - (sin * row - right), sin * column + (cos * row + down)
    edge = 1 - 1 / size  # what lies outside takes the border's value; Apple's GPUs lack padding_mode="border"
    grid = grid.clamp_(-edge, edge).permute(0, 2, 3, 1)  # (N, S, S, 2)
    x = F.grid_sample(x[:, None], grid, align_corners=False)[:, 0]
    mean = x.mean((1, 2), keepdim=True)
    # in place: a step's largest arrays would be allocated anew for every sign
    x.sub_(mean).mul_(1 + 0.3 * u[:, 4, None, None]).add_(mean).add_(30 * u[:, 5, None, None])
    return x.clamp_(0, 255)
