"""Knees whose truth is known: anatomy, the written grading rule, readers, captions, radiographs and masks.

The arrow runs from anatomy to everything else: `sample_patients` draws anatomy, `grade` reads the KL grade off it by
rule, `read` the same with a reader's habits, `captions` puts it into words, `render` draws it, `masks` says where.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kneeclip import radiograph, wording
from kneeclip.anatomy import SITES, Anatomy, diversified, healthy, sample_patients
from kneeclip.errors import KneeError

__all__ = ["READERS", "Anatomy", "Phantoms", "Reader", "captions", "grade", "healthy", "is_atrophic", "make_phantoms"]
__all__ += ["masks", "narrowing", "osteophyte", "read", "render", "sample_patients"]


MAX_SIZE = 2048  # pixels a side


@dataclass(frozen=True)
class Reader:
    """Somebody who grades: sees osteophytes smaller or larger than they are, and narrowing not quite as it is."""

    osteophyte_shift: float = 0.0  # added to every cut on the osteophyte's size
    narrowing_noise: float = 0.0  # standard deviation on the share of joint space lost, on a good exposure
    seed: int = 0


#: Two readers, an eager one, who soon calls an osteophyte definite, and a strict one.
READERS = (Reader(-0.14, 0.07, seed=1), Reader(0.14, 0.07, seed=2))


@dataclass(frozen=True)
class Phantoms:
    """A cohort of N phantom knees, with the truth behind it."""

    images: np.ndarray  # (N, size, size) uint8
    grades: np.ndarray  # (N,) int64, KL 0-4
    patients: np.ndarray  # (N,) str
    sides: np.ndarray  # (N,) "L" or "R"
    anatomy: Anatomy
    atrophic: np.ndarray  # (N,) bool

    def __len__(self) -> int:
        return len(self.grades)


def narrowing(anatomy: Anatomy) -> torch.Tensor:
    """r: share of the joint space lost in the worse compartment, 0 to 1; (N,). Notebook: 01."""
    left = torch.minimum(anatomy.medial_space / anatomy.medial_normal, anatomy.lateral_space / anatomy.lateral_normal)
    return (1 - left).clamp(0, 1)


def osteophyte(anatomy: Anatomy) -> torch.Tensor:
    """o: size of the largest osteophyte, 0 to 3; (N,). Notebook: 01."""
    return torch.stack([getattr(anatomy, f"osteophyte_{site}") for site in SITES]).amax(0)


def grade(anatomy: Anatomy) -> torch.Tensor:
    """The KL grade by the written rule.

    With r the share of joint space lost in the worse compartment and o the largest osteophyte (0-3):

    ====  ==================================================================================================
     4    r >= .67, o >= 2, and severe sclerosis (>= 2) or deformity (attrition >= .5); or bone on bone
          (r >= .95) with a definite osteophyte
     3    r >= .33 and o >= 1
     2    o >= 1
     1    o >= .5 or r >= .15, without a definite osteophyte
     0    otherwise
    ====  ==================================================================================================

    *Atrophic* knees (`is_atrophic`) are undefined in the KL text. The rule leaves them at 1, as nothing above 1 comes
    without a definite osteophyte: a convention, and the place where readers split.

    Parameters
    ----------
    anatomy : Anatomy

    Returns
    -------
    (N,) int64

    Notes
    -----
    Source: thirds of the joint space follow Nagaosa 2000; the other cuts are ours. Notebook: 01.
    """
    return _rule(narrowing(anatomy), osteophyte(anatomy), _is_severe(anatomy))


def is_atrophic(anatomy: Anatomy) -> torch.Tensor:
    """Narrowed by a third or more with no definite osteophyte: (N,) bool. Notebook: 01."""
    return (narrowing(anatomy) >= 0.33) & (osteophyte(anatomy) < 1)


def read(anatomy: Anatomy, reader: Reader) -> torch.Tensor:
    """The grades that `reader` gives: the rule, on osteophytes and narrowing as they see them.

    Parameters
    ----------
    anatomy : Anatomy
    reader : Reader
        The same reader reads the same knee alike every time; two readers with one seed share their slips.

    Returns
    -------
    (N,) int64

    Notes
    -----
    The shift of the osteophyte threshold is the larger source of disagreement, as in OAI; the noise on narrowing is
    up to three times as large on a blurred film. Both sizes are ours, set so that `READERS` agree as published
    readers do (63-75 % exact, QWK about .83). Notebook: 01.
    """
    noise = _slips(anatomy.key, reader.seed) * reader.narrowing_noise * (1 + 2 * anatomy.blur.clamp(0, 1))
    seen = (narrowing(anatomy) + noise).clamp(0, 1)
    return _rule(seen, osteophyte(anatomy) - reader.osteophyte_shift, _is_severe(anatomy))


def captions(anatomy: Anatomy, seed: int, *, style: str = "findings") -> list[str]:
    """A caption for every knee, in varied radiographic words.

    Parameters
    ----------
    anatomy : Anatomy
    seed : int
        Decides the wording; another seed says the same in other words.
    style : {"findings", "grade", "mixed"}
        What is seen, the grade by the rule, or one or both by chance, with a finding left out at times.

    Returns
    -------
    list of N str

    Raises
    ------
    KneeError
        For an unknown style.

    Notes
    -----
    Notebook: 02.
    """
    if style not in wording.STYLES:
        raise KneeError("this caption style is unknown", str(style), f"choose one of {', '.join(wording.STYLES)}")
    rng = np.random.default_rng(seed)
    sclerosis = torch.maximum(anatomy.sclerosis_medial, anatomy.sclerosis_lateral)
    columns = (grade(anatomy), narrowing(anatomy), osteophyte(anatomy), sclerosis, anatomy.attrition >= 0.5)
    return [
        wording.caption(rng, style, kl, lost=lost, spur=spur, sclerosis=hard, deformed=deformed)
        for kl, lost, spur, hard, deformed in zip(*(c.tolist() for c in columns), strict=True)
    ]


def render(anatomy: Anatomy, seed: int, *, size: int = 112) -> torch.Tensor:
    """Radiographs of the knees.

    Parameters
    ----------
    anatomy : Anatomy
    seed : int
        Texture, noise, artefacts and small irregularities, together with each knee's `key`: a knee looks the same
        whatever else is drawn with it.
    size : int
        Side of the square images, in pixels; at least 32.

    Returns
    -------
    (N, size, size) uint8
        Bright is dense. On a right knee the lateral side is on the image's left.

    Raises
    ------
    KneeError
        For a size below 32.

    Notes
    -----
    Bones are drawn from signed distances, anti-aliased by how much of a pixel they cover. Equal to the bit on one
    machine; across machines a grey level may differ by 1. Notebook: 01.
    """
    return radiograph.render(anatomy, seed, _sized(size))


def masks(anatomy: Anatomy, *, size: int = 112) -> dict[str, torch.Tensor]:
    """Where things are in the images that `render` draws at the same size.

    Parameters
    ----------
    anatomy : Anatomy
    size : int

    Returns
    -------
    dict of (N, size, size) bool
        ``medial_space``, ``lateral_space``: the joint space between the bones, empty where they touch;
        ``femur_medial``, ``femur_lateral``, ``tibia_medial``, ``tibia_lateral``: a disc round each margin, with its
        osteophyte or the place where one would be.

    Notes
    -----
    Notebook: 05.
    """
    return radiograph.masks(anatomy, _sized(size))


def make_phantoms(
    n_patients: int,
    seed: int,
    *,
    size: int = 112,
    sides: str = "both",
    reader: Reader | None = None,
    variety: float = 1.0,
    device: torch.device | str = "cpu",
) -> Phantoms:
    """A cohort with its images, graded by the rule or by a reader.

    Parameters
    ----------
    n_patients : int
        Two knees each, unless `sides` names one.
    seed : int
        Of the anatomy and of the drawing.
    size : int
    sides : {"both", "R", "L"}
    reader : Reader, optional
    variety : float
        How many times as much as in a population bones and films differ, 1 to 4, the disease aside.
    device : torch.device or str
        Where they are drawn; the result is on the CPU. Another device may move a grey level by 1.

    Returns
    -------
    Phantoms

    Notes
    -----
    Notebook: 01.
    """
    anatomy, patients, which = sample_patients(n_patients, seed, sides=sides)
    if variety != 1:
        anatomy = diversified(anatomy, variety, seed)
    grades = grade(anatomy) if reader is None else read(anatomy, reader)
    images = render(anatomy.to(device), seed, size=size).cpu()
    return Phantoms(
        images.numpy(), grades.numpy(), np.array(patients), np.array(which), anatomy, is_atrophic(anatomy).numpy()
    )


def cohort_statistics(knees: Phantoms) -> dict:
    """What a cohort was calibrated to: shares of the grades, likeness of a patient's knees, of two readers.

    Returns
    -------
    dict
        ``n``, ``shares`` (5), ``same_grade`` and ``pair_qwk`` of the two knees of a patient, ``reader_agreement`` and
        ``reader_qwk`` of the two READERS, ``atrophic`` among the knees with definite narrowing.

    Notes
    -----
    Notebook: 01.
    """
    from sklearn.metrics import cohen_kappa_score

    def qwk(a, b):  # of one and the same grade throughout, or of nobody, kappa is 0/0
        defined = len(np.union1d(a, b)) > 1
        return float(cohen_kappa_score(a, b, weights="quadratic", labels=range(5))) if defined else None

    pairs: dict[str, list[int]] = {}
    for patient, value in zip(knees.patients, knees.grades, strict=True):
        pairs.setdefault(str(patient), []).append(int(value))
    both = np.array([pair for pair in pairs.values() if len(pair) == 2]).reshape(-1, 2)
    first, second = (read(knees.anatomy, reader).numpy() for reader in READERS)
    narrow = narrowing(knees.anatomy).numpy() >= 0.33
    return {
        "n": len(knees),
        "shares": [float((knees.grades == k).mean()) for k in range(5)],
        "same_grade": float((both[:, 0] == both[:, 1]).mean()) if len(both) else None,
        "pair_qwk": qwk(both[:, 0], both[:, 1]),
        "reader_agreement": float((first == second).mean()),
        "reader_qwk": qwk(first, second),
        "atrophic": float(knees.atrophic[narrow].mean()) if narrow.any() else None,
    }


def _rule(r: torch.Tensor, o: torch.Tensor, severe: torch.Tensor) -> torch.Tensor:
    kl = torch.zeros_like(r, dtype=torch.int64)
    kl[(o >= 0.5) | (r >= 0.15)] = 1
    kl[o >= 1] = 2
    kl[(o >= 1) & (r >= 0.33)] = 3
    kl[((r >= 0.67) & (o >= 2) & severe) | ((r >= 0.95) & (o >= 1))] = 4
    return kl


def _is_severe(a: Anatomy) -> torch.Tensor:
    return (torch.maximum(a.sclerosis_medial, a.sclerosis_lateral) >= 2) | (a.attrition >= 0.5)


def _slips(keys: torch.Tensor, seed: int) -> torch.Tensor:
    """A standard normal number for every (key, seed), whatever else is in the batch."""
    hashed = (torch.sin(keys.double() * 12.9898 + (seed + 1) * 78.233) * 43758.5453).remainder(1.0)
    return torch.special.ndtri(hashed.clamp(1e-6, 1 - 1e-6)).float()


def _sized(size: int) -> int:
    if size < 32:
        raise KneeError("an image this small shows no joint space", f"size={size}", "give 32 pixels or more")
    if size > MAX_SIZE:
        raise KneeError("an image this large would fill the memory", f"size={size}", f"give {MAX_SIZE} pixels or less")
    return size
