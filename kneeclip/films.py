"""Which films a folder or zip holds, and how one is read.

Nothing here judges a data set: `list_films` says what it met, `data` refuses faults, `auditing` collects them.
"""

from __future__ import annotations

import io
import os
import re
import stat
import threading
import zipfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps

from kneeclip.errors import KneeError

SPLIT_FOLDERS = {"train": "train", "val": "validation", "validation": "validation", "test": "test"}
GRADE_FOLDERS = ("0", "1", "2", "3", "4")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".gif", ".webp", ".pgm", ".ppm")
OTHER_ARCHIVES = (".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
SYSTEM_FILES = ("thumbs.db", "desktop.ini")
MAX_DEPTH = 6  # folders on the way to an image: <archive>/<name>/train/2, and two to spare
MAX_FILES = 100_000
MAX_ZIP_BYTES = 4 * 2**30  # unpacked; the public archives stay below 1 GiB
MAX_ZIP_RATIO = 100  # unpacked to packed, over all; PNG and JPEG hardly shrink
MIN_SIDE, MAX_SIDE, MAX_PIXELS = 16, 10_000, 80_000_000  # px
MAX_FILE_BYTES = 2**29  # of one image: more than MAX_PIXELS in 16 bits and three channels


@dataclass(frozen=True)
class Film:
    """One image file in a split's grade folder."""

    name: str  # path below the source, with "/"
    split: str  # train, validation, test
    grade: int  # 0-4
    patient: str
    side: str  # "L", "R", or "" where the name does not say
    stamp: tuple  # changes when the file does: (size, mtime, ctime) in a folder, (size, CRC) in a zip


@dataclass(frozen=True)
class Listing:
    """What `list_films` met in a source."""

    source: str
    films: tuple[Film, ...]  # by split, then by file name, so that the first rows hold every grade
    misplaced: tuple[str, ...]  # images of a split that stand in no folder 0-4
    others: tuple[str, ...]  # files of a split that are no images by their name
    ignored: dict[str, int]  # folders with images that are no split (auto_test): how many images
    read: Callable[[Film], bytes]  # the file's bytes; may be called from several threads


def list_films(source: str | Path) -> Listing:
    """List the films of a folder or zip in the public layout ``train|val|test/0..4/9001695L.png``.

    Any subset of the splits will do, folder names in any case, and the layout may lie a few folders down, as it
    often does in archives. What is no split (``auto_test``) is named and left out.

    Raises
    ------
    KneeError
        If the source is neither folder nor readable zip, holds no split, or holds the layout twice.
    """
    path = Path(os.path.expanduser(source))
    files, read = _zip_files(path) if path.is_file() else _folder_files(path)
    # Hidden files and a Mac's "__MACOSX/._9001695L.png" are no films, whatever their suffix says.
    files = {n: s for n, s in files.items() if not any(p.startswith((".", "__")) for p in n.split("/"))}
    images = {name: stamp for name, stamp in files.items() if name.lower().endswith(IMAGE_SUFFIXES)}
    found = {root for name in images if (root := _root_of(name)) is not None}
    if not found:
        what = "no split was found" if images else "no image was found"
        raise KneeError(what, path, "name the folder that holds train, val or test, with folders 0 to 4 in each")
    depth = min(len(root) for root in found)
    root, *more = sorted(root for root in found if len(root) == depth)
    if more:
        folders = ["/".join(parts) for parts in (root, *more)]
        raise KneeError("there are several data sets", folders, f"name one of these folders of {path.name}")

    films, misplaced, ignored = [], [], {}
    for name, stamp in images.items():
        parts = tuple(name.split("/"))
        split, *rest = parts[depth:] or ("",)  # an image may lie above the data set
        if parts[:depth] != root or split.lower() not in SPLIT_FOLDERS or not rest:
            folder = "/".join(parts[:-1][: depth + 1]) or "."
            ignored[folder] = ignored.get(folder, 0) + 1
        elif len(rest) != 2 or rest[0] not in GRADE_FOLDERS:
            misplaced.append(name)
        else:
            stem = PurePosixPath(name).stem.encode("utf-8", "backslashreplace").decode()  # Linux: names may be no text
            patient, side = patient_and_side(stem)
            films.append(Film(name, SPLIT_FOLDERS[split.lower()], int(rest[0]), patient, side, stamp))
    films.sort(key=lambda film: (film.split, film.name.rsplit("/", 1)[-1], film.name))
    others = sorted(
        name
        for name in files.keys() - images.keys()
        if _root_of(name) == root and name.rsplit("/", 1)[-1].lower() not in SYSTEM_FILES
    )
    return Listing(str(path), tuple(films), tuple(sorted(misplaced)), tuple(others), ignored, read)


def patient_and_side(stem: str) -> tuple[str, str]:
    """``"9001695L"`` -> ``("9001695", "L")``; a name without L or R at its end: ``(stem, "")``."""
    # A letter counts after a digit or a separator only: "normal" and "NORMAL" are no left knees.
    match = re.fullmatch(r"(.*\d)([LRlr])|(.*?[^ _-])[ _-]+([LRlr])", stem)
    if not match:
        return stem, ""
    patient, side = (group for group in match.groups() if group is not None)
    return patient, side.upper()


def graded_twice(films: Iterable[Film]) -> list[str]:
    """The files of every knee that stands under two grades, where the names give patient and side."""
    of_knee: dict[tuple[str, str], list[Film]] = {}
    for film in films:
        if film.side:
            of_knee.setdefault((film.patient, film.side), []).append(film)
    return [f.name for same in of_knee.values() if len({f.grade for f in same}) > 1 for f in same]


def lacking(films: Iterable[Film]) -> list[str]:
    """What a half-unzipped folder lacks: grades without an image in a split, and a validation split beside train."""
    grades: dict[str, set[int]] = {}
    for film in films:
        grades.setdefault(film.split, set()).add(film.grade)
    empty = {split: [f"KL{k}" for k in range(5) if k not in found] for split, found in grades.items()}
    told = [f"{split} without {' '.join(missing)}" for split, missing in empty.items() if missing]
    return told + ["no validation"] * ("train" in grades and "validation" not in grades)


def read_grey(file) -> Image.Image:
    """Read one image as 8-bit grey, the right way up.

    Colour becomes luminance, transparency black (the ground of a radiograph), an EXIF rotation is applied.
    Images deeper than 8 bits (16-bit PNG, TIFF) are stretched from their own darkest and brightest value to
    0-255, unless all their values lie there already. Of several frames the first is read.

    Parameters
    ----------
    file : str, Path or binary file

    Returns
    -------
    PIL.Image.Image
        Mode "L", its own size, 16 to 10,000 px a side and 80 million in all at most.

    Raises
    ------
    KneeError
        If the file is missing, empty, cut short, no image, or too small or large; the file is named.

    Notes
    -----
    Notebook: 01.
    """
    file = os.path.expanduser(file) if isinstance(file, (str, Path)) else file
    name = file if isinstance(file, str) else getattr(file, "name", None) or "a file object"
    try:
        if isinstance(file, str) and not stat.S_ISREG(os.stat(file).st_mode):
            raise OSError("not a regular file")  # a pipe would keep us waiting for ever
        with Image.open(file) as image:
            width, height = image.size
            if MIN_SIDE <= min(width, height) and max(width, height) <= MAX_SIDE and width * height <= MAX_PIXELS:
                image.load()  # only now: no pixel of an image too large is decoded
                return to_grey(ImageOps.exif_transpose(image))
            found = f"{width} x {height}"
    except FileNotFoundError:
        raise KneeError("there is no such image", name, "check the path") from None
    except Image.DecompressionBombError:  # PIL's own limit; it does not tell the size
        found = "far too many px"
    except Exception as fault:  # a damaged file raises anything from SyntaxError to struct.error
        dicom = str(name).lower().endswith((".dcm", ".dicom"))
        remedy = "export DICOM as PNG first, one knee an image" if dicom else "copy it again, or leave it out"
        raise KneeError("the image can't be read", name, remedy) from fault
    remedy = f"give a single knee of {MIN_SIDE} to {MAX_SIDE:,} px a side, {MAX_PIXELS:,} in all at most"
    raise KneeError("the image is too small or too large", f"{name}: {found}", remedy)


def to_grey(image: Image.Image) -> Image.Image:
    """A PIL image of any mode as 8-bit grey, by the rules of `read_grey`."""
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        values = np.nan_to_num(np.asarray(image).astype(np.float32), posinf=0, neginf=0)
        low, high = float(values.min()), float(values.max())
        if low < 0 or high > 255 or (image.mode == "F" and high <= 1):  # floats from 0 to 1 are grey levels too
            values = (values - low) * (255 / max(high - low, 1e-6))
        return Image.fromarray(values.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, (0, 0, 0, 255)), image).convert("L")
    return image.convert("L")


def _root_of(name: str) -> tuple[str, ...] | None:
    """The folders above the outermost split folder; None where the path holds none."""
    parts = name.split("/")
    for depth, part in enumerate(parts[:-1]):
        if part.lower() in SPLIT_FOLDERS:
            return tuple(parts[:depth])
    return None


def _folder_files(folder: Path) -> tuple[dict[str, tuple], Callable]:
    if not folder.is_dir():
        raise KneeError("there is no such folder or zip", folder, "check the path, or KNEECLIP_DATA")
    files: dict[str, tuple] = {}

    def walk(inside: Path, prefix: str, depth: int) -> None:
        with os.scandir(inside) as entries:  # links are followed (data are often linked in), loops end at MAX_DEPTH
            for entry in entries:
                if entry.is_dir():
                    if depth < MAX_DEPTH:
                        walk(Path(entry.path), f"{prefix}{entry.name}/", depth + 1)
                    continue
                info = entry.stat(follow_symlinks=entry.is_file())  # a dangling link is listed, and fails later
                # ctime too: it can't be copied along, so two folders of equal names, sizes and times are told apart,
                # and it outlives a move of the folder, which a path in the key would not
                files[prefix + entry.name] = (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
                if len(files) > MAX_FILES:
                    what = f"the folder holds more than {MAX_FILES:,} files"
                    raise KneeError(what, folder, "name the folder that holds train, val or test")

    try:
        walk(folder, "", 1)
    except OSError as fault:
        culprit = fault.filename or folder
        raise KneeError("the folder can't be listed", culprit, "check who may read it") from fault

    def read(film: Film) -> bytes:
        if not (path := folder / film.name).is_file():  # a pipe would keep us waiting for ever
            raise OSError("not a regular file")
        return path.read_bytes()

    return files, read


def _zip_files(path: Path) -> tuple[dict[str, tuple], Callable]:
    """Nothing is unpacked: images are read where they lie. What looks like an attack is refused all the same."""
    again = "download it again, and compare its size with the page's"
    if path.suffix.lower() in OTHER_ARCHIVES:
        again = "unpack it yourself, and name the folder"
    try:
        archive = zipfile.ZipFile(path)
        infos = [info for info in archive.infolist() if not info.filename.endswith("/")]
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError, UnicodeError) as fault:
        raise KneeError("the file is no zip, or one downloaded in part", path, again) from fault

    def demand(ok: bool, what: str, culprit: object) -> None:
        if not ok:
            raise KneeError(what, culprit, "unpack it yourself if you trust it, and name the folder")

    unpacked, packed = sum(i.file_size for i in infos), sum(i.compress_size for i in infos)
    swells = unpacked > 2**20 and unpacked > MAX_ZIP_RATIO * packed
    demand(len(infos) <= MAX_FILES, f"the zip holds more than {MAX_FILES:,} files", path)
    demand(unpacked <= MAX_ZIP_BYTES, f"the zip unpacks to more than {MAX_ZIP_BYTES / 2**30:g} GiB", path)
    demand(not swells, f"the zip unpacks to more than {MAX_ZIP_RATIO} times its size", path)
    entries = {}
    for info in infos:
        name = info.filename.replace("\\", "/")
        demand(name != "", "the zip holds a file without a name", path)
        inside = not name.startswith("/") and ":" not in name and ".." not in name.split("/")
        demand(inside, "the zip points outside itself", name)
        demand(not stat.S_ISLNK(info.external_attr >> 16), "the zip holds a link", name)
        demand(not info.flag_bits & 1, "the zip is encrypted", name)
        entries[name] = info
    lock = threading.Lock()  # one handle: reading is quick beside decoding, which the threads do at once

    def read(film: Film) -> bytes:
        with lock, archive.open(info := entries[film.name]) as member:
            return member.read(info.file_size)  # no more than it says: a zip that lies could unpack to gigabytes

    return {name: (info.file_size, info.CRC) for name, info in entries.items()}, read


def read_film(listing: Listing, film: Film) -> np.ndarray:
    """Decode one listed film -> uint8 (H, W); KneeError naming it where that fails."""
    if film.stamp and film.stamp[0] > MAX_FILE_BYTES:
        size = f"{film.name}: {film.stamp[0] / 2**20:,.0f} MiB"
        raise KneeError("the image is too large", size, f"give images of up to {MAX_FILE_BYTES >> 20} MiB")
    try:
        raw = io.BytesIO(listing.read(film))
    except Exception as fault:  # OSError, and whatever a damaged zip brings forth
        raise KneeError("the image can't be read", film.name, "copy it again, or leave it out") from fault
    raw.name = film.name
    return np.asarray(read_grey(raw))
