"""A grid of runs, one JSON file each: resumable, never done twice, by as many processes as you start.

The runs' files are all that a report needs. What a killed run had reached lies beside, out of git's sight.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
from datasets import concatenate_datasets
from filelock import FileLock, Timeout
from sklearn.model_selection import StratifiedGroupKFold

from kneeclip import processes
from kneeclip.cards import environment
from kneeclip.checkpoints import fingerprint, write_atomically
from kneeclip.data import grey_arrays, hashed_share, load_knees, require_split, tune_mask
from kneeclip.errors import Diverged, KneeError
from kneeclip.films import SYSTEM_FILES
from kneeclip.grid import Planned, Study, matched, read_study
from kneeclip.ledger import finished_runs, run_file, write_compact
from kneeclip.model import load_clip, predict, preprocess
from kneeclip.presets import get_preset
from kneeclip.training import train

FOLD_SEED = 0  # of the shuffling before patients are dealt into folds
DECIMALS = 5  # of the probabilities on disk


def run_study(
    config: str | Path,
    out: str | Path,
    *,
    data: str | None = None,
    work: str | Path | None = None,
    only: str | None = None,
    limit: int | None = None,
    say: Callable[[str], None] = print,
) -> int:
    """Make the runs of a study that are not there yet.

    Parameters
    ----------
    config : path of a YAML file, see `kneeclip.grid.read_study`
    out : folder
        Gets ``study.json`` (settings, images, folds) and ``runs/NAME.json``. One with another study is refused.
    data : str, optional
        Where real images are; without it ``KNEECLIP_DATA`` says so.
    work : folder, optional
        For checkpoints of unfinished runs; ``.unfinished`` in `out` by default. Processes that share a study share
        this too.
    only : str, optional
        Make only runs whose name matches this pattern, as in a shell: ``fold0-*``.
    limit : int, optional
        Make no more than so many runs.
    say : callable
        Gets a line when the study begins, after each run, and when no run is left to make.

    Returns
    -------
    int
        How many runs this call made.

    Raises
    ------
    KneeError
        For settings, data or a folder that don't fit, and as `kneeclip.training.train`. A run that diverges keeps
        none of the others from being made: it is said at once, and raised when nothing else is left to do.

    Notes
    -----
    Each run is claimed by a lock that the system lifts when its process ends, however it ends.
    Source: ours. Notebook: 05.
    """
    if processes.world() > 1:  # its processes would add up the gradients of different runs
        remedy = "start the same command in several shells: each takes the runs that are free"
        raise KneeError("a study is no launch of several processes", f"{processes.world()} processes", remedy)
    study, out = read_study(config), Path(os.path.expanduser(out))
    mine = work is None
    work = Path(os.path.expanduser(out / ".unfinished" if mine else work)) / f"{out.resolve().name}-{study.hash}"
    _own_folder(out, work)
    wanted = [run for run in study.runs if fnmatch.fnmatch(run.name, only or "*")]
    if not wanted:
        raise KneeError("no run's name matches", only, f"they look like {study.runs[0].name}")
    images = Images(study, data)
    images.require(wanted)
    (out / "runs").mkdir(parents=True, exist_ok=True)
    if mine:  # `results/` is for git, and checkpoints are not
        write_atomically(work.parent / ".gitignore", lambda tmp: tmp.write_text("*\n", encoding="utf-8"))
    with FileLock(out / ".study.lock"):
        _open(study, images, out)
    done = finished_runs(study, out)
    say(f"{len(study.runs)} runs, {len(done)} of them finished; unfinished ones lie in {work}.")
    made, diverged = 0, []
    while True:
        todo = [run for run in wanted if run.name not in diverged and not run_file(out, run).exists()]
        before, busy = made, 0
        for run in todo:
            if limit is not None and made >= limit:
                return _ended(made, diverged)
            # beside the record, which processes share whatever their --work
            lock = FileLock(run_file(out, run).with_name(f".{run.name}.lock"), timeout=0)
            try:
                claim = lock.acquire()
            except Timeout:
                busy += 1
                continue
            with claim:  # `with lock` would acquire it once more, and an error's traceback keep it
                try:  # another process may have finished it since we looked
                    record = None if run_file(out, run).exists() else _make(study, run, images, out, work / run.name)
                except Diverged as error:
                    record = None
                    diverged.append(run.name)
                    say(f"{error} The other runs go on.")
                finally:
                    with suppress(OSError):  # while it is held, so that nobody takes what is on its way out
                        Path(lock.lock_file).unlink()
            if record:
                made += 1
                say(_progress(study, out, run, record, images))
        if made == before:  # nothing is left that nobody else is at
            missing = busy + len(diverged)
            say(f"Done here: {len(wanted) - missing} of {len(wanted)} runs are finished" + _others(busy) + ".")
            return _ended(made, diverged)


class Images:
    """The pixels of a study, decoded once, and who is trained on, chosen by and reported on in each fold."""

    def __init__(self, study: Study, data: str | None):
        self.study = study
        if study.data == "phantom":
            if data not in (None, "phantom"):
                raise KneeError("the study is of phantoms, and data are named", data, "leave --data away")
            knees = load_knees("phantom", phantom_patients={**study.phantom_patients, "test": 0})
        else:
            knees = load_knees(get_preset("knees", data=data).data)
        splits = {name: require_split(knees, name) for name in ("train", "tune", "validation")}
        self.world = splits["train"].info.description
        rows = concatenate_datasets(list(splits.values()))  # and never the test split
        self.split = np.repeat(list(splits), [len(rows) for rows in splits.values()])
        self.pixels, self.grade = grey_arrays(rows), np.array(rows["grade"])
        self.patient, self.side = np.array(rows["patient"]), np.array(rows["side"])
        if study.folds is None:
            self.fold = np.where(self.split == "validation", 0, -1)
        else:
            cut = StratifiedGroupKFold(study.folds, shuffle=True, random_state=FOLD_SEED)
            self.fold, most = np.full(len(self.grade), -1), np.bincount(self.grade).max()
            if (few := min(most, len(set(self.patient)))) < study.folds:  # some of them would be empty
                culprit = f"folds: {study.folds}, {len(self.grade)} images"
                remedy = f"give {few} folds or fewer" if few > 1 else "leave folds away"
                raise KneeError("these are too few knees for so many folds", culprit, remedy)
            for i, (_, held_out) in enumerate(cut.split(self.grade, self.grade, self.patient)):
                self.fold[held_out] = i

    def parts(self, run: Planned) -> dict[str, np.ndarray]:
        """Rows of ``train``, ``tune`` and ``report``, without a patient in common.

        In folds, a tenth of the training patients by a hash of their ids is `tune`. A one-sided cohort has one side
        in both, a share of the patients is taken from train alone; the report's rows are all of the fold's.
        """
        report = self.fold == run.fold
        if self.study.folds is None:
            train, tune = self.split == "train", self.split == "tune"
        else:
            tunes = tune_mask(self.patient)
            train, tune = ~report & ~tunes, ~report & tunes
        v = run.variant
        if v.sides != "both":
            train, tune = train & (self.side == v.sides), tune & (self.side == v.sides)
        if v.share < 100:
            train = train & hashed_share(f"kneeclip share {run.seed}", self.patient, v.share / 100)
        return {name: np.flatnonzero(rows) for name, rows in (("train", train), ("tune", tune), ("report", report))}

    def require(self, runs: Iterable[Planned]) -> None:
        """Refuse, before the first run, a grid that leaves one of them, or the report, without a knee."""
        asked = self.study.question.side
        remedy = "end the file names in L or R, or ask for both sides and larger shares"
        if asked != "both" and not (self.side[self.fold >= 0] == asked).any():
            raise KneeError("no knee that is reported on has the question's side", f"side: {asked}", remedy)
        for run in runs:
            if empty := [name for name, rows in self.parts(run).items() if not len(rows)]:
                raise KneeError(f"{run.name} would have no knee in {' and '.join(empty)}", run.variant.sides, remedy)

    def columns(self, rows: np.ndarray, processor) -> dict:
        return {
            "image": preprocess(processor, [self.pixels[i] for i in rows]),
            "grade": self.grade[rows],
            "patient": self.patient[rows].tolist(),
            "side": self.side[rows].tolist(),
        }

    def listed(self) -> dict:
        """Who is reported on, in the order of the runs' probabilities, and a hash of all the images."""
        digest = hashlib.sha256()
        for i, pixels in enumerate(self.pixels):
            digest.update(f"{self.patient[i]}{self.side[i]}{self.grade[i]}{self.split[i]}".encode())
            digest.update(pixels.tobytes())
        told = np.flatnonzero(self.fold >= 0)
        columns = {name: getattr(self, name)[told].tolist() for name in ("patient", "side", "grade", "fold")}
        return {"world": self.world, "digest": digest.hexdigest()[:16], **columns}


def _own_folder(out: Path, work: Path) -> None:
    """Refuse a folder of somebody else's files: a study's own holds its plan, its settings and its code to begin with.

    Said before the images are decoded.
    """
    if not out.is_dir() or (out / "study.json").exists():
        return
    plain = (".md", ".py", ".yaml", ".yml", ".txt", ".sh")
    ours = {work.resolve(), *work.resolve().parents}  # of a call that was killed before it had its images
    theirs = [
        path.name
        for path in sorted(out.iterdir())
        if path.suffix.lower() not in plain
        and path.name.lower() not in ("runs", "license", *SYSTEM_FILES)
        and not path.name.startswith((".", "__"))
        and path.resolve() not in ours
    ]
    if theirs:
        remedy = "name a folder that is empty or not there yet with --out, or put CONFIG into a folder of its own"
        raise KneeError(f"the folder {out} holds other files, and a study writes many of its own", theirs, remedy)


def _open(study: Study, images: Images, out: Path) -> None:
    """Write study.json, or check that the one that is there is this study's."""
    path = out / "study.json"
    weights = fingerprint(study.model, load_clip(study.model)[0].state_dict())[:16]
    now = {"config": study.hash, "settings": study.settings, "base": weights, "images": images.listed()}
    if not path.exists():
        write_compact(path, now)
        return
    try:
        then = json.loads(path.read_text(encoding="utf-8"))
        same, alike = then["config"] == now["config"], all(then[name] == now[name] for name in ("base", "images"))
    except (ValueError, KeyError, TypeError) as error:
        raise KneeError("the study's record is damaged", path, "restore it, or choose another --out") from error
    if not same:
        raise KneeError("the folder holds a study of other settings", out, "choose another --out for changed settings")
    if not alike:
        remedy = "choose another --out"
        raise KneeError("the images or the base model are not those that the study began with", out, remedy)


def _make(study: Study, run: Planned, images: Images, out: Path, folder: Path) -> dict:
    start, cpu = time.perf_counter(), time.process_time()
    v, recipe = run.variant, matched(study.recipe, run)
    model, processor = load_clip(study.model, fresh_seed=run.seed if v.start == "fresh" else None)
    parts = images.parts(run)
    knees = {name: images.columns(rows, processor) for name, rows in parts.items()}
    try:
        fit = train(model, processor, knees, v.prompts, recipe, out=folder, progress=False)
    except KneeError as error:  # of which of many runs
        raise type(error)(f"{run.name}: {error.what}", error.culprits, error.remedy) from error
    report = knees["report"]
    mirror = [side == "L" for side in report["side"]] if recipe.arm == "canonical" else None
    p, p_flip = predict(fit.model, processor, report["image"], v.prompts, mirror=mirror)
    trained = len(parts["train"]) * recipe.views * recipe.epochs
    record = {
        "config": study.hash,
        "run": run.name,
        "variant": dataclasses.asdict(v),
        "fold": run.fold,
        "seed": run.seed,
        "recipe": dataclasses.asdict(recipe),
        "images": {name: len(rows) for name, rows in parts.items()},
        "views": trained,
        "looks": sum(any(name.startswith("tune_") for name in row) for row in fit.history),
        "best_epoch": fit.best_epoch,
        "temperature": fit.temperature,
        "resumed_at": fit.resumed_at,
        "wall_seconds": round(time.perf_counter() - start, 1),  # of this call; `training_seconds` is of all
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "training_seconds": round(sum(row["seconds"] for row in fit.history), 1),
        "environment": environment(fit.model.device),
        "history": fit.history,
        "p": np.round(p, DECIMALS).tolist(),
        "p_flip": np.round(p_flip, DECIMALS).tolist(),
    }
    write_compact(run_file(out, run), record)
    shutil.rmtree(folder, ignore_errors=True)  # the weights; only now is the run safe without them
    return record


def _ended(made: int, diverged: list[str]) -> int:
    if diverged:
        remedy = "make a study without these settings, or with a lower learning rate; the other runs are kept"
        raise Diverged("the study lacks runs whose numbers are no longer finite", diverged, remedy)
    return made


def _progress(study: Study, out: Path, run: Planned, record: dict, images: Images) -> str:
    grade = images.grade[images.fold == run.fold]
    right = (np.array(record["p"]).argmax(1) == grade).mean()
    done = [r for r in study.runs if run_file(out, r).exists()]
    each = record["training_seconds"]
    left = each * (len(study.runs) - len(done)) / 60
    return (
        f"[{len(done)}/{len(study.runs)}] {run.name}: accuracy {right:.3f}, {each:.0f} s of training; "
        f"about {left:.0f} min left for one process"
    )


def _others(busy: int) -> str:
    return f", another process is at {busy}" if busy else ""
