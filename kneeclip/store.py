"""Decoded images on disk: one folder for each key, one Arrow stream for each split, memory-mapped when opened.

The images are uncompressed PGM inside `datasets.Image`: PIL reads them at the price of a copy. A store is trusted only
when complete: it is built beside its place and renamed there, so that a killed build leaves nothing to be mistaken.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, NamedSplit, Value
from datasets import Image as ImageFeature
from platformdirs import user_cache_dir

from kneeclip.errors import KneeError
from kneeclip.films import read_grey

SPLITS = ("train", "tune", "validation", "test")
FEATURES = Features(image=ImageFeature(mode="L"), grade=Value("int64"), patient=Value("string"), side=Value("string"))
_VERSION = 1  # part of every key: raise it when rows, the tune split or read_grey change


def stored(kind: str, key: object, rows: Callable[[], Iterator[tuple[str, dict]]]) -> DatasetDict:
    """Open the store of `key`, and build it first where there is none.

    Parameters
    ----------
    kind : str
        First part of the folder's name.
    key : JSON-able
        Everything that the rows depend on.
    rows : callable
        Gives an iterator of (split, row), rows as made by `make_row`.

    Raises
    ------
    KneeError
        If the cache can't be written.
    """
    digest = hashlib.sha256(json.dumps([_VERSION, key]).encode()).hexdigest()[:20]
    cache = Path(os.path.expanduser(os.environ.get("KNEECLIP_CACHE") or user_cache_dir("kneeclip")))
    folder = cache / f"{kind}-{digest}"
    try:
        if not _whole(folder):
            _sweep(cache)
            building = cache / f"building-{uuid.uuid4().hex}"
            building.mkdir(parents=True)
            try:
                _write(building, rows())
                _put(building, folder)
            finally:
                shutil.rmtree(building, ignore_errors=True)
        return _read(folder)
    except OSError as fault:
        what = f"the decoded images can't be stored: {fault.strerror or fault}"
        raise KneeError(what, cache, "make room there, or set KNEECLIP_CACHE to another folder") from fault


def _read(folder: Path) -> DatasetDict:
    files = {split: folder / f"{split}.arrow" for split in SPLITS}
    return DatasetDict(
        {s: Dataset.from_file(str(file), split=NamedSplit(s)) for s, file in files.items() if file.exists()}
    )


def make_row(pixels: np.ndarray, grade: int, patient: str, side: str) -> dict:
    """A row of the store from uint8 pixels (H, W)."""
    pgm = b"P5 %d %d\n255\n" % pixels.shape[::-1] + pixels.tobytes()
    return {
        "image": {"bytes": pgm, "path": None},
        "grade": int(grade),
        "patient": str(patient),
        "side": str(side),
    }


def pixels_of(image: dict) -> np.ndarray:
    """Undecoded image of a row, ``{"bytes", "path"}`` -> uint8 (H, W), not copied; not to be written to."""
    raw = image["bytes"]
    if raw is None or not raw.startswith(b"P5 "):  # made by the user's map, not by the store
        return np.asarray(read_grey(io.BytesIO(raw) if raw else image["path"]))
    size, _, pixels = raw[3:].split(b"\n", 2)
    width, height = map(int, size.split())
    return np.frombuffer(pixels, np.uint8).reshape(height, width)


def _write(folder: Path, rows: Iterator[tuple[str, dict]]) -> None:
    schema = FEATURES.arrow_schema
    writers, waiting = {}, {}
    with ExitStack() as stack:
        stack.enter_context(closing(rows))
        for split, row in rows:
            if split not in writers:
                file = stack.enter_context(pa.OSFile(str(folder / f"{split}.arrow"), "wb"))
                writers[split], waiting[split] = stack.enter_context(pa.ipc.new_stream(file, schema)), []
            waiting[split].append(row)
            # Batches of some 3 MB at 224 px; large films go in smaller ones, as a column holds at most 2 GiB.
            if len(waiting[split]) == 64 or len(row["image"]["bytes"]) > 2**24:
                writers[split].write_batch(pa.RecordBatch.from_pylist(waiting[split], schema=schema))
                waiting[split].clear()
        for split, left in waiting.items():
            if left:
                writers[split].write_batch(pa.RecordBatch.from_pylist(left, schema=schema))
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.arrow")}
    (folder / "whole.json").write_text(json.dumps(sizes), encoding="utf-8")  # last


def _put(building: Path, folder: Path) -> None:
    """All or nothing. When two processes build at once, the later one finds the store in place and keeps it."""
    if folder.exists() and not _whole(folder):  # damaged later on, by hand or by a disk
        shutil.rmtree(folder)
    try:
        os.replace(building, folder)
    except OSError:
        if not _whole(folder):
            raise


def _whole(folder: Path) -> bool:
    """Whether every file of a store is there in its full length, and opens."""
    try:
        sizes = json.loads((folder / "whole.json").read_text(encoding="utf-8"))
        whole = bool(sizes) and all((folder / name).stat().st_size == size for name, size in sizes.items())
        return whole and bool(_read(folder))
    except (OSError, ValueError, AttributeError):  # no object, or no stream of Arrow: damaged
        return False


def _sweep(cache: Path) -> None:
    """Remove what builds killed more than a day ago left behind."""
    for left in cache.glob("building-*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime > 86_400:
                shutil.rmtree(left, ignore_errors=True)
