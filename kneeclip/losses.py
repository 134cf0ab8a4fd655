"""The losses of CLIP-KOA: tensors in, scalars out. No model is ever seen here.

For one image let z, z' (K,) be the logits of its original and its horizontally flipped view, p = softmax(z),
p' = softmax(z') and y its grade. All losses are in nats, averaged over the batch, and computed in float32 at
least: half-precision logits near their limit of 6e4 give inf or NaN otherwise.
"""

from __future__ import annotations

import math
import numbers

import torch
import torch.nn.functional as F

from kneeclip.errors import KneeError

FORMS = ("js", "kl", "mse", "bhattacharyya")


def symmetry_loss(
    logits: torch.Tensor, logits_flipped: torch.Tensor, grades: torch.Tensor, *, reduction: str = "mean"
) -> dict[str, torch.Tensor]:
    """Cross-entropy on the image and on its flip: ``L_symmetry = CE(z, y) + CE(z', y)``.

    Parameters
    ----------
    logits, logits_flipped : (N, K) tensors
        z and z' of N images.
    grades : (N,) tensor of int64
        y, between 0 and K - 1.
    reduction : {"mean", "none"}
        The mean over the batch, or one value an image.

    Returns
    -------
    dict
        ``original`` = CE(z, y), ``flipped`` = CE(z', y) and ``symmetry``, their sum; float32 (float64 for float64).

    Raises
    ------
    KneeError
        If the shapes don't fit or a grade is outside 0 … K - 1.

    Notes
    -----
    Half of it is, exactly, the loss of the flip-averaged prediction plus the Bhattacharyya distance of the views:
    ½[CE(z, y) + CE(z', y)] = CE((z + z')/2, y) − log Σ_k √(p_k p'_k).

    Source: the paper's figure (unweighted sum of the two terms). The logit scale inside z is ours.
    Notebook: 04.
    """
    z, z_flip = _checked(logits, logits_flipped, grades)
    original = F.cross_entropy(z, grades, reduction="none")  # (N,)
    flipped = F.cross_entropy(z_flip, grades, reduction="none")  # (N,)
    return _reduced({"original": original, "flipped": flipped, "symmetry": original + flipped}, reduction)


def consistency_loss(
    logits: torch.Tensor, logits_flipped: torch.Tensor, *, form: str = "js", reduction: str = "mean"
) -> torch.Tensor:
    """How far apart the two views' predictions are; 0 exactly when p = p'.

    Parameters
    ----------
    logits, logits_flipped : (N, K) tensors
        z and z' of N images. Gradients flow through both.
    form : {"js", "kl", "mse", "bhattacharyya"}
        js: ½KL(p‖m) + ½KL(p'‖m), m = (p + p')/2, at most log 2 (Jensen–Shannon divergence);
        kl: ½KL(p‖p') + ½KL(p'‖p) (half of Jeffreys' divergence);
        mse: Σ_k (p_k − p'_k)², at most 2 (squared Euclidean distance, not divided by K);
        bhattacharyya: −log Σ_k √(p_k p'_k).
    reduction : {"mean", "none"}
        The mean over the batch, or one value an image.

    Returns
    -------
    scalar tensor, or (N,) with ``reduction="none"``; float32 (float64 for float64).

    Raises
    ------
    KneeError
        If the shapes don't fit or the form is unknown.

    Notes
    -----
    Source: the paper's figure shows a term between S and S^H; its form and weight we did not see, so all four
    forms are ours. Notebook: 04.
    """
    if form not in FORMS:
        raise KneeError("there is no consistency loss of that form", form, f"choose one of {', '.join(FORMS)}")
    z, z_flip = _checked(logits, logits_flipped)
    log_p, log_q = F.log_softmax(z, dim=-1), F.log_softmax(z_flip, dim=-1)  # (N, K)
    p, q = log_p.exp(), log_q.exp()
    if form == "js":
        log_m = torch.logaddexp(log_p, log_q) - math.log(2)
        loss = 0.5 * (p * (log_p - log_m)).sum(-1) + 0.5 * (q * (log_q - log_m)).sum(-1)
    elif form == "kl":
        # ½Σ p(log p − log q) + ½Σ q(log q − log p) in one sum
        loss = 0.5 * ((p - q) * (log_p - log_q)).sum(-1)
    elif form == "mse":
        loss = (p - q).square().sum(-1)
    else:
        # √(p p') as exp(½(log p + log p')): a root's gradient at 0 is infinite, an exponential's is not
        loss = -torch.logsumexp(0.5 * (log_p + log_q), dim=-1)
    # each form is ≥ 0; rounding can leave −1e-8 where the views agree, and a clamp would stop the gradient there
    return _reduced({"consistency": loss}, reduction)["consistency"]


def clip_koa_loss(
    logits: torch.Tensor,
    logits_flipped: torch.Tensor,
    grades: torch.Tensor,
    *,
    form: str = "js",
    weight: float = 1.0,
    reduction: str = "mean",
) -> dict[str, torch.Tensor]:
    """Symmetry Loss and Consistency Loss together: ``total = symmetry + weight · consistency``.

    Parameters
    ----------
    logits, logits_flipped : (N, K) tensors
        z and z' of N images.
    grades : (N,) tensor of int64
        y, between 0 and K - 1.
    form : {"js", "kl", "mse", "bhattacharyya"}
        The form of the Consistency Loss; see `consistency_loss`.
    weight : float
        The weight of the Consistency Loss, not negative.
    reduction : {"mean", "none"}
        Means over the batch, or one value an image.

    Returns
    -------
    dict of scalar tensors
        ``original``, ``flipped``, ``symmetry``, ``consistency``, ``total``.

    Raises
    ------
    KneeError
        If shapes, grades, form or weight don't fit.

    Notes
    -----
    Source: both losses are the paper's; the form and the weight are ours (we did not see the paper's).
    Notebook: 04.
    """
    number = torch.is_tensor(weight) or isinstance(weight, numbers.Real)
    if not number or not 0 <= weight < math.inf:
        raise KneeError(
            "the weight of the Consistency Loss can't be negative, nor infinite",
            f"weight={weight!r}",
            "give a number from 0",
        )
    losses = symmetry_loss(logits, logits_flipped, grades, reduction=reduction)
    losses["consistency"] = consistency_loss(logits, logits_flipped, form=form, reduction=reduction)
    losses["total"] = losses["symmetry"] + weight * losses["consistency"]
    return losses


def _reduced(losses: dict[str, torch.Tensor], reduction: str) -> dict[str, torch.Tensor]:
    if reduction not in ("mean", "none"):
        raise KneeError("there is no reduction of that name", reduction, "choose mean or none")
    return losses if reduction == "none" else {name: loss.mean() for name, loss in losses.items()}


def _checked(z: torch.Tensor, z_flip: torch.Tensor, grades: torch.Tensor | None = None):
    """The logits of both views in float32 (float64 stays), after their shapes were checked."""
    if not torch.is_tensor(z) or not torch.is_tensor(z_flip):
        raise KneeError("the logits must be tensors", type(z).__name__, "wrap them in torch.as_tensor")
    if z.ndim != 2 or z.shape != z_flip.shape or z.shape[0] == 0:
        shapes = f"{tuple(z.shape)} and {tuple(z_flip.shape)}"
        raise KneeError("the logits of the two views must both be (N, K)", shapes, "give both views of the same images")
    if grades is not None:
        if not torch.is_tensor(grades) or grades.dtype != torch.int64:
            found = getattr(grades, "dtype", type(grades).__name__)
            raise KneeError("the grades must be a tensor of int64", found, "write torch.as_tensor(grades).long()")
        if grades.shape != z.shape[:1]:
            raise KneeError(
                "there must be one grade for each image",
                f"{tuple(grades.shape)} grades, {z.shape[0]} images",
                "give a (N,) tensor",
            )
        # a check on a GPU's values would make every step wait; cross_entropy itself catches it there
        if grades.device.type == "cpu" and (grades.min() < 0 or grades.max() >= z.shape[1]):
            bad = sorted(set(grades[(grades < 0) | (grades >= z.shape[1])].tolist()))
            raise KneeError(f"a grade lies outside 0 to {z.shape[1] - 1}", bad, "give as many prompts as grades")
    dtype = torch.promote_types(torch.promote_types(z.dtype, z_flip.dtype), torch.float32)
    return z.to(dtype), z_flip.to(dtype)
