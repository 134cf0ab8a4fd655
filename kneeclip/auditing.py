"""Look over a data set before learning from it: what is there, what is wrong, what is odd.

`audit` never stops at the first fault. Errors make results wrong (a patient in two splits); warnings are worth a
look (a photographic negative); notes are for the record.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from kneeclip.data import CARD, decode, find_source, grey_arrays, load_knees
from kneeclip.errors import KneeError, printable
from kneeclip.films import Film, Listing, graded_twice, list_films

#: The public data set's patients (Chen 2018, doi 10.17632/56rmx5bjcr.1).
CARD_PATIENTS = {"train": 2889, "validation": 413, "test": 828}

SMALL = 64  # px; below, a joint space of a few millimetres is a pixel or two
FLAT = 2.0  # grey levels (standard deviation); below, there is nothing to see
NEGATIVE = 0.3  # standard deviations by which the borders outshine the bone


@dataclass(frozen=True)
class Finding:
    """One kind of fault, with every file that has it."""

    kind: str
    message: str
    files: tuple[str, ...] = ()


@dataclass(frozen=True)
class AuditReport:
    """What `audit` found. ``counts[split]`` holds the images of KL0 to KL4, ``patients[split]`` the patients."""

    source: str
    counts: dict[str, tuple[int, ...]]
    patients: dict[str, int]
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    card: dict[str, tuple[int, ...]]  # the public counts that these were compared with; empty for phantoms

    @property
    def ok(self) -> bool:
        """No errors; warnings are allowed."""
        return not self.errors

    def to_dict(self) -> dict:
        """Everything as JSON can hold it, `ok` included."""
        return {"ok": self.ok, **asdict(self)}

    def text(self) -> str:
        """The report to read: a table of counts, then every finding with its first files."""
        lines = [f"Audit of {self.source}", ""]
        if self.counts:
            lines.append(f"{'':18}" + "".join(f"{f'KL{k}':>6}" for k in range(5)) + f"{'images':>8}{'patients':>10}")
        for split, row in self.counts.items():
            lines.append(_table_row(split, row, self.patients[split]))
            if split in self.card and (row, self.patients[split]) != (CARD[split], CARD_PATIENTS[split]):
                lines.append(_table_row("  data card", CARD[split], CARD_PATIENTS[split]))
        for title, findings in (("ERROR", self.errors), ("warning", self.warnings), ("note", self.notes)):
            for finding in findings:
                lines += ["", f"{title}: {finding.message}"]
                lines += [f"    {printable(name)}" for name in finding.files[:5]]
                lines += [f"    and {len(finding.files) - 5:,} more"] * (len(finding.files) > 5)
        return "\n".join([*lines, "", f"{_number(self.errors, 'error')}, {_number(self.warnings, 'warning')}"])


def audit(source: str | Path) -> AuditReport:
    """Count, compare with the data card, and look for what spoils an experiment.

    Parameters
    ----------
    source : str or Path
        As `kneeclip.load_knees` takes it.

    Returns
    -------
    AuditReport
        Errors: ``source`` (nothing to audit), ``unreadable``, ``unknown grade``, ``patient in two splits``,
        ``same pixels in two splits``, ``knee graded twice``. Warnings: ``negative``, ``missing split``,
        ``missing grade``, ``counts``, ``not square``, ``small``, ``blank``, ``name``, ``same pixels``,
        ``not an image``. Notes: ``ignored``, ``tune``.
        ``train`` is the public train split, from which `load_knees` cuts ``tune``.

    Notes
    -----
    Whatever is wrong with the data comes in the report, never as an exception.
    Source: Chen 2018, doi 10.17632/56rmx5bjcr.1, for the counts; the checks are ours. Notebook: 01.
    """
    try:
        if str(source) == "phantom":
            return _report("phantom", _phantom_films(), None)
        listing = list_films(find_source(source))
    except KneeError as error:
        return AuditReport(str(source), {}, {}, (Finding("source", str(error).rstrip(".")),), (), (), {})
    return _report(listing.source, decode(listing), listing)


def is_negative(pixels: np.ndarray) -> bool:
    """Whether a knee film looks like a photographic negative.

    Left and right of the femur, soft tissue and air are darker than bone. Where *both* borders, beside the shaft
    and above the joint, outshine the middle by 0.3 standard deviations, black and white are most likely swapped.

    Parameters
    ----------
    pixels : numpy.ndarray
        uint8 (H, W), one knee in the middle.

    Notes
    -----
    Source: ours. Of the 6,604 public train and validation images it flags 70 + 14 (1.27 %). By eye all 84 are
    negatives, and none of the 60 images next to the threshold is (nothing lies between -0.8 and +0.6). A negative
    with a black strip at one border, as collimation leaves it, is missed.
    Notebook: 01.
    """
    height, width = pixels.shape
    rows = pixels[round(0.09 * height) : round(0.40 * height)]
    edge = max(1, round(0.045 * width))
    borders = min(rows[:, :edge].mean(), rows[:, -edge:].mean())
    bone = rows[:, round(0.32 * width) : round(0.68 * width)].mean()
    return bool(borders - bone > NEGATIVE * max(float(pixels.std()), 1.0))


def doubts(pixels: np.ndarray) -> dict[str, bool]:
    """What speaks against uint8 pixels (H, W) being a single-knee film: not square, small, blank, negative."""
    blank = float(pixels.std()) < FLAT
    return {
        "not square": pixels.shape[0] != pixels.shape[1],
        "small": min(pixels.shape) < SMALL,
        "blank": blank,
        "negative": not blank and is_negative(pixels),
    }


def _report(source: str, films: Iterable[tuple[Film, np.ndarray | KneeError]], listing: Listing | None) -> AuditReport:
    errors, warnings, notes = [], [], []
    met = _look(films)
    if listing and listing.misplaced:
        errors.append(_found("unknown grade", "in no folder 0 to 4, and so without a grade", listing.misplaced))
    if met["unreadable"]:
        errors.append(_found("unreadable", "unreadable, or of an impossible size", met["unreadable"]))
    errors += _across_splits(met["all"])
    for kind, message in ODD.items():
        if met[kind]:
            warnings.append(_found(kind, message, met[kind]))
    twins = [sorted(f.name for f in same) for same in met["pixels"].values() if len(same) > 1]
    crossing = [sorted(f.name for f in same) for same in met["pixels"].values() if len({f.split for f in same}) > 1]
    if crossing:
        errors.append(_found("same pixels in two splits", "the same pixels in two splits", sum(crossing, [])))
    if within := sum((names for names in twins if names not in crossing), []):
        warnings.append(_found("same pixels", "the same pixels twice in one split", within))

    grades, people = Counter((f.split, f.grade) for f in met["all"]), defaultdict(set)
    for film in met["all"]:
        people[film.split].add(film.patient)
    order = ("train", "tune", "validation", "test")
    counts = {s: tuple(grades[s, k] for k in range(5)) for s in order if s in people}
    patients = {split: len(people[split]) for split in counts}
    if listing:
        if listing.others:
            warnings.append(_found("not an image", "not named as images, and left out", listing.others))
        for split in CARD:
            if split not in counts:
                warnings.append(Finding("missing split", f"there is no split {split}"))
            elif (counts[split], patients[split]) != (CARD[split], CARD_PATIENTS[split]):
                message = f"{split} holds other numbers of images or patients than the public data set (data card)"
                warnings.append(Finding("counts", message))
        for split, row in counts.items():
            if without := [f"KL{k}" for k, n in enumerate(row) if n == 0]:
                warnings.append(Finding("missing grade", f"{split} holds no image of {' and '.join(without)}"))
        for folder, n in sorted(listing.ignored.items()):
            notes.append(Finding("ignored", f"{folder} is no split: its images ({n:,}) are left out"))
        if "train" in counts:
            notes.append(Finding("tune", "load_knees cuts a tenth of the train patients out of train, as tune"))
    return AuditReport(source, counts, patients, tuple(errors), tuple(warnings), tuple(notes), CARD if listing else {})


#: Kinds of warning about a single image, in the order of the report.
ODD = {
    "negative": "suspected photographic negatives (both borders brighter than bone)",
    "not square": "not square, and so perhaps no single-knee crop; CLIP sees the middle only",
    "small": f"smaller than {SMALL} px",
    "blank": "blank, or nearly so",
    "name": "names that do not give patient and side, as 9001695L.png does",
}


def _look(films: Iterable[tuple[Film, np.ndarray | KneeError]]) -> dict:
    """Sort the films by what is odd about each alone."""
    met = {"all": [], "unreadable": [], "pixels": defaultdict(list), **{kind: [] for kind in ODD}}
    for film, pixels in films:
        met["all"].append(film)
        odd = {"name": not film.side, "unreadable": isinstance(pixels, KneeError)}
        if not odd["unreadable"]:
            odd |= doubts(pixels)
            digest = hashlib.sha256(repr(pixels.shape).encode() + pixels.tobytes()).digest()
            met["pixels"][digest].append(film)
        for kind in (kind for kind, is_so in odd.items() if is_so):
            met[kind].append(film.name)
    return met


def _across_splits(films: list[Film]) -> list[Finding]:
    """Patients in two splits, and knees in two grade folders: both only where the name gives patient and side."""
    of_patient = defaultdict(list)
    for film in films:
        if film.side:
            of_patient[film.patient].append(film)
    findings = []
    shared = {p: fs for p, fs in of_patient.items() if len({f.split for f in fs}) > 1}
    if shared:
        names = [f.name for fs in shared.values() for f in fs]
        who = ", ".join(sorted(shared)[:3]) + (" ..." if len(shared) > 3 else "")
        findings.append(_found("patient in two splits", f"patients in more than one split ({who})", names))
    if twice := graded_twice(films):
        findings.append(_found("knee graded twice", "one knee under two grades", twice))
    return findings


def _found(kind: str, message: str, files: Iterable[str]) -> Finding:
    files = tuple(files)
    return Finding(kind, f"{message}: {_number(files, 'file')}", files)


def _number(things: tuple, noun: str) -> str:
    return f"{len(things):,} {noun}" + "s" * (len(things) != 1)


def _phantom_films() -> Iterable[tuple[Film, np.ndarray]]:
    for split, knees in load_knees("phantom").items():
        labels = zip(knees["grade"], knees["patient"], knees["side"], grey_arrays(knees), strict=True)
        for grade, patient, side, pixels in labels:
            yield Film(f"{split}/{grade}/{patient}{side}", split, grade, patient, side, ()), pixels


def _table_row(name: str, grades: tuple[int, ...], patients: int) -> str:
    return f"{name:18}" + "".join(f"{n:6}" for n in grades) + f"{sum(grades):8}{patients:10}"
