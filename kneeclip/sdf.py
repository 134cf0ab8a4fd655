"""Signed distances and what is drawn from them: edges, lines, rounded corners.

A distance is negative inside a shape. Values that belong to an image are (N,), columns (N, 1, S), rows (N, S, 1),
planes (N, S, S); `per_image` turns the first into something that broadcasts against the others.
"""

from __future__ import annotations

import torch


def per_image(values: torch.Tensor) -> torch.Tensor:
    """(N,) to (N, 1, 1)."""
    return values.view(-1, 1, 1)


def smoothstep(t: torch.Tensor) -> torch.Tensor:
    """0 below 0, 1 above 1, smooth between."""
    t = t.clamp(0, 1)
    return t * t * (3 - 2 * t)


def bump(t: torch.Tensor) -> torch.Tensor:
    """About exp(-t²), exactly 0 beyond ``|t| = 2``, and twenty times as quick: exp is what drawing waits for."""
    return (1 - 0.25 * t * t).clamp(min=0).square().square()


def fade(t: torch.Tensor) -> torch.Tensor:
    """About exp(-t) for t > 0, exactly 0 beyond t = 4, and 1 for t < 0."""
    return (1 - 0.25 * t).clamp(0, 1).square().square()


def cover(distance: torch.Tensor, soft) -> torch.Tensor:
    """Share of a pixel that a shape covers; the edge is ``2 * soft`` broad."""
    return smoothstep(0.5 - distance / (2 * soft))


def meet(p: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """Distance of the part that two shapes share, its corner rounded over `k`.

    Source: the polynomial smooth maximum of Inigo Quilez, https://iquilezles.org/articles/smin/.
    """
    h = (1 - (p - q).abs() / k).clamp(min=0)
    return torch.maximum(p, q) + 0.25 * k * h * h


def cosine(curve: torch.Tensor, pixels: torch.Tensor, dim: int) -> torch.Tensor:
    """What turns the distance to a curve along an axis into the distance along the curve's normal.

    `curve` holds a value a pixel along `dim`, in a unit of `pixels` pixels. Steep parts are held at a slope of 2.5.
    """
    slope = torch.gradient(curve, dim=dim)[0] * pixels
    return torch.rsqrt(1 + slope.clamp(-2.5, 2.5).square())


def spline(at: torch.Tensor, knots: tuple[float, ...], values: torch.Tensor) -> torch.Tensor:
    """Catmull-Rom curve through (knots (K,), values (N, K)) at the heights `at` (N, S, 1); flat beyond the ends."""
    knots = torch.tensor(knots, device=at.device)
    k = (torch.searchsorted(knots, at.contiguous().view(-1)) - 1).clamp(0, len(knots) - 2).view(at.shape[0], -1)
    t = ((at.squeeze(2) - knots[k]) / (knots[k + 1] - knots[k])).clamp(0, 1)
    before, left = values.gather(1, (k - 1).clamp(min=0)), values.gather(1, k)
    right, after = values.gather(1, k + 1), values.gather(1, (k + 2).clamp(max=len(knots) - 1))
    cubic = 2 * before - 5 * left + 4 * right - after + t * (3 * (left - right) + after - before)
    return (left + 0.5 * t * (right - before + t * cubic)).unsqueeze(2)
