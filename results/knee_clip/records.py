"""What the trainings of this folder keep: how far they have come, and what `tune` said of it."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import torch
from sklearn.metrics import log_loss

import kneeclip as kc
from kneeclip.checkpoints import write_atomically
from kneeclip.evaluation import fit_temperature, flip_average, with_temperature
from kneeclip.resampling import draw_patients, interval, mean_by_resample

BEGUN = time.perf_counter()


def data_of(grades: torch.Tensor) -> dict:
    """What tells one training set from another: how many images, and of which grades (N,)."""
    return {"images": len(grades), "grades": grades.bincount().tolist()}


class Store:
    """What a training has reached, history included, in one file of `folder`; of the same settings and data only."""

    def __init__(self, folder: Path, name: str, settings: dict, every: int = 1):
        self.path, self.settings, self.every, self.history = folder / f"{name}.pt", settings, every, []
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, parts: dict, epoch: int, last: bool) -> None:
        if epoch % self.every and not last:
            return
        found = {name: part.state_dict() for name, part in parts.items()}
        found |= {"epoch": epoch, "generator": torch.get_rng_state()}
        found |= {"settings": self.settings, "history": self.history}
        write_atomically(self.path, lambda tmp: torch.save(found, tmp), resumes=True)

    def resume(self, parts: dict) -> int:
        if not self.path.exists():
            return 0
        found = torch.load(self.path, weights_only=True, map_location="cpu")
        if found["settings"] != self.settings:
            raise kc.KneeError(
                "the folder holds a training of other settings or data", self.path, "name another --work"
            )
        for name, part in parts.items():
            part.load_state_dict(found[name])
        torch.set_rng_state(found["generator"])
        self.history[:] = found["history"]
        return found["epoch"]

    def note(self, epoch: int, losses: list[float], p, p_flip, tune) -> None:
        """One more row of the history: what both views' probabilities (N, 5) are worth on `tune`."""
        report = kc.evaluate(p, tune["grade"], tune["patient"], flipped=p_flip, n_boot=0)
        row = {"epoch": epoch + 1, "losses": losses, "seconds": round(time.perf_counter() - BEGUN)}
        row |= {name: report[name] for name in ("accuracy", "qwk")}
        row |= {f"averaged_{name}": report["averaged"][name] for name in ("accuracy", "qwk")}
        self.history.append(row | {"tempered_loss": tempered(p, p_flip, tune["grade"])})
        print(self.path.stem, self.history[-1], flush=True)


def lower_by(before: np.ndarray, now: np.ndarray, grades, patients, n_boot: int = 1000, seed: int = 0) -> dict:
    """How much lower the cross-entropy of `now` (N, 5) is than that of `before`; patients are resampled, paired."""
    grades, each = np.asarray(grades), np.arange(len(grades))
    gain = np.log(now[each, grades]) - np.log(before[each, grades])  # of an image
    owner, draws = draw_patients(np.asarray(patients), len(grades), n_boot, seed, 0.95)
    return {"difference": float(gain.mean()), "ci": interval(mean_by_resample(gain, owner, draws), 0.95)}


def tempered(p, p_flip, grades) -> float:
    """The flip-averaged cross-entropy on `tune` once a temperature has been fitted: for choosing, not for reporting."""
    averaged = flip_average(p, p_flip)
    warmed = with_temperature(averaged, fit_temperature(averaged, grades))
    return float(log_loss(grades, warmed, labels=range(5)))
