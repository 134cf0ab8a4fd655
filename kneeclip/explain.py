"""Where did it look? Gradient attention for CLIP's image tower, and a score for the maps that it draws.

A heat map is easy to draw and easy to believe. On phantoms we know where the joint space and the margins are, so here
a map is scored, and against two baselines that know nothing of the image: one map for all knees, and the same
architecture with random weights.
"""

from __future__ import annotations

import numbers
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import rankdata
from transformers import CLIPModel, CLIPProcessor

from kneeclip import model as clip
from kneeclip.errors import KneeError
from kneeclip.prompts import PromptSet
from kneeclip.resampling import draw_patients, interval, mean_by_resample


def relevance(
    model: CLIPModel,
    processor: CLIPProcessor,
    images: Sequence | np.ndarray,
    prompts: PromptSet | str | Sequence,
    *,
    grade: int | Sequence[int] | None = None,
    batch_size: int = 32,
) -> np.ndarray:
    """Gradient attention: how much each place of an image speaks for a grade, by the attention of the image tower.

    Parameters
    ----------
    images : sequence of N PIL images, or (N, H, W) uint8 array
    prompts : PromptSet, name of a built-in set, or five texts
    grade : int or N int, optional
        The grade whose logit is asked about; the predicted one if none is given.

    Returns
    -------
    (N, S, S) float64 array
        Not negative, each map sums to 1; S is the model's image size. It is as fine as the tower's patches, drawn
        smoothly: 8 × 8 patches of 14 px in `phantom-clip`. A map with nothing positive comes back even.

    Raises
    ------
    KneeError
        For no image at all, for a grade that has no prompt, and for a list of grades of another length.

    Notes
    -----
    PyTorch's fused attention keeps no weights, so the tower runs with Transformers' "eager" attention meanwhile; the
    model is handed back as it came. Source: Chefer, Gur & Wolf 2021 (arXiv 2103.15679), their rule for
    self-attention; see `roll_out`. Notebook: 05.
    """
    pixels = clip.preprocess(processor, images, progress=True)
    if not len(pixels):
        raise KneeError("there is no image to explain")
    if not isinstance(batch_size, numbers.Integral) or batch_size < 1:
        raise KneeError("no batch can be so small", f"batch_size={batch_size}", "give a whole number from 1")
    with torch.no_grad():
        T = clip.encode_texts(model, processor, prompts)  # (K, D)
    if grade is not None:
        asked = np.full(len(pixels), grade) if np.ndim(grade) == 0 else np.array(grade)
        whole = np.issubdtype(asked.dtype, np.integer)
        if not whole or asked.shape != (len(pixels),) or asked.min() < 0 or asked.max() >= len(T):
            remedy = f"ask for one from 0 to {len(T) - 1}, or for one of each image"
            raise KneeError("there is no prompt for that grade", f"grade={grade}", remedy)
    maps = []
    with _attention_shown(model), torch.enable_grad():
        for start in range(0, len(pixels), batch_size):
            x = clip.to_pixel_values(processor, torch.from_numpy(pixels[start : start + batch_size]).to(model.device))
            tower = model.vision_model(pixel_values=x.requires_grad_(), output_attentions=True)
            X = F.normalize(model.visual_projection(tower.pooler_output), dim=-1)  # (B, D), as encode_images
            z = model.logit_scale.exp() * clip.similarity(X, T)  # (B, K)
            k = z.argmax(1) if grade is None else torch.from_numpy(asked[start : start + len(z)]).to(z.device)
            chosen = z.gather(1, k[:, None]).sum()  # images don't mix, so the sum's gradient is each one's own
            R = roll_out(tower.attentions, torch.autograd.grad(chosen, tower.attentions))
            maps.append(R[:, 0, 1:].detach().cpu())  # what the class token took from each patch
    flat = torch.cat(maps)
    side = round(flat.shape[1] ** 0.5)
    return _enlarged(flat.view(-1, side, side), pixels.shape[-1])


def roll_out(attentions: Sequence[torch.Tensor], gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    """Relevance of every token for every token, (N, L, L), from the attention of each layer and its gradient.

    Layer by layer, from R = 1 (each token is about itself): Ā is the mean over the heads of the positive part of
    gradient × attention, and R ← R + Ā R, where the first term is the residual connection.

    Parameters
    ----------
    attentions, gradients : sequences of (N, heads, L, L)
        The first layer first.

    Notes
    -----
    Source: Chefer, Gur & Wolf 2021 (arXiv 2103.15679). Notebook: 05.
    """
    N, _, L, _ = attentions[0].shape
    R = torch.eye(L, device=attentions[0].device, dtype=attentions[0].dtype).expand(N, L, L)
    for A, dA in zip(attentions, gradients, strict=True):
        R = R + (A * dA).clamp(min=0).mean(1) @ R
    return R


def average_map(regions, patches: int) -> np.ndarray:
    """The mean of many knees' regions, no finer than a tower's patches: one map for all images, (S, S), sum 1.

    Parameters
    ----------
    regions : (N, S, S) bool
        Of knees *other* than those that are scored.
    patches : int
        Patches along one side of the image; S is a multiple of it.

    Notes
    -----
    The baseline that a heat map has to beat: it knows where joint lines usually are, and nothing of this image.
    Notebook: 05.
    """
    mean = torch.as_tensor(np.asarray(regions), dtype=torch.float32).mean(0)
    if mean.ndim != 2 or mean.shape[0] != mean.shape[1] or mean.shape[0] % patches:
        raise KneeError("the patches don't divide the image", f"{tuple(mean.shape)} in {patches}")
    coarse = F.avg_pool2d(mean[None, None], [n // patches for n in mean.shape])[0]
    return _enlarged(coarse, mean.shape[-1])[0]


def scores(maps, regions, patients, *, against=None, n_boot=1000, seed=0, level=0.95) -> dict:
    """How well maps point at the regions that a grade depends on, with intervals from resampling patients.

    Parameters
    ----------
    maps : array (N, H, W), or (H, W) for one map used on every image
        Not negative.
    regions : (N, H, W) bool
    patients : sequence (N,)
    against : like maps, optional
        A baseline: adds ``lift_difference`` and ``auc_difference``, maps minus baseline on the same images.

    Returns
    -------
    dict
        ``lift``, the share of the map inside the regions over their share of the area: 1 for an even map; ``auc``,
        the share of (pixel inside, pixel outside) pairs that the map puts in order: .5 for an even map. Each is a
        dict of ``value``, the mean over the images, and ``ci``, [low, high]. And n, n_patients.

    Raises
    ------
    KneeError
        For shapes that differ, and for an image without a pixel inside or outside the regions.

    Notes
    -----
    Notebook: 05.
    """
    regions = np.asarray(regions, bool)
    columns = _per_image(maps, regions)
    if against is not None:
        baseline = _per_image(against, regions)
        columns |= {f"{name}_difference": columns[name] - baseline[name] for name in baseline}
    owner, draws = draw_patients(patients, len(regions), n_boot, seed, level)
    report = {"n": len(regions), "n_patients": draws.shape[1]}
    for name, values in columns.items():
        ci = interval(mean_by_resample(values, owner, draws), level)
        report[name] = {"value": float(values.mean()), "ci": ci}
    return report


def _per_image(maps, regions: np.ndarray) -> dict[str, np.ndarray]:
    maps = np.asarray(maps, float)
    if maps.shape not in (regions.shape, regions.shape[1:]):
        raise KneeError("each image needs one map of its own size", f"maps {maps.shape}, regions {regions.shape}")
    inside = regions.reshape(len(regions), -1)
    flat = np.broadcast_to(maps, regions.shape).reshape(inside.shape)
    if not ((flat >= 0).all() and np.isfinite(flat).all() and flat.any(1).all()):
        raise KneeError("a map holds relevance: finite, nowhere negative, and somewhere above 0")
    n_in = inside.sum(1)
    n_out = inside.shape[1] - n_in
    if not (n_in.all() and n_out.all()):
        raise KneeError("a map is scored by what lies inside and outside the regions, and one of the two is empty")
    ranks = np.where(inside, rankdata(flat, axis=1), 0).sum(1)  # Mann and Whitney's statistic is the AUC
    return {
        "lift": (flat * inside).sum(1) / flat.sum(1) / inside.mean(1),
        "auc": (ranks - n_in * (n_in + 1) / 2) / (n_in * n_out),
    }


def _enlarged(maps: torch.Tensor, size: int) -> np.ndarray:
    """(N, side, side) patches to (N, size, size) pixels, each map with the sum 1."""
    large = F.interpolate(maps[:, None].cpu().double(), size=(size, size), mode="bilinear", align_corners=False)[:, 0]
    large = torch.where(large.sum((1, 2), keepdim=True) > 0, large, torch.ones_like(large))
    return (large / large.sum((1, 2), keepdim=True)).numpy()


@contextmanager
def _attention_shown(model: CLIPModel) -> Iterator[None]:
    """The image tower in evaluation mode and with attention that keeps its weights; afterwards as it was."""
    tower, was_training = model.vision_model, model.training
    before = tower.config._attn_implementation
    try:
        model.eval()
        tower.set_attn_implementation("eager")
        yield
    finally:
        tower.set_attn_implementation(before)
        model.train(was_training)
