"""What a study leaves on disk: study.json, and one JSON file a run, whole or not there at all."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import numpy as np

from kneeclip.checkpoints import write_atomically
from kneeclip.errors import KneeError
from kneeclip.grid import Planned, Study, matched, parse_study
from kneeclip.presets import Recipe
from kneeclip.probabilities import as_probabilities
from kneeclip.prompts import K


def run_file(out: Path, run: Planned) -> Path:
    """Where the record of a run is, or will be."""
    return Path(out) / "runs" / f"{run.name}.json"


def read_results(out: str | Path) -> tuple[Study, dict, dict[Planned, dict]]:
    """A study folder: the study, what study.json says of its images, and the records of the finished runs.

    Raises
    ------
    KneeError
        If there is no study there, or a file of it is damaged or can't be read.
    """
    path = Path(out) / "study.json"
    if not path.exists():
        raise KneeError("the folder holds no study", out, "make one with kneeclip study CONFIG --out FOLDER")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        settings, images = record["settings"], record["images"]
        if len({len(images[name]) for name in ("patient", "side", "grade", "fold")}) != 1 or not images["world"]:
            raise ValueError("columns of different lengths")
    except OSError as error:
        raise _unread(error, path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise KneeError("the study's record is damaged", path, "restore it") from error
    study = parse_study(settings)
    records = finished_runs(study, Path(out))
    sizes = Counter(images["fold"])
    for run, record in records.items():
        if len(record["p"]) != sizes[run.fold]:
            raise KneeError(*_damaged(run_file(Path(out), run)))
    return study, images, records


def finished_runs(study: Study, out: Path) -> dict[Planned, dict]:
    """The records of the runs that are whole.

    Raises
    ------
    KneeError
        If one is damaged or can't be read, or was made with other settings.
    """
    records = {}
    for run in study.runs:
        path = run_file(out, run)
        if not path.exists():
            continue
        try:
            records[run] = json.loads(path.read_text(encoding="utf-8"))
            config = records[run]["config"]
            _check(records[run])
        except OSError as error:
            raise _unread(error, path) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise KneeError(*_damaged(path)) from error
        if config != study.hash or not _same_recipe(records[run]["recipe"], matched(study.recipe, run)):
            raise KneeError("a run was made with other settings", path, "move it away, and the study makes it again")
    return records


def _same_recipe(then: dict, now: Recipe) -> bool:
    """Whether a run's recipe is today's: a default may have changed since, which the file of settings leaves open."""
    now = json.loads(json.dumps(asdict(now)))
    return all(now.get(name, value) == value for name, value in then.items())


def _unread(error: OSError, path: Path) -> KneeError:
    """A file that is whole and may not be read is no damaged one."""
    return KneeError(f"a study's file can't be read ({error.strerror or error})", path, "check who may read it")


def _damaged(path: Path) -> tuple:
    return "a run's record is damaged", path, "delete it, and the study makes it again"


def _check(record: dict) -> None:
    """ValueError, KeyError or TypeError where a report would stumble."""
    p, p_flip = (np.array(record[name], dtype=float) for name in ("p", "p_flip"))
    if p.shape != p_flip.shape or p.shape[1:] != (K,):
        raise ValueError("probabilities of two views, one row an image")
    try:
        as_probabilities(p), as_probabilities(p_flip)
    except KneeError as error:  # which would not name the file
        raise ValueError(error.what) from error
    numbers = (record["views"], record["looks"], record["training_seconds"], record["recipe"]["epochs"])
    told = {"device", "threads", "python", "torch", "transformers", "commit"}
    numbers += tuple(record["images"][name] for name in ("train", "tune", "report"))
    if not all(isinstance(value, int | float) for value in numbers) or not told <= record["environment"].keys():
        raise TypeError("numbers of a run")
    if not any("tune_accuracy" in row for row in record["history"]) or any("epoch" not in r for r in record["history"]):
        raise ValueError("a history with a look at tune")


def write_compact(path: Path, record: dict) -> None:
    """JSON with one line for each entry: small, and a changed entry is a changed line. Atomically."""
    lines = [f"{json.dumps(k)}: {json.dumps(v, separators=(',', ':'))}" for k, v in record.items()]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    write_atomically(path, lambda tmp: tmp.write_text(text, encoding="utf-8"), resumes=True)
