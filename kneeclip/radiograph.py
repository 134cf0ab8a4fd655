"""Anatomy to pixels: a frontal knee drawn from signed distances, a batch at a time.

Lengths are in plateau widths W; x runs from lateral (negative) to medial, y downwards, and the origin lies between
the tibial plateaus. A bone is the meeting of four curves: where its joint surface and its two sides run is a
function of one coordinate (cheap: a row of numbers an image), and only their distances fill the plane. Every knee
is drawn as a right one; a left one is mirrored at the end. What absorbs X-rays adds up; then comes the film.

Brightness and sizes that no paper gives were set by eye and against `kneeclip.realism`; which drawing to keep was
chosen on graded knees of `tune` (docs/phantoms.md).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from kneeclip import exposure
from kneeclip.contours import ANCHOR, BEAK, bone_side, grid, joint_curves, lateral_is_worse, level
from kneeclip.sdf import bump, cosine, cover, fade, meet, per_image, smoothstep

CHUNK = 16  # images drawn at a time: their planes stay in the processor's cache
CARD_CHUNK = 256  # the same on a GPU, which waits for its launches instead

# Lines seen through the bones: where (x, or depth under a side), lean or waviness, from and to which y, strength.
NOTCH_WALLS = ((0.13, -0.06, -0.50, -0.16, 0.22), (-0.14, 0.10, -0.40, -0.17, 0.12))
BACK_CONTOURS = (
    ("femur_medial", 0.055, -0.62, -0.14, 0.24),
    ("femur_lateral", 0.045, -0.40, -0.04, 0.28),
    ("tibia_medial", 0.035, 0.00, 0.30, 0.20),
    ("tibia_lateral", 0.040, 0.00, 0.30, 0.20),
)
# Lines that cross under the spines, where the plateaus' rims run on: from x, y to x, y, strength.
ROPES = (
    (0.30, 0.005, -0.06, 0.055, 0.17),
    (-0.30, 0.005, 0.05, 0.045, 0.14),
    (0.07, -0.11, -0.04, 0.035, 0.09),
    (-0.085, -0.09, 0.06, 0.05, 0.08),
)
# Physeal scars: y, bow, from and to which x, strength, bone.
SCARS = (
    (-0.36, -0.25, -0.43, -0.10, 0.16, "femur"),
    (-0.40, 0.0, 0.12, 0.46, 0.12, "femur"),
    (0.15, 0.10, 0.0, 0.42, 0.12, "tibia"),
)


@dataclass(frozen=True)
class Scene:
    """What every part of the drawing needs: coordinates, chance, and the bones' distances and covers."""

    x: torch.Tensor  # (N, 1, S)
    y: torch.Tensor  # (N, S, 1)
    x_femur: torch.Tensor  # (N, S, S): x in the femur's own frame, turned and shifted
    tibia: torch.Tensor  # (N, 1, S): height of the plateau
    soft: torch.Tensor  # (N, 1, 1): half-width of an edge
    u: torch.Tensor  # (N, UNIFORM)
    z: torch.Tensor  # (N, NORMAL)
    cloud: torch.Tensor  # (N, S, S)
    distance: dict[str, torch.Tensor]  # to femur, tibia, femur_joint, femur_medial, ...: (N, S, S)
    cover: dict[str, torch.Tensor]  # of femur and tibia: (N, S, S)


def render(anatomy, seed: int, size: int) -> torch.Tensor:
    """Radiographs of the knees in `anatomy`: (N, size, size) uint8. See `kneeclip.phantom.render`."""
    step = CHUNK if anatomy.side.device.type == "cpu" else CARD_CHUNK
    parts = [_draw(anatomy[i : i + step], seed, size) for i in range(0, len(anatomy), step)]
    return torch.cat(parts) if parts else torch.zeros((0, size, size), dtype=torch.uint8)


def masks(anatomy, size: int) -> dict[str, torch.Tensor]:
    """Regions of the knees in `anatomy`, each (N, size, size) bool. See `kneeclip.phantom.masks`."""
    x, y = grid(anatomy, size)
    tibia, femur = joint_curves(anatomy, x)
    between = (y < tibia) & (y > femur)
    found = {
        "medial_space": between & (x > 0.13) & (x < 0.47),
        "lateral_space": between & (x < -0.13) & (x > -0.47),
    }
    for bone, curve, aside in (("femur", femur, -0.06), ("tibia", tibia, 0.03)):
        for name, sign in (("medial", 1.0), ("lateral", -1.0)):
            beak = BEAK * per_image(getattr(anatomy, f"osteophyte_{bone}_{name}"))
            cx = sign * (0.46 + 0.5 * beak) + (per_image(anatomy.tibial_shift) if bone == "femur" else 0.0)
            cy = level(curve, x, cx) + aside
            found[f"{bone}_{name}"] = (x - cx) ** 2 + (y - cy) ** 2 < (0.08 + 0.5 * beak) ** 2
    left = per_image(anatomy.side > 0.5)
    return {name: torch.where(left, m.flip(2), m) for name, m in found.items()}


def _scene(a, seed, size) -> Scene:
    u, z = exposure.draw_chance(a.key, seed)
    pixels = per_image(a.plateau_width) * size
    x, y = grid(a, size)
    tibia, femur = joint_curves(a, x)
    turned = x + per_image(a.rotation) * y
    frames = {"femur": turned - per_image(a.tibial_shift), "tibia": turned}
    soft = (0.50 + per_image(a.blur) * size / 112) / pixels
    d = {
        "femur_joint": (y - femur) * cosine(femur, pixels, 2),
        "tibia_joint": (tibia - y) * cosine(tibia, pixels, 2),
    }
    strays = iter(z[:, :38].split([10, 10, 9, 9], 1))
    # Corners: a healthy margin is round, most of all the condyles'; a beak makes it sharp.
    rounds = {"femur_lateral": 0.13, "femur_medial": 0.12, "tibia_lateral": 0.06, "tibia_medial": 0.06}
    for bone, curve, reach in (("femur", femur, 0.40), ("tibia", tibia, 0.45)):
        d[bone] = d[f"{bone}_joint"]
        for name, sign in (("lateral", -1.0), ("medial", 1.0)):
            side = bone_side(a, y, level(curve, x, torch.tensor(sign * reach)), bone, name, next(strays))
            d[f"{bone}_{name}"] = (sign * frames[bone] - side) * cosine(side, pixels, 1)
            sharp = 0.9 if bone == "femur" else 0.4
            corner = rounds[f"{bone}_{name}"] / (1 + sharp * getattr(a, f"osteophyte_{bone}_{name}"))
            d[bone] = meet(d[bone], d[f"{bone}_{name}"], per_image(corner))
    covers = {bone: cover(d[bone], soft) for bone in frames}
    return Scene(x, y, frames["femur"], tibia, soft, u, z, exposure.clouds(z, size), d, covers)


def _draw(a, seed, size):
    s = _scene(a, seed, size)
    trabeculae, grain = exposure.textures(s.u, size)
    spongy = s.cover["femur"] * 0.85 + s.cover["tibia"]
    bones = _bones(a, s) + _plateaus(a, s) + _seen_through(a, s)
    bones = bones + per_image(a.texture) * trabeculae * spongy * (0.8 + 0.6 * s.cloud)
    # The leg is a cylinder, wider than the crop in most: it grows thin towards the corners.
    across = (s.x - 0.04 * per_image(s.z[:, 42]) + 0.035 + 0.16 * s.y) / per_image(a.tissue)
    leg = (1 - across.square()).clamp(min=0).sqrt() - 1
    dome = bump((s.x_femur - 0.04 + 0.06 * per_image(s.z[:, 43])) / 0.95) * smoothstep((0.35 - s.y) / 1.1)
    absorbed = per_image(a.tissue_density) * leg + per_image(a.dome) * dome + 0.08 * s.cloud + bones
    grey = per_image(a.brightness) + per_image(a.contrast) * (absorbed - 0.9) + per_image(a.noise) * grain
    grey = exposure.film(exposure.add_artefacts(a, grey, s.x, s.y, s.u))
    images = (grey * 255).round().clamp(0, 255).to(torch.uint8)
    return torch.where(per_image(a.side > 0.5), images.flip(2), images)


def _bones(a, s: Scene):
    """Femur and tibia: tubes, thin at the rim and thicker inwards, with a bright line of cortex."""
    d = s.distance
    femur = s.cover["femur"] * (1 - 0.74 * fade(-torch.maximum(d["femur_lateral"], d["femur_medial"]) / 0.075))
    tibia = s.cover["tibia"] * (1 - 0.74 * fade(-torch.maximum(d["tibia_lateral"], d["tibia_medial"]) / 0.085))
    roof, joint = bump((s.x + 0.01) / 0.17) * fade(-d["femur_joint"] / 0.08), fade(-d["femur_joint"] / 0.06)
    femur = femur * (1 - 0.26 * joint) * (1 - 0.25 * roof)
    eminence = bump(s.x / 0.14) * bump((s.y + 0.06) / 0.08)
    tibia = tibia * (1 - 0.16 * fade(-d["tibia_joint"] / 0.05)) * (1 - 0.12 * eminence)
    # Cortex is stronger on the shaft than round the joint, and comes and goes.
    width, wax = 0.009 + 0.6 * s.soft, (0.75 + 0.5 * s.cloud).clamp(0.1, 1.6)
    on_femur = bump((d["femur"] + 0.9 * width) / width) * (0.24 + 0.14 * smoothstep((-0.35 - s.y) / 0.25))
    on_tibia = bump((d["tibia"] + 0.9 * width) / width) * (0.22 + 0.14 * smoothstep((s.y - 0.18) / 0.2))
    # A beak has a bright skin of its own and is filled with bone, however thin the rim.
    beaks = torch.zeros_like(s.cloud)
    for bone, beside in (("femur", -0.03), ("tibia", 0.03)):
        skin = 0.12 * bump((d[bone] + 0.9 * width) / width) + 0.05 * s.cover[bone]
        for name, sign in (("medial", 1.0), ("lateral", -1.0)):
            size = per_image(getattr(a, f"osteophyte_{bone}_{name}")).clamp(max=2)
            near = bump((sign * s.x - 0.50) / 0.09) * bump((s.y - s.tibia - beside) / 0.08)
            beaks = beaks + size * near * skin
    return per_image(a.bone_density) * (femur + 0.76 * tibia) + wax * (on_femur + on_tibia) + beaks


def _plateaus(a, s: Scene):
    """The plateaus' dense lines, sclerosis that thickens them downwards, their far rims, and a cyst."""
    medial, lateral = bump((s.x - 0.29) / 0.16), bump((s.x + 0.29) / 0.15)
    # The dense line is plainest near the spines, whose flanks it climbs, and thins out towards the margin.
    inner, outer = 0.10 + 0.02 * per_image(s.z[:, 58]), 0.20 + 0.03 * per_image(s.z[:, 59])
    line = [bump((sign * s.x - 0.22) / torch.where(sign * s.x < 0.22, inner, outer)) for sign in (1, -1)]
    sclerosis = per_image(a.sclerosis_medial) * medial + per_image(a.sclerosis_lateral) * lateral
    depth = (-s.distance["tibia_joint"]).clamp(min=0)
    thick = 0.016 + 0.010 * per_image(s.u[:, 48]) + 0.005 * sclerosis
    dense = (0.15 + 0.75 * per_image(s.u[:, 49])) * line[0] + (0.10 + 0.60 * per_image(s.u[:, 50])) * line[1]
    plate = (dense + 0.11 * sclerosis) * bump((depth - 0.45 * thick) / thick) * (0.85 + 0.45 * s.cloud).clamp(0.3, 1.4)
    haze = (0.05 + 0.12 * per_image(s.u[:, 51])) * (medial + lateral) + 0.10 * sclerosis
    # The far rim: the lower half of an ellipse, seen under the near one when the beam is not level.
    ellipse, width = per_image(a.rim_ellipse), 0.010 + 0.4 * s.soft
    far_medial = s.tibia + ellipse * (1 - ((s.x - 0.30) / 0.21).square()).clamp(min=0).sqrt()
    far_lateral = s.tibia + 0.9 * ellipse * (1 - ((s.x + 0.31) / 0.20).square()).clamp(min=0).sqrt()
    rims = bump((s.y - far_medial) / width) * medial + bump((s.y - far_lateral) / width) * lateral
    worse = ANCHOR * (1 - 2 * per_image(lateral_is_worse(a).float())) + 0.08 * per_image(s.z[:, 41])
    from_cyst = ((s.x - worse).square() + (s.y - 0.075).square()).sqrt() - 0.022 - 0.012 * per_image(s.u[:, 10])
    cyst = per_image(a.cyst) * (0.14 * bump(from_cyst / 0.010) - 0.16 * cover(from_cyst, 0.01))
    ropes = torch.zeros_like(s.cloud)
    for k, (x0, y0, x1, y1, strength) in enumerate(ROPES):
        along = (s.x - x0) / (x1 - x0)
        bent = y0 + (y1 - y0) * along + 0.03 * per_image(s.z[:, 60 + k]) * along + 0.012 * s.cloud
        steep = math.hypot(1, (y1 - y0) / (x1 - x0))
        gate = smoothstep((along + 0.15) / 0.3) * smoothstep((1.15 - along) / 0.3)
        ropes = ropes + strength * per_image(0.3 + 1.2 * s.u[:, 52 + k]) * gate * bump((s.y - bent) / (steep * width))
    in_tibia = plate + ropes + haze * fade(depth / 0.07) + 0.24 * (ellipse > 0.012) * rims + cyst
    # The near rim stands a little above the floor's dense line and veils the joint's lower edge.
    veil = torch.zeros_like(s.cloud)
    for k, sign in enumerate((1.0, -1.0)):
        arch = (1 - ((sign * s.x - 0.30) / 0.22).square()).clamp(min=0).sqrt() * 0.024 * per_image(s.u[:, 60 + k])
        thin = per_image(0.15 + 0.30 * s.u[:, 62 + k]) * smoothstep(arch / 0.012)
        veil = veil + thin * cover(s.tibia - arch - s.y, s.soft) * (s.y < s.tibia + 0.02)
    between = cover(torch.maximum(s.distance["tibia_medial"], s.distance["tibia_lateral"]) + 0.01, s.soft)
    veil = per_image(a.bone_density) * veil * between * (1 - s.cover["tibia"])
    return veil + in_tibia * s.cover["tibia"] + 0.7 * haze * fade(-s.distance["femur_joint"] / 0.05) * s.cover["femur"]


def _seen_through(a, s: Scene):
    """What lies in, before and behind the bones: walls of the notch, scars, patella, fibula, fabella."""
    x, y, cloud, z, u = s.x, s.y, s.cloud, s.z, s.u
    width = 0.009 + 0.5 * s.soft
    out = torch.zeros_like(cloud)
    for k, (at, lean, top, low, strength) in enumerate(NOTCH_WALLS):
        gate = smoothstep((y - top) / 0.12) * smoothstep((low - y) / 0.08) * per_image(0.4 + u[:, 11 + k])
        wall = at + 0.02 * per_image(z[:, 44 + k]) + lean * (y + 0.3)
        out = out + strength * gate * bump((s.x_femur - wall) / width)
    for k, (side, inset, top, low, strength) in enumerate(BACK_CONTOURS):
        gate = smoothstep((y - top) / 0.12) * smoothstep((low - y) / 0.08) * per_image(u[:, 56 + k])
        inside = s.distance[side] + inset + 0.012 * per_image(z[:, 64 + k]) + 0.02 * cloud
        out = out + strength * gate * bump(inside / width) * s.cover[side.split("_")[0]]
    for k, (at, bow, start, end, strength, bone) in enumerate(SCARS):
        gate = smoothstep((x - start) / 0.1) * smoothstep((end - x) / 0.1) * per_image(0.2 + u[:, 13 + k])
        scar = at + 0.03 * per_image(z[:, 46 + k]) + 0.12 * per_image(z[:, 49 + k]) * x + bow * (x.abs() - 0.3) ** 2
        out = out + strength * gate * bump((y - scar + 0.018 * cloud) / (1.2 * width)) * s.cover[bone]
    # Patella: a faint disc that narrows to its apex.
    r = 0.235 + 0.02 * per_image(z[:, 52])
    across, down = (s.x_femur - per_image(a.patella_x)) / (1.12 * r), (y - per_image(a.patella_y)) / r
    across = across * (1 + 0.30 * (down + 0.3).clamp(min=0))
    d = ((across.square() + down.square()).sqrt() - 1) * r + 0.02 * cloud
    disc = 0.16 * cover(d, 0.035 + 0.05 * per_image(u[:, 16])) + 0.05 * bump((d + width) / (1.5 * width))
    out = out + per_image(a.patella) * disc
    # Fibular head: behind the tibia, low on the lateral side, drawn out downwards.
    down = y - per_image(a.fibula_y)
    down = torch.where(down > 0, 0.45 * down, down)
    across = x + 0.50 + 0.03 * per_image(z[:, 53]) + 0.12 * down
    d = (across.square() + (1.05 * down).square()).sqrt() - 0.125 - 0.012 * per_image(z[:, 54]) + 0.02 * cloud
    out = out + 0.28 * cover(d, 2 * s.soft) * (1 - 0.6 * s.cover["tibia"])
    out = out + 0.16 * bump((d + width) / width) * (0.6 + 0.8 * cloud).clamp(min=0)
    d = (((x + 0.30) / 1.3).square() + (y + 0.24 + 0.02 * per_image(z[:, 55])).square()).sqrt() - 0.028
    return out + 0.22 * per_image(a.fabella) * cover(d, 0.015)
