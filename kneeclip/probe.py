"""Linear heads on features of both views: what an arm's losses change, seen in seconds.

The heads are trained with the very losses of fine-tuning, on features that a tower (`features`) or the pixels
(`pixel_components`) gave once and for all. `one_sided` asks what can be learnt from the knees of one side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from transformers import CLIPModel, CLIPProcessor

from kneeclip import model as clip
from kneeclip.errors import KneeError
from kneeclip.pixels import one_sided, patient_folds, pixel_components
from kneeclip.presets import GRADES, Recipe
from kneeclip.updating import arm_losses

__all__ = ["Heads", "features", "linear_probe", "one_sided", "patient_folds", "pixel_components"]


@torch.no_grad()
def features(model: CLIPModel, processor: CLIPProcessor, images, *, batch_size: int = 64):
    """What the image tower says of both views, just before CLIP's projection.

    Parameters
    ----------
    images : sequence of N PIL images, or (N, H, W) uint8 array

    Returns
    -------
    X, X_flip : (N, width) float32 tensors on the CPU. Notebook: 04.
    """
    pixels = torch.from_numpy(clip.preprocess(processor, images))
    both = []
    for batch in pixels.split(batch_size):
        views = torch.cat([batch, batch.flip(-1)]).to(model.device)
        pooled = model.vision_model(pixel_values=clip.to_pixel_values(processor, views)).pooler_output
        both.append(pooled.float().cpu().view(2, len(batch), -1))
    X, X_flip = torch.cat(both, dim=1)
    return X, X_flip


@dataclass(frozen=True)
class Heads:
    """S linear heads of one arm, one a seed."""

    arm: str
    weight: torch.Tensor  # (S, K, D)
    bias: torch.Tensor  # (S, K)
    mean: torch.Tensor  # (D,), of the training features
    scale: torch.Tensor  # (D,)
    views: int  # rows of features that each head saw in all

    def logits(self, X) -> torch.Tensor:
        """(N, D) to (S, N, K)."""
        return (torch.as_tensor(X) - self.mean) / self.scale @ self.weight.transpose(1, 2) + self.bias[:, None]

    def predict(self, X, X_flip, *, mirror=None) -> tuple[np.ndarray, np.ndarray]:
        """p and p_flip, (S, N, K) float64; `mirror` (N,) bool, the left knees, for the canonical arm."""
        p, p_flip = (
            self.logits(view).cpu().double().softmax(-1).numpy() for view in _turned(self.arm, X, X_flip, mirror)
        )
        return p, p_flip


def linear_probe(
    X, X_flip, grades, arm: str, *, mirror=None, weight=1.0, form="js", steps=300, views=128, lr=0.01, l2=1e-3,
    seeds: Sequence[int] = range(5),
) -> Heads:  # fmt: skip
    """Train linear heads on cached features with an arm's losses; every arm sees equally many views.

    Parameters
    ----------
    X, X_flip : (N, D) tensors or arrays
        Features of the original and of the flipped views.
    grades : (N,) int, KL 0-4
    arm : one of `kneeclip.presets.ARMS`
    mirror : (N,) bool, optional
        The left knees; the canonical arm needs it.
    weight, form : float, str
        Of the Consistency Loss.
    steps, lr : int, float
        Updates by Adam, and its first rate, which falls to 0 along half a cosine.
    views : int or None
        Rows of features a step: both views of views/2 images in a two-view arm, one view of `views` images in the
        others. None: all images in every step.
    l2 : float
        ½ l2 ‖W‖² is added to the loss.
    seeds : sequence of int
        One head each. A seed draws the first weights, the images of every step and the coins of `flip_aug`; the
        images to draw from are the same for all.

    Returns
    -------
    Heads

    Raises
    ------
    KneeError
        For an unknown arm or form, and for the canonical arm without `mirror`.

    Notes
    -----
    The heads are trained side by side; each ends as it would alone. Source: ours. Notebook: 04.
    """
    recipe = Recipe(arm=arm, weight=weight, consistency=form)
    X, X_flip = _turned(arm, X, X_flip, mirror)
    grades, (N, D), K, S = torch.as_tensor(np.asarray(grades)), X.shape, len(GRADES), len(seeds)
    mean, scale = X.mean(0), X.std(0) + 1e-6
    X, X_flip = (X - mean) / scale, (X_flip - mean) / scale
    images = N if views is None else views // recipe.views
    drawn = [_draws(int(seed), steps, images, N, K, D, everything=views is None) for seed in seeds]
    W, index, coins = (torch.stack(parts) for parts in zip(*drawn, strict=True))  # (S, K, D), 2 × (S, steps, images)
    W, b = W.requires_grad_(), torch.zeros(S, K, requires_grad=True)
    adam = torch.optim.Adam([W, b], lr=lr)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for step in range(steps):
        batch = index[:, step]  # (S, images)
        seen = [X[batch], X_flip[batch]] if recipe.views == 2 else [X[batch]]
        if arm == "flip_aug":
            seen = [torch.where(coins[:, step, :, None], X_flip[batch], X[batch])]
        z = torch.cat([torch.baddbmm(b[:, None], x, W.transpose(1, 2)).flatten(0, 1) for x in seen])
        total = arm_losses(z, grades[batch].flatten(), recipe)["total"]  # z: originals, then flips
        # a sum over heads: none feels the others
        loss = total.view(S, images).mean(1).sum() + 0.5 * l2 * W.square().sum()
        adam.zero_grad()
        loss.backward()
        adam.step()
        falling.step()
    return Heads(arm, W.detach(), b.detach(), mean, scale, steps * images * recipe.views)


def _turned(arm, X, X_flip, mirror):
    """Both views; for the canonical arm, left knees as their mirror images."""
    X, X_flip = torch.as_tensor(X), torch.as_tensor(X_flip)
    if arm != "canonical":
        return X, X_flip
    if mirror is None:
        raise KneeError("the canonical arm mirrors left knees, and nobody said which they are", arm, "give mirror")
    mirror = np.asarray(mirror)
    if mirror.dtype != bool or mirror.shape != (len(X),):
        given = f"{mirror.dtype} {mirror.shape}"
        raise KneeError("mirror says of each image whether it is a left knee", given, 'give sides == "L"')
    left = torch.as_tensor(mirror)[:, None]
    return torch.where(left, X_flip, X), torch.where(left, X, X_flip)


def _draws(seed, steps, images, N, K, D, *, everything):
    """What one seed decides: first weights, the images of every step, and a coin for each."""
    generator = torch.Generator().manual_seed(seed)
    W = 0.01 * torch.randn(K, D, generator=generator)
    index = torch.arange(N).expand(steps, N)
    if not everything:
        index = torch.randint(N, (steps, images), generator=generator)
    return W, index, torch.rand(steps, images, generator=generator) < 0.5
