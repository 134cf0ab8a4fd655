"""Knees whose truth is known: anatomy, the written grading rule, readers, captions, radiographs and masks.

The arrow runs from anatomy to everything else: `sample_patients` draws anatomy, `grade` reads the KL grade off it by
rule, `read` the same with a reader's habits, `captions` puts it into words, `render` draws it, `masks` says where.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from kneeclip import radiograph, wording
from kneeclip.anatomy import Anatomy, diversified, healthy, sample_patients
from kneeclip.errors import KneeError
from kneeclip.grading import READERS, Reader, grade, is_atrophic, narrowing, osteophyte, read

__all__ = ["READERS", "Anatomy", "Phantoms", "Reader", "captions", "grade", "healthy", "is_atrophic", "make_phantoms"]
__all__ += ["masks", "narrowing", "osteophyte", "read", "render", "sample_patients"]

MAX_SIZE = 2048  # pixels a side


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


def _sized(size: int) -> int:
    if size < 32:
        raise KneeError("an image this small shows no joint space", f"size={size}", "give 32 pixels or more")
    if size > MAX_SIZE:
        raise KneeError("an image this large would fill the memory", f"size={size}", f"give {MAX_SIZE} pixels or less")
    return size
