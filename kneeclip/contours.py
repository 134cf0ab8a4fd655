"""Where the bones of a drawn knee end: every joint surface and every side as a function of one coordinate.

Lengths are in plateau widths W; x runs from lateral (negative) to medial, y downwards, and the origin lies between
the tibial plateaus. Every knee is a right one here.
"""

from __future__ import annotations

import torch

from kneeclip.sdf import bump, per_image, smoothstep, spline

ANCHOR = 0.30  # the joint space is what the anatomy says it is at x = -ANCHOR (lateral) and +ANCHOR (medial)
BEAK = 0.026  # length of an osteophyte of grade 1; grade 3 is three times as long

# Sides of the bones: distance from the midline at heights counted from the joint surface.
FEMUR_Y = (-1.0, -0.75, -0.60, -0.48, -0.38, -0.28, -0.18, -0.09, 0.0, 0.10)
FEMUR = {
    "lateral": (0.340, 0.385, 0.440, 0.488, 0.507, 0.500, 0.480, 0.478, 0.470, 0.430),
    "medial": (0.310, 0.385, 0.485, 0.556, 0.580, 0.566, 0.532, 0.506, 0.480, 0.440),
}
TIBIA_Y = (-0.10, 0.0, 0.07, 0.15, 0.24, 0.33, 0.42, 0.55, 0.80)
TIBIA = {
    "lateral": (0.478, 0.491, 0.497, 0.492, 0.470, 0.420, 0.350, 0.275, 0.210),
    "medial": (0.480, 0.494, 0.492, 0.482, 0.465, 0.434, 0.386, 0.318, 0.260),
}


def grid(a, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Coordinates of the pixels' centres in W: x (N, 1, S) and y (N, S, 1)."""
    at = (torch.arange(size, dtype=torch.float32, device=a.side.device) + 0.5) / size
    x = (at.view(1, 1, -1) - per_image(a.centre_x)) / per_image(a.plateau_width)
    y = (at.view(1, -1, 1) - per_image(a.joint_height)) / per_image(a.plateau_width) - 0.03
    return x, y


def joint_curves(a, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Heights of the tibial plateau and of the femoral condyles at `x`, both (N, 1, M) in W."""
    tibia = _plateau(a, x)
    anchors = torch.tensor([-ANCHOR, ANCHOR], device=x.device).expand(len(a), 1, 2)
    # The femur is a rigid body: lowered and tilted until both spaces are what the anatomy says.
    spaces = torch.stack([a.lateral_space, a.medial_space], -1).unsqueeze(1)
    offset = _plateau(a, anchors) - spaces - _condyles(a, anchors)
    tilt = (offset[..., 1:] - offset[..., :1]) / (2 * ANCHOR)
    femur = _condyles(a, x) + offset.mean(-1, keepdim=True) + tilt * x
    return tibia, torch.minimum(femur, tibia + 0.010)  # bones overlap a little in projection, not more


def lateral_is_worse(a) -> torch.Tensor:
    """Whether the lateral compartment has lost the larger share of its space: (N,) bool."""
    return a.lateral_space / a.lateral_normal < a.medial_space / a.medial_normal


def _plateau(a, x):
    """Upper border of the tibia: a concave medial and a flat lateral plateau, the eminence with its two spines."""
    dish, sharp = per_image(a.plateau_dish), per_image(a.spine_sharpness)
    medial = smoothstep((x + 0.10) / 0.20)
    y = -dish * medial * ((x - 0.30) / 0.2).square().clamp(max=1.2)
    convex = 0.3 * dish * per_image(a.lateral_convexity)
    y = y + convex * (1 - medial) * ((x + 0.30) / 0.2).square().clamp(max=1.2)
    # The eminence is a tent with hollow flanks, and its two spines stand on it with a dip between them.
    reach = ((x - 0.010).abs() / (2.4 * per_image(a.eminence_width))).clamp(max=1)
    y = y - 0.92 * per_image(a.eminence_height) * (1 - reach).pow(1.25)
    for at, height in ((0.075, 1.0), (-0.075, 0.75)):
        y = y - height * (0.016 + 0.030 * sharp) * (1 - (x - at).abs() / (0.06 - 0.012 * sharp)).clamp(min=0).pow(1.3)
    y = y + (0.022 + 0.010 * sharp) * bump(x / 0.045)
    worse = 1.15 * ANCHOR * (1 - 2 * per_image(lateral_is_worse(a).float()))
    y = y + 0.017 * per_image(a.attrition) * torch.exp(-((x - worse) / 0.17).square())
    # A growing beak turns upward, hardly so on the lateral tibia.
    lift_medial = 0.0020 * per_image(a.osteophyte_tibia_medial)
    lift_lateral = 0.0012 * per_image(a.osteophyte_tibia_lateral)
    y = y - lift_medial * ((x - 0.43) / 0.07).clamp(0, 1.6).square()
    y = y - lift_lateral * ((-x - 0.44) / 0.07).clamp(0, 1.6).square()
    return y + per_image(a.rotation) * x


def _condyles(a, x):
    """Lower border of the femur before it is lowered onto the tibia: two condyles and the gull-wing notch."""
    x = x - per_image(a.tibial_shift)
    rounded = per_image(a.condyle_roundness)
    y = -0.017 * rounded * ((x - 0.335) / 0.17).square().clamp(max=1.5) * smoothstep((x + 0.10) / 0.20)
    y = y - 0.022 * rounded * ((x + 0.30) / 0.19).square().clamp(max=1.5) * smoothstep((0.10 - x) / 0.20)
    from_notch = ((x - 0.010) / per_image(a.notch_width)).abs()
    y = y - per_image(a.notch_depth) * torch.exp(-from_notch.pow(2.3))
    # A large beak hangs down over the joint.
    for sign, size in ((1.0, a.osteophyte_femur_medial), (-1.0, a.osteophyte_femur_lateral)):
        y = y + 0.0075 * per_image(size) * ((sign * x - 0.41) / 0.06).clamp(0, 1.8)
    return y


def bone_side(a, y, level, bone, name, stray):
    """Distance of one side of a bone from the midline at heights y (N, S, 1), with its osteophyte."""
    femur = bone == "femur"
    knots, outline = (FEMUR_Y, FEMUR) if femur else (TIBIA_Y, TIBIA)
    h = y - level
    values = torch.tensor(outline[name], device=y.device) + 0.009 * a.irregularity[:, None] * stray
    side = spline(h, knots, values)
    if femur:
        side = side + per_image(a.flare) * smoothstep((0.1 - h) / 0.3)
        side = side + per_image(a.shaft) * smoothstep((-0.40 - h) / 0.25)
    else:
        side = side + per_image(a.taper) * smoothstep((h - 0.10) / 0.3)
    # A beak, not a bead: it springs from the margin and runs out into the cortex, the longer the larger it is.
    size = per_image(getattr(a, f"osteophyte_{bone}_{name}"))
    away, root = ((-h - 0.012) if femur else (h - 0.022)).clamp(min=0), 0.024 + 0.010 * size
    side = side + BEAK * size * torch.exp(-(away / root).pow(1.4))
    if femur:  # the hollow above the beak
        side = side - 0.25 * BEAK * size * torch.exp(-((away - 2.2 * root) / (0.8 * root)).square())
    return side


def level(curve, x, at):
    """Height of a curve (N, 1, S) at the column nearest to `at`: (N, 1, 1)."""
    return curve.gather(2, (x - at).abs().argmin(2, keepdim=True))
