"""A source -> DatasetDict(image, grade, patient, side).

Images are decoded once, into a memory map in the user's cache (`store`); the data folder is only read. `filter`,
`select` and `map` of Hugging Face's datasets work as ever.
"""

from __future__ import annotations

import functools
import hashlib
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from datasets import Dataset, DatasetDict
from datasets import Image as ImageFeature
from tqdm.auto import tqdm

from kneeclip.errors import KneeError, KneeWarning
from kneeclip.films import Film, Listing, graded_twice, lacking, list_films, read_film, read_grey
from kneeclip.presets import OTHERS, PRESETS, PUBLIC
from kneeclip.store import make_row, pixels_of, stored

__all__ = ["grey_arrays", "load_knees", "read_grey", "require_split", "tune_mask"]

#: The public data set (Chen 2018, doi 10.17632/56rmx5bjcr.1): images of KL0 to KL4 in each split.
CARD = {
    "train": (2286, 1046, 1516, 757, 173),
    "validation": (328, 153, 212, 106, 27),
    "test": (639, 296, 447, 223, 51),
}
TUNE_SHARE = 0.10  # of the train patients
KAGGLE = "shashwatwork/knee-osteoarthritis-dataset-with-severity"
#: Phantoms: patients and seed of each split. Seeds from PRETRAIN_SEED on are for pretraining alone, so that no
#: bundled model has seen a phantom of the tutorial.
PHANTOM_SPLITS = {"train": (500, 101), "tune": (60, 102), "validation": (200, 103), "test": (200, 104)}
PRETRAIN_SEED = 1_000_000
DRAWING = (
    "anatomy.py",
    "contours.py",
    "exposure.py",
    "grading.py",
    "phantom.py",
    "radiograph.py",
    "sdf.py",
    "wording.py",
)


def load_knees(
    source: str | Path, *, sides: str = "both", phantom_patients: dict[str, int] | None = None
) -> DatasetDict:
    """Load knees from a folder, a zip, Kaggle, or as phantoms.

    Parameters
    ----------
    source : str or Path
        ``"phantom"``; ``"kaggle"`` (needs ``pip install kagglehub`` and a network); or a folder or zip
        in the public layout ``train|val|test/0..4/9001695L.png``, any subset of the splits.
    sides : {"both", "R", "L"}
        Which knees of *train* to keep. The other splits keep both, so that one-sided training can be judged.
    phantom_patients : dict of str to int, optional
        Phantom patients (two knees each) of a split; splits not named keep their number, 0 leaves one out.

    Returns
    -------
    datasets.DatasetDict
        Those of train, tune, validation, test that exist. A row: ``image`` (PIL, mode "L", its own size),
        ``grade`` (int, KL 0-4), ``patient`` (str), ``side`` ("L" or "R"; "" where the file name does not say).
        ``tune`` is cut out of the public train split by patient (see `tune_mask`).

    Raises
    ------
    KneeError
        If the source or one of its images can't be read, if images stand in unknown grade folders, if a
        patient stands in two splits, and if the cache can't be written. `kneeclip.auditing.audit` lists everything
        that is wrong at once.

    Notes
    -----
    ``KNEECLIP_CACHE`` moves the cache; a store is keyed by the names, sizes and times of the files, in a zip by
    their check sums: a folder that is moved keeps its store, a copy gets its own.
    Source: Chen 2018, doi 10.17632/56rmx5bjcr.1 (layout, public splits); ``tune`` is ours.
    Notebook: 01.
    """
    if sides not in ("both", "L", "R"):
        raise KneeError("there are no such sides", f"sides={sides!r}", "choose both, L or R")
    knees = _phantoms(phantom_patients or {}) if str(source) == "phantom" else _real_knees(find_source(source))
    world = PRESETS["phantom"].world if str(source) == "phantom" else _world(knees)
    for rows in knees.values():  # a run's card reads it there
        rows.info.description = world
    if sides != "both" and "train" in knees:
        of_side = np.flatnonzero(np.array(knees["train"]["side"]) == sides)
        if not len(of_side):
            remedy = "end the file names in L or R, as in 9001695L.png, or take both sides"
            raise KneeError("the names of train tell of no knee of that side", f"sides={sides!r}", remedy)
        knees["train"] = knees["train"].select(of_side)
    return Knees(knees)


class Knees(DatasetDict):
    """A DatasetDict in which ``val`` and ``validation`` name the same split."""

    def __missing__(self, name: str) -> Dataset:
        if name == "val" and "validation" in self:
            return self["validation"]
        raise KeyError(f"there is no split {name!r} among {', '.join(self) or 'none'}")

    def __contains__(self, name: object) -> bool:
        return super().__contains__("validation" if name == "val" else name)

    def get(self, name: str, default=None):
        return self[name] if name in self else default


def _of_our_kind(method: Callable) -> Callable:
    @functools.wraps(method)
    def wrapped(self, *args, **kwargs):
        return Knees(method(self, *args, **kwargs))

    return wrapped


#: What makes a plain DatasetDict, which lacks "val".
MAKERS = ("filter", "map", "sort", "shuffle", "flatten", "flatten_indices", "cast", "cast_column", "select_columns")
MAKERS += ("remove_columns", "rename_column", "rename_columns", "class_encode_column")
for _name in MAKERS:
    setattr(Knees, _name, _of_our_kind(getattr(DatasetDict, _name)))


def require_split(knees: DatasetDict, name: str) -> Dataset:
    """The split called `name` ("val" means "validation"), or a KneeError that names those that exist."""
    split = {"val": "validation"}.get(name, name)
    if split not in knees:
        raise KneeError("the data hold no such split", name, f"choose one of {', '.join(knees) or '(none)'}")
    return knees[split]


def tune_mask(patients: Iterable[str]) -> np.ndarray:
    """Which patients of the public train split belong to ``tune``: about one in ten, by a hash of the id.

    Both knees of a patient go together, and a patient's place depends on no other patient and on no seed.

    Parameters
    ----------
    patients : iterable of str
        N patient ids, one for each image.

    Returns
    -------
    numpy.ndarray
        bool (N,), True where the patient is in ``tune``.

    Notes
    -----
    Source: ours. Notebook: 01.
    """
    return hashed_share("kneeclip tune", patients, TUNE_SHARE)


def hashed_share(label: str, patients: Iterable[str], share: float) -> np.ndarray:
    """About that share of the patients, bool (N,), by a hash of label and id: a larger share holds the smaller ones."""
    digests = (hashlib.sha256(f"{label} {patient}".encode()).digest() for patient in patients)
    return np.array([int.from_bytes(d[:8], "big") < share * 2**64 for d in digests], dtype=bool)


def grey_arrays(images: Dataset | Iterable) -> list[np.ndarray]:
    """Pixels of a split, or of any iterable of PIL images: a list of uint8 (H, W), each of its own size.

    A split is read straight from the memory map, several times quicker than through PIL.
    """
    if not isinstance(images, Dataset):
        return [np.asarray(image.convert("L")) for image in images]
    raw = images.select_columns(["image"]).cast_column("image", ImageFeature(mode="L", decode=False))
    return [pixels_of(row["image"]) for row in raw]


def find_source(source: str | Path) -> Path:
    """The folder or zip that `source` means; ``"kaggle"`` is downloaded, or found where it was downloaded."""
    if not isinstance(source, (str, os.PathLike)):
        remedy = "give a folder, a zip, kaggle or phantom; a preset has one of these in preset.data"
        raise KneeError("that names no data", type(source).__name__, remedy)
    if not str(source).strip():
        remedy = "set it to the folder or zip of the data set, or to kaggle, or name one of these with --data or data="
        raise KneeError("nobody has said where the real knees are", "KNEECLIP_DATA", remedy)
    if str(source) != "kaggle":
        return Path(source)
    try:
        import kagglehub  # an optional extra
    except ImportError:
        remedy = "run pip install kagglehub"
        raise KneeError("Kaggle needs a package that is not installed", "kagglehub", remedy) from None
    try:
        return Path(kagglehub.dataset_download(KAGGLE))
    except Exception as fault:  # no network, no such data set, a login asked for: it has no error of its own
        remedy = "check the network, or download it in a browser and name the zip"
        raise KneeError("Kaggle's copy can't be downloaded", KAGGLE, remedy) from fault


def decode(listing: Listing) -> Iterator[tuple[Film, np.ndarray | KneeError]]:
    """Each film with its pixels, uint8 (H, W), or with the error that it gave. A bar shows after two seconds."""

    def one(film: Film) -> np.ndarray | KneeError:
        try:
            return read_film(listing, film)
        except KneeError as error:
            return error

    films = listing.films
    with (
        ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool,  # PIL decodes outside the GIL
        tqdm(total=len(films), desc="reading films", unit="film", delay=2, leave=False) as bar,
    ):
        for start in range(0, len(films), 128):  # in slices, as pool.map alone would hold every image at once
            part = films[start : start + 128]
            for film, pixels in zip(part, pool.map(one, part), strict=True):
                bar.update()
                yield film, pixels


def _world(knees: DatasetDict) -> str:
    """Whose real knees these are, told by their grades: nobody else's may pass for the public ones."""
    found: dict[str, np.ndarray] = {}
    for name, rows in knees.items():
        split = "train" if name == "tune" else name
        found[split] = found.get(split, 0) + np.bincount(rows["grade"], minlength=5)
    return PUBLIC if all(tuple(counts) == CARD[split] for split, counts in found.items()) else OTHERS


def _real_knees(source: Path) -> DatasetDict:
    listing = list_films(source)
    if listing.misplaced:
        remedy = "grades are the folders 0 to 4: rename or remove the rest"
        raise KneeError("images stand in no grade folder", listing.misplaced, remedy)
    splits: dict[str, set] = {}
    for film in listing.films:
        if film.side:  # as in the audit: only such a name tells the patient
            splits.setdefault(film.patient, set()).add(film.split)
    if shared := sorted(patient for patient, found in splits.items() if len(found) > 1):
        remedy = "keep all of a patient's knees in one split; kneeclip audit lists the files"
        raise KneeError("patients stand in more than one split, so every score would flatter", shared, remedy)
    _warn_of(listing)
    tune = tune_mask(film.patient for film in listing.films)

    def rows() -> Iterator[tuple[str, dict]]:
        bad = {}
        for (film, pixels), tunes in zip(decode(listing), tune, strict=True):
            if isinstance(pixels, KneeError):
                bad[film.name] = pixels
            elif not bad:
                split = "tune" if tunes and film.split == "train" else film.split
                yield split, make_row(pixels, film.grade, film.patient, film.side)
        if len(bad) > 1:
            raise KneeError("images can't be read", list(bad), "copy them again, or leave them out")
        for error in bad.values():
            raise error

    return stored("knees", [(film.name, *film.stamp) for film in listing.films], rows)


def _warn_of(listing: Listing) -> None:
    """What is no fault that stops the work, and would still make it another experiment than it seems."""
    if listing.others:
        what = KneeError("files of a split are not named as images, and left out", listing.others, "see kneeclip audit")
        warnings.warn(str(what), KneeWarning, stacklevel=4)
    if twice := graded_twice(listing.films):
        what = KneeError("one knee stands under two grades", twice, "keep it in one of the grade folders")
        warnings.warn(str(what), KneeWarning, stacklevel=4)
    if missing := lacking(listing.films):
        what = KneeError(
            "the data lack grades or a split", missing, "unpack or copy them again if they should be there"
        )
        warnings.warn(str(what), KneeWarning, stacklevel=4)


def _phantoms(patients: dict[str, int]) -> DatasetDict:
    patients = {{"val": "validation"}.get(name, name): n for name, n in patients.items()}
    for name, n in patients.items():
        if name not in PHANTOM_SPLITS or n < 0:
            remedy = f"choose among {', '.join(PHANTOM_SPLITS)}, and a number from 0"
            raise KneeError("there can't be such a phantom split", f"{name}: {n}", remedy)
    plan = {name: (patients.get(name, n), seed) for name, (n, seed) in PHANTOM_SPLITS.items()}
    if not any(n for n, _ in plan.values()):
        raise KneeError("no phantom was asked for", "phantom_patients", "leave at least one split above 0")

    def rows() -> Iterator[tuple[str, dict]]:
        from kneeclip.phantom import make_phantoms  # here, as it loads torch, and a store opens without

        for split, (n, seed) in plan.items():
            if n:
                drawn = make_phantoms(n, seed)
                labels = zip(drawn.images, drawn.grades, drawn.patients, drawn.sides, strict=True)
                yield from ((split, make_row(*label)) for label in labels)

    # a changed drawing must never be served from the cache: its source is part of the key
    return stored("phantoms", [plan, drawing()], rows)


def drawing() -> str:
    """What tells one version of the drawn knees from another: a hash of the code that draws."""
    parts = [Path(__file__).with_name(name).read_bytes() for name in DRAWING]
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).hexdigest()
