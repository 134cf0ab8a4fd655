"""Laps in turns: medians with their spread, and the tables that are made of them."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from kneeclip.cards import environment
from kneeclip.errors import KneeError


def in_turns(contenders: dict[str, Callable[[], float]], repeats: int) -> dict[str, np.ndarray]:
    """Seconds of each contender in each round; every second round runs in reverse order."""
    laps = {who: [] for who in contenders}
    for i in range(repeats):
        for who in list(contenders)[:: -1 if i % 2 else 1]:
            laps[who].append(contenders[who]())
    return {who: np.array(seconds) for who, seconds in laps.items()}


def spread(values) -> dict[str, float]:
    """Median, lowest and highest, to four digits."""
    found = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: float(f"{float(value):.4g}") for name, value in found.items()}


def rows(numbers: dict) -> list[dict]:
    """The numbers of a bench as rows of a `kneeclip.tables.Table`: what, median, lowest and highest round."""
    found = []
    places = [("", numbers), *[(f"{name}: ", part) for name, part in numbers["models"].items()]]
    for prefix, part in places:
        for name, value in part.items():
            if name == "views_per_second":
                found += [(f"{prefix}views a second, {who}", s) for who, s in value.items()]
            elif isinstance(value, dict) and "median" in value:
                found.append((prefix + name.replace("_", " "), value))
    return [{"what": what, **{key: f"{s[key]:.4g}" for key in ("median", "min", "max")}} for what, s in found]


def headlines(models: dict) -> dict:
    """The medians of all ratios, ``{"share_of_floor": {model: …}}``."""
    ratios = [name for name in next(iter(models.values())) if name.startswith(("share_", "ratio_", "waiting_"))]
    return {name: {model: part[name]["median"] for model, part in models.items()} for name in ratios}


def setup(bench: str, data: str | None, threads: int | None, **counts: int | None) -> dict:
    for name, value in {"threads": threads, **counts}.items():
        if value is not None and value < 1:
            raise KneeError("there is nothing to time", f"{name}={value}", "give a whole number from 1")
    if threads:
        torch.set_num_threads(threads)
    world = "phantom knees" if data in (None, "phantom") else "real knees"
    load = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None  # Windows has none
    machine = f"{os.cpu_count()} cores of {_processor()}"
    return {
        "bench": bench,
        "world": world,
        "machine": machine,
        "load_at_start": load,  # processes that wanted a core in the minute before: 0 is a quiet machine
        "repeats": counts["repeats"],
        "environment": environment(),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
