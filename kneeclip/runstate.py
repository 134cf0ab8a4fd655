"""Where a run stands, in memory and on disk: what a killed one goes on from, and what keeps two out of one folder."""

from __future__ import annotations

import math
import os
from contextlib import suppress
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from kneeclip.checkpoints import (
    DAMAGED,
    learnt,
    load_learnt,
    load_optimizer,
    load_state,
    optimizer_tensors,
    read_json,
    require_folder,
    require_state,
    save_state,
    sweep,
)
from kneeclip.errors import Diverged, KneeError


class RunState:
    """Where a run stands, in memory and, with a folder, on disk: there it keeps every other process out while open."""

    def __init__(self, folder: str | Path | None, select: str, accelerator):
        self.step, self.history, self.steps = 0, [], []
        self.resumed_at, self.trained = 0, 0
        self.best, self.best_epoch, self.best_weights = -math.inf, -1, None
        self.select, self.accelerator = select, accelerator
        self.folder = Path(os.path.expanduser(folder)) if folder is not None else None
        self.finished: dict | None = None  # what run.json says, if it stands there
        self._lock: FileLock | None = None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self._lock is not None:  # in a notebook an error keeps this object alive
            self._lock.release()
            with suppress(OSError):
                Path(self._lock.lock_file).unlink()

    def open(self, fingerprint: str) -> None:
        """Look into the folder: empty, unfinished, or finished; another run's is refused."""
        self.fingerprint = fingerprint
        require_folder(self.folder)
        if self.accelerator.is_main_process and not (self.folder / "run.json").exists():  # a finished run is only read
            self._claim()
        self.checkpoint, self.best_file = self.folder / "checkpoint.safetensors", self.folder / "best.safetensors"
        result = self.folder / "run.json"
        if result.exists():
            self.finished = read_json(result, DAMAGED)
            self._same(self.finished.get("fingerprint"))
        elif (self.folder / "config.json").exists() and not self.checkpoint.exists():
            self._same(None)  # some model's folder, and no run of ours
        if self.accelerator.is_main_process:
            sweep(self.folder)
            if self.finished:  # killed between its last file and the tidying up
                self.checkpoint.unlink(missing_ok=True)
                self.best_file.unlink(missing_ok=True)

    def _claim(self) -> None:
        """Two trainings in one folder would save one's weights under the other's name."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.folder / ".training", timeout=0)
            lock.acquire()
        except Timeout:
            remedy = "wait for it, or choose another folder with --out (out=)"
            raise KneeError("another training is writing into this folder", self.folder, remedy) from None
        except OSError as error:
            what = f"the folder can't be written ({error.strerror or error})"
            raise KneeError(what, self.folder, "choose another folder with --out (out=)") from error
        self._lock = lock
        theirs = [path.name for path in self.folder.iterdir() if not path.name.startswith(".")]
        if theirs and not {"config.json", "checkpoint.safetensors", "best.safetensors"} & set(theirs):
            what = "the folder holds other files, and a run writes a README.md and more of its own"
            raise KneeError(what, self.folder, "name a folder that is empty or not there yet with --out (out=)")

    def _same(self, fingerprint):
        if fingerprint != self.fingerprint:
            raise KneeError(
                "the folder holds another run (other settings, data, prompts or starting weights)",
                self.folder,
                "choose another folder or delete this one; in a notebook, load the model anew before training again",
            )

    def resume(self, model, optimizer):
        if self.folder is None or not self.checkpoint.exists():
            return
        tensors, meta = load_state(self.checkpoint)
        self._same(meta.get("fingerprint"))
        try:
            self._take(tensors, meta, model, optimizer)
        except (KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:  # its like, but not whole
            raise KneeError("the checkpoint does not fit this run", self.checkpoint, DAMAGED) from error

    def _take(self, tensors, meta, model, optimizer):
        kinds = {"step": int, "history": list, "steps": list, "best": int | float, "best_epoch": int}
        if odd := [name for name, kind in kinds.items() if not isinstance(meta[name], kind)]:
            raise TypeError(", ".join(odd))
        weights = {k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")}
        load_learnt(model, weights)
        load_optimizer(optimizer, tensors)
        if self.accelerator.scaler is not None and meta["scaler"]:
            self.accelerator.scaler.load_state_dict(meta["scaler"])
        self.step, self.history, self.steps = meta["step"], meta["history"], meta["steps"]
        self.best, self.best_epoch = meta["best"], meta["best_epoch"]
        if self.best_epoch >= 0:  # now, and not after all the epochs that are still to come
            best = require_state(self.best_file)
            if best.get("epoch") != self.best_epoch and "score" in best:
                # killed between the two files: an epoch made again elsewhere than on one CPU may score otherwise
                self.best, self.best_epoch = best["score"], best["epoch"]

    def save(self, model, optimizer):
        self._finite(model)
        self._write(model, optimizer)

    def _write(self, model, optimizer):
        if self.folder is None or not self.accelerator.is_main_process:
            return
        tensors = {f"model/{k}": v for k, v in learnt(model).items()} | optimizer_tensors(optimizer)
        scaler = self.accelerator.scaler.state_dict() if self.accelerator.scaler is not None else None
        names = ("step", "history", "steps", "best", "best_epoch", "fingerprint")
        save_state(self.checkpoint, tensors, {n: getattr(self, n) for n in names} | {"scaler": scaler})

    def _finite(self, model):
        """A step can overflow the weights after a loss that was still finite: such a checkpoint could never go on."""
        if not torch.stack([value.isfinite().all() for value in model.state_dict().values()]).all():
            what = f"the weights are no longer finite after step {self.step}"
            remedy = "start again in another folder with a lower learning rate; the last good checkpoint is kept"
            raise Diverged(what, self.folder, remedy)

    def end_of_epoch(self, row, model, optimizer, candidate=True):
        self._finite(model)
        self.history.append(row)
        judged = self.select != "none" and any(name.startswith("tune_") for name in row)
        # an epoch whose QWK is undefined (one grade for all) is the worst; unjudged, the last epoch is the best
        score = row.get(f"tune_{self.select}", -1e9) if judged else row["epoch"]
        if candidate and score > self.best:
            self.best, self.best_epoch = score, row["epoch"]
            weights = {k: v.detach().cpu().clone() for k, v in learnt(model).items()}
            if self.folder is None:
                self.best_weights = weights
            elif self.accelerator.is_main_process:
                # before the checkpoint: after a kill between the two this file says whose weights it holds
                save_state(self.best_file, weights, {"epoch": self.best_epoch, "score": self.best})
        self._write(model, optimizer)
        self.accelerator.wait_for_everyone()
