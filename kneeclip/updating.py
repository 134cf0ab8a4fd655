"""One update of the weights: prompts and both views through the towers, the arm's losses, one step of AdamW."""

from __future__ import annotations

import math
from contextlib import nullcontext

import torch
import torch.nn.functional as F
from transformers import CLIPModel

from kneeclip import model as clip
from kneeclip.batches import make_views
from kneeclip.errors import Diverged
from kneeclip.losses import clip_koa_loss, consistency_loss
from kneeclip.presets import Recipe

MAX_LOGIT_SCALE = math.log(100)  # CLIP's own ceiling
# AdamW as CLIP was trained. PyTorch's 0.999 would remember the first, large gradients of new weights for 1,000 steps.
BETAS, EPS = (0.9, 0.98), 1e-6


class Grader(torch.nn.Module):
    """Pixels of N images and the prompts' tokens to logits (N, K): the whole forward pass, as Accelerate wraps it."""

    def __init__(self, model: CLIPModel, counts: list[int]):
        super().__init__()
        self.model, self.counts = model, counts

    def forward(self, pixel_values: torch.Tensor, input_ids: torch.Tensor) -> torch.Tensor:
        T = clip.texts_to_matrix(self.model, input_ids, self.counts)  # (K, D), once a step
        X = clip.encode_images(self.model, pixel_values)  # (N, D)
        return self.model.logit_scale.exp() * clip.similarity(X, T)


def learning_rate(step: int, total: int, recipe: Recipe) -> float:
    """Warm-up in equal stairs, the first of height lr / warm-up steps, then half a cosine down to 0 at `total`."""
    warm = max(1, round(recipe.warmup * total))
    if step < warm:
        return recipe.lr * (step + 1) / warm
    return recipe.lr * 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, total - warm)))


def parameter_groups(model, weight_decay) -> list[dict]:
    """Matrices decay; biases, norms and the logit scale don't."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    return [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def arm_losses(logits: torch.Tensor, grades: torch.Tensor, recipe: Recipe) -> dict[str, torch.Tensor]:
    """The losses of the recipe's arm, one value an image, `total` among them.

    Parameters
    ----------
    logits : (N, K) of the one view, or (2N, K): first all originals, then all flips
    grades : (N,)
    """
    if recipe.views == 1:
        loss = F.cross_entropy(clip.precise(logits), grades, reduction="none")
        return {"original": loss, "total": loss}
    z, z_flip = logits.chunk(2)  # (N, K) each
    if recipe.arm == "consistency":
        original = F.cross_entropy(clip.precise(z), grades, reduction="none")
        consistency = consistency_loss(z, z_flip, form=recipe.consistency, reduction="none")
        return {"original": original, "consistency": consistency, "total": original + recipe.weight * consistency}
    weight = recipe.weight if recipe.arm == "clip_koa" else 0.0
    return clip_koa_loss(z, z_flip, grades, form=recipe.consistency, weight=weight, reduction="none")


def update(accelerator, grader, optimizer, data, tokens, batch, draws, recipe, processor) -> dict[str, float]:
    """One update from the images `batch` (B,), over all processes and micro-batches: sum of losses over global count.

    `draws` (B, 7) are the random numbers of their views.

    Raises Diverged before the weights change if a loss or a gradient is not finite.
    """
    places = torch.arange(len(batch), device=batch.device)
    mine = places[accelerator.process_index :: accelerator.num_processes]
    # a process without an image of this (last, short) batch still takes part, with one image of weight 0
    counts = torch.ones(max(1, len(mine)), device=accelerator.device)
    if len(mine) == 0:
        mine, counts = places[:1], counts * 0
    share = math.ceil(len(batch) / accelerator.num_processes)  # the same for all: they must sync equally often
    size = recipe.micro_batch or share
    rounds = math.ceil(share / size)
    sums: dict[str, torch.Tensor] = {}
    pieces = [(mine[i * size : (i + 1) * size], counts[i * size : (i + 1) * size]) for i in range(rounds)]
    for i, (at, count) in enumerate(pieces):
        if len(at) == 0:
            at, count = mine[:1], counts[:1] * 0
        index = batch[at]
        context = accelerator.no_sync(grader) if i + 1 < rounds else nullcontext()
        with context:
            views = make_views(data.images[index], data.mirror_on_device[index], draws[at], recipe)
            with accelerator.autocast():
                logits = grader(clip.to_pixel_values(processor, views), tokens)
            losses = arm_losses(logits, data.grades[index], recipe)
            weighted = {name: (loss * count).sum() / len(batch) for name, loss in losses.items()}
            # DDP averages the gradients of the processes, and we want their sum
            accelerator.backward(weighted["total"] * accelerator.num_processes)
        for name, loss in weighted.items():
            sums[name] = sums.get(name, 0) + loss.detach()
    norm = accelerator.clip_grad_norm_(grader.parameters(), recipe.clip_norm)
    stacked = torch.stack(list(sums.values()))
    if accelerator.num_processes > 1:
        stacked = accelerator.reduce(stacked, "sum")
    values = dict(zip(sums, stacked.tolist(), strict=True))
    # with loss scaling an infinite gradient is ordinary: the optimizer skips the step and the scale is lowered, to 1
    scaled = accelerator.scaler is not None and accelerator.scaler.get_scale() > 1
    checked = [*values.values(), 0.0 if scaled else float(norm)]
    if not all(map(math.isfinite, checked)):
        raise Diverged(
            "the loss or its gradient is no longer finite",
            [data.names[i] for i in batch.tolist()],
            "start again in another folder with precision bf16 or no, or a lower learning rate, or look at these "
            "images; the last checkpoint is kept",
        )
    optimizer.step()
    optimizer.zero_grad()
    with torch.no_grad():
        accelerator.unwrap_model(grader).model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
    return values
