"""The anatomy of a phantom knee, and a population of them: bones, disease and exposure, drawn by chance.

Lengths are in plateau widths W (about 72 mm). Disease follows a hidden severity, from which narrowing and
osteophytes each stray, so that they disagree at times as they do in real knees.
"""

from __future__ import annotations

import dataclasses
import math
import numbers
from dataclasses import dataclass

import numpy as np
import torch

from kneeclip.errors import KneeError

SITES = ("femur_medial", "femur_lateral", "tibia_medial", "tibia_lateral")

# Severity (standard normal) -> share of the joint space lost, and size of the largest osteophyte. The knots make the
# rule give the class balance of the real train split (2286, 1046, 1516, 757, 173 knees); PAIR, the share of the
# severity that belongs to the patient, and ALIKE, the share of patients whose knees run the same course, make two
# knees of a patient agree as often as real ones (same grade 53.6 %, QWK .51).
PAIR, ALIKE, STRAY = 0.40, 0.33, 0.33
LOST = ((-3.0, 0.0), (-0.4, 0.03), (0.2, 0.10), (0.98, 0.33), (1.75, 0.67), (2.4, 0.98), (4.0, 1.1))
SPUR = ((-3.0, 0.0), (-1.0, 0.15), (-0.25, 0.5), (0.18, 1.0), (1.0, 1.7), (1.75, 2.3), (2.8, 3.0))
LATERAL = 0.22  # share of knees whose lateral compartment is the worse one [MOST, 427 of 1,959]
ATROPHIC = 0.10  # share of narrowed knees (r >= .33) without a definite osteophyte
#: What `diversified` varies, as it does not tell the grade, and the least and the most that can be drawn of it.
NUISANCES = {
    "notch_depth": (0.05, 0.30),
    "notch_width": (0.09, 0.26),
    "eminence_height": (0.04, 0.18),
    "eminence_width": (0.07, 0.24),
    "plateau_dish": (0.0, 0.06),
    "lateral_convexity": (-5.0, 7.0),
    "condyle_roundness": (0.2, 3.0),
    "rim_ellipse": (0.0, 0.11),
    "flare": (-0.10, 0.10),
    "shaft": (-0.25, 0.25),
    "taper": (-0.15, 0.15),
    "spine_sharpness": (0.0, 1.2),
    "patella": (0.0, 3.0),
    "patella_x": (-0.5, 0.4),
    "patella_y": (-1.0, 0.0),
    "fibula_y": (0.0, 0.8),
    "rotation": (-0.3, 0.3),
    "bone_density": (0.35, 1.0),
    "tissue": (0.6, 1.6),
    "tissue_density": (1.0, 5.0),
    "blur": (0.02, 3.0),
    "texture": (0.005, 0.4),
    "noise": (0.001, 0.06),
}


@dataclass(frozen=True)
class Anatomy:
    """N knees, a structure of arrays: every field is a (N,) float32 tensor.

    The defaults are an average healthy right knee, well exposed. Numbers and shorter tensors are spread over all N.
    Index with a number, a slice, a mask or a tensor of indices to get fewer knees.

    Notes
    -----
    Notebook: 01. Sizes and their sources: docs/phantoms.md. The healthy medial space, .058 W on average,
    is what the full width at half maximum gives in real images; the 4.8 to 5.7 mm of BMC Musculoskelet Disord 9:119
    would be .07 W, as readers measure down to the plateau's floor and not to the near edge of its dense line.
    """

    # Disease. The rule reads these (`kneeclip.phantom.grade`), but for the last three.
    medial_space: torch.Tensor = 0.058  # joint space now, at 0.3 W from the middle; 0 is bone on bone
    lateral_space: torch.Tensor = 0.081
    medial_normal: torch.Tensor = 0.058  # joint space before the disease
    lateral_normal: torch.Tensor = 0.081
    osteophyte_femur_medial: torch.Tensor = 0.0  # size of the beak: 1 definite, 2 moderate, 3 large
    osteophyte_femur_lateral: torch.Tensor = 0.0
    osteophyte_tibia_medial: torch.Tensor = 0.0
    osteophyte_tibia_lateral: torch.Tensor = 0.0
    sclerosis_medial: torch.Tensor = 0.0  # 0 to 3; severe from 2
    sclerosis_lateral: torch.Tensor = 0.0
    attrition: torch.Tensor = 0.0  # 0 to 1, how far the worse plateau has sunk in; deformity from 0.5
    tibial_shift: torch.Tensor = 0.0  # of the tibia to the lateral side (decoy)
    spine_sharpness: torch.Tensor = 0.3  # of the tibial spines, 0 to 1.2 (decoy)
    cyst: torch.Tensor = 0.0  # strength of a cyst under the worse plateau, 0 to 1 (decoy)
    # Bones.
    notch_depth: torch.Tensor = 0.122
    notch_width: torch.Tensor = 0.145
    eminence_height: torch.Tensor = 0.108
    eminence_width: torch.Tensor = 0.135
    plateau_dish: torch.Tensor = 0.016  # depth of the medial plateau's hollow
    lateral_convexity: torch.Tensor = 1.0
    condyle_roundness: torch.Tensor = 1.0
    rim_ellipse: torch.Tensor = 0.022  # how far below the near rim the far one shows: tilt of the beam
    flare: torch.Tensor = 0.0  # extra half-width of the condyles, of the femur's shaft and of the tibia's
    shaft: torch.Tensor = 0.0
    taper: torch.Tensor = 0.0
    irregularity: torch.Tensor = 0.35  # how far the bones' outlines stray from the average; 1 in a population
    patella: torch.Tensor = 0.55  # how plain it is
    patella_x: torch.Tensor = -0.06
    patella_y: torch.Tensor = -0.50
    fibula_y: torch.Tensor = 0.36
    fabella: torch.Tensor = 0.0  # 1 if there is one
    # Position in the image.
    plateau_width: torch.Tensor = 0.815  # W, as a share of the image's width
    centre_x: torch.Tensor = 0.485  # share of the width
    joint_height: torch.Tensor = 0.604  # share of the height
    rotation: torch.Tensor = -0.006  # radians
    # Exposure.
    brightness: torch.Tensor = 0.73  # of well-covered bone; 1 is white
    contrast: torch.Tensor = 0.18
    dome: torch.Tensor = 0.2  # glow of the thick upper part
    bone_density: torch.Tensor = 0.60
    tissue: torch.Tensor = 0.82  # half-width of the leg
    tissue_density: torch.Tensor = 2.1
    blur: torch.Tensor = 0.2  # pixels of a 112 px image
    texture: torch.Tensor = 0.045  # strength of the trabeculae
    noise: torch.Tensor = 0.0055
    artefacts: torch.Tensor = 0.0  # 1 as often as in real films, 0 never
    side: torch.Tensor = 0.0  # 0 right, 1 left (the mirror image)
    key: torch.Tensor = 0.0  # with the seed it decides texture, noise, artefacts and small irregularities

    def __post_init__(self):
        values = {name: torch.as_tensor(value, dtype=torch.float32) for name, value in vars(self).items()}
        n = max(v.numel() for v in values.values()) if all(v.numel() for v in values.values()) else 0
        for name, value in values.items():
            object.__setattr__(self, name, value if value.shape == (n,) else value.expand(n))

    def __len__(self) -> int:
        return len(self.side)

    def __getitem__(self, index) -> Anatomy:
        index = [index] if isinstance(index, int) else index
        return Anatomy(**{name: value[index] for name, value in vars(self).items()})

    def to(self, device: torch.device | str) -> Anatomy:
        """The same knees on another device: they are drawn where they lie."""
        return Anatomy(**{name: value.to(device) for name, value in vars(self).items()})


def healthy(n: int = 1, **changes) -> Anatomy:
    """`n` average healthy right knees; `changes` sets fields.

    Parameters
    ----------
    n : int
    **changes : float or (n,) tensor
        Fields of `Anatomy`: ``healthy(medial_space=0.03)`` narrows the joint, ``healthy(side=1)`` is a left knee.

    Raises
    ------
    KneeError
        For a field that the anatomy does not have.

    Notes
    -----
    Notebook: 01.
    """
    known = [field.name for field in dataclasses.fields(Anatomy)]
    unknown = [name for name in changes if name not in known]
    if unknown:
        raise KneeError("the anatomy has no such field", unknown, f"choose from {', '.join(known)}")
    return Anatomy(**{"key": torch.zeros(n), **changes})


def sample_patients(n_patients: int, seed: int, *, sides: str = "both") -> tuple[Anatomy, list[str], list[str]]:
    """A cohort: its patients share bone shape and exposure between their knees, and much of their disease.

    Parameters
    ----------
    n_patients : int
    seed : int
    sides : {"both", "R", "L"}
        Both knees of every patient, right before left, or one.

    Returns
    -------
    anatomy : Anatomy
    patients : list of str
        ``P<seed>-00012``, distinct for distinct seeds.
    sides : list of "R" and "L"

    Raises
    ------
    KneeError
        For unknown sides, and for fewer than one patient.

    Notes
    -----
    Notebook: 01. Source: medial to lateral narrowing 78 : 22 [MOST]; osteophytes larger where narrowing is worse
    [Ann Rheum Dis 61:319]; the rest is set against unlabelled images (`kneeclip.realism`) and the class balance.
    """
    if sides not in ("both", "R", "L"):
        raise KneeError("these sides are unknown", str(sides), "choose both, R or L")
    for name, value in (("n_patients", n_patients), ("seed", seed)):
        if not isinstance(value, numbers.Integral):
            raise KneeError("a cohort can't be drawn so", f"{name}={value!r}", "give a whole number")
    if n_patients < 1:
        raise KneeError("a cohort needs patients", f"n_patients={n_patients}", "give a whole number from 1")
    g = torch.Generator().manual_seed(seed)
    knees = 2 if sides == "both" else 1
    n = n_patients * knees

    def own(sd=1.0):  # differs from knee to knee
        return sd * torch.randn(n, generator=g)

    def shared(sd=1.0):  # the same for both knees of a patient
        return sd * torch.randn(n_patients, generator=g).repeat_interleave(knees)

    def own_u():
        return torch.rand(n, generator=g)

    def shared_u():
        return torch.rand(n_patients, generator=g).repeat_interleave(knees)

    alike = shared_u() < ALIKE

    def course(sd=1.0):  # of the disease: one for both knees of some patients, each knee its own in the others
        return torch.where(alike, shared(sd) + own(0.05 * sd), own(sd))

    severity = math.sqrt(PAIR) * shared() + math.sqrt(1 - PAIR) * course()
    lost = _follow(severity + course(STRAY), LOST).clamp(0, 1)
    spur = _follow(severity + course(STRAY), SPUR).clamp(0, 3)
    spur = torch.where((own_u() < ATROPHIC) & (lost >= 0.33), 0.95 * own_u(), spur)
    lateral = own_u() < LATERAL
    # One margin carries the largest beak; those of the worse compartment tend to be larger.
    worse = torch.stack([~lateral, lateral, ~lateral, lateral], 1)
    share = 0.15 + 0.6 * torch.rand(n, 4, generator=g) + 0.3 * worse * torch.rand(n, 4, generator=g)
    spurs = spur[:, None] * share / share.amax(1, keepdim=True)
    medial_normal = (0.058 + shared(0.009) + own(0.003)).clamp(0.036)
    lateral_normal = medial_normal * (1.40 + shared(0.14) + own(0.09))
    opening = 0.35 * lost * own_u()  # the other compartment opens
    sclerosis = (3.2 * (lost - 0.15) + own(0.45)).clamp(0, 3) * (lost > 0.1)
    glow = torch.sigmoid((shared_u() - 0.62) / 0.07)  # from the flat digital look to the glowing, soft film
    anatomy = Anatomy(
        medial_space=medial_normal * (1 - torch.where(lateral, -0.6 * opening, lost)),
        lateral_space=lateral_normal * (1 - torch.where(lateral, lost, -0.5 * opening)),
        medial_normal=medial_normal,
        lateral_normal=lateral_normal,
        **{f"osteophyte_{site}": spurs[:, i] for i, site in enumerate(SITES)},
        sclerosis_medial=torch.where(lateral, 0.15 * sclerosis, sclerosis),
        sclerosis_lateral=torch.where(lateral, sclerosis, 0.15 * sclerosis),
        attrition=((lost - 0.62) * 2.6 + own(0.18)).clamp(0, 1) * (lost > 0.5),
        tibial_shift=0.035 * lost * own_u() + own(0.008),
        spine_sharpness=(0.35 + 0.10 * severity + own(0.28)).clamp(0, 1.2),
        cyst=(own_u() < 0.02 + 0.15 * (lost > 0.5)).float() * own_u(),
        notch_depth=(0.122 + shared(0.022) + own(0.014)).clamp(0.06, 0.20),
        notch_width=(0.145 + shared(0.018) + own(0.012)).clamp(0.10, 0.20),
        eminence_height=(0.108 + shared(0.014) + own(0.010)).clamp(0.05, 0.14),
        eminence_width=(0.135 + shared(0.012) + own(0.008)).clamp(0.09, 0.18),
        plateau_dish=(0.016 + shared(0.006) + own(0.004)).clamp(0, 0.035),
        lateral_convexity=1 + own(0.8),
        condyle_roundness=(1 + shared(0.28) + own(0.20)).clamp(0.3, 1.9),
        rim_ellipse=(0.022 + shared(0.010) + own(0.010)).clamp(0, 0.055),
        flare=shared(0.010) + own(0.005),
        shaft=shared(0.028) + own(0.012),
        taper=shared(0.015) + own(0.008),
        irregularity=torch.ones(n),
        patella=(0.55 + shared(0.35) + own(0.2)).clamp(0, 1.5),
        patella_x=-0.06 + shared(0.03) + own(0.05),
        patella_y=-0.50 + shared(0.05) + own(0.03),
        fibula_y=0.36 + shared(0.05) + own(0.03),
        fabella=(shared_u() < 0.2).float(),
        plateau_width=(0.815 + shared(0.018) + own(0.010)).clamp(0.75, 0.88),
        centre_x=0.485 + shared(0.008) + own(0.012),
        joint_height=0.604 + shared(0.012) + own(0.024),
        rotation=-0.006 + shared(0.015) + own(0.025),
        brightness=(
            0.768 + shared(0.06) * (1 + 1.3 * (shared_u() < 0.15)) + own(0.02) + 0.15 * (shared_u() < 0.04)
        ).clamp(0.10, 0.98),
        contrast=0.20 * torch.exp(shared(0.25) + own(0.06)) * (1 + 0.35 * glow),
        dome=(0.17 + 0.9 * glow * (0.4 + shared_u()) + own(0.06)).clamp(0),
        bone_density=0.60 + shared(0.05) + own(0.03),
        tissue=(0.74 - 0.12 * glow + shared(0.08)).clamp(0.60, 1.4),
        tissue_density=2.1 + shared(0.35),
        blur=0.05 + 0.3 * shared_u() + 0.8 * glow * shared_u(),
        texture=0.046 * torch.exp(shared(0.35)) * (1 - 0.6 * glow),
        noise=0.0055 * torch.exp(shared(0.5)) * (1 - 0.6 * glow),
        artefacts=torch.ones(n),
        side=(torch.arange(n) % 2).float() if knees == 2 else torch.full((n,), float(sides == "L")),
        key=torch.randint(0, 2**24, (n,), generator=g).float(),  # below 2**24 a float32 holds every whole number
    )
    patients = [f"P{seed}-{i:05d}" for i in range(n_patients) for _ in range(knees)]
    return anatomy, patients, ["L" if left else "R" for left in anatomy.side.tolist()]


def diversified(anatomy: Anatomy, variety: float, seed: int) -> Anatomy:
    """The same disease in bones and on films that differ `variety` times as much from the cohort's average.

    Notes
    -----
    What hardly varies in drawings and does in real knees misleads a model that learns from drawings: domain
    randomisation [Tobin et al. 2017]. Nothing that `kneeclip.phantom.grade` reads is touched.
    """
    if not 1 <= variety <= 4:
        raise KneeError("such variety can't be drawn", f"variety={variety}", "give 1 (as in a population) to 4")
    changed = dict(vars(anatomy))
    for name, (least, most) in NUISANCES.items():
        average = changed[name].mean()
        changed[name] = (average + variety * (changed[name] - average)).clamp(least, most)
    g = torch.Generator().manual_seed(seed)
    changed["irregularity"] = (1 + 0.5 * (variety - 1) * (2 * torch.rand(len(anatomy), generator=g) - 1)).clamp(min=0)
    return Anatomy(**changed)


def _follow(severity: torch.Tensor, knots) -> torch.Tensor:
    at, value = zip(*knots, strict=True)
    return torch.from_numpy(np.interp(severity.numpy(), at, value).astype(np.float32))
