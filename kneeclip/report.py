"""A study's numbers, from the JSON of its runs alone: every arm, every contrast, and what its intervals let one say.

An interval by resampling patients speaks of new patients graded by these very runs; how the runs differ among
themselves stands beside it. Nothing here has seen an image or a model.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from kneeclip.ablation import compare_arms
from kneeclip.evaluation import flip_average, mcnemar
from kneeclip.grid import Planned, Study, Variant
from kneeclip.ledger import read_results
from kneeclip.resampling import bootstrap_guesses
from kneeclip.verdicts import LEVEL, images_for_claim, judged, spread, tested

N_BOOT = 1000
METRICS = ("accuracy", "qwk", "flip_agreement")


def make_report(out: str | Path, *, n_boot: int = N_BOOT) -> dict:
    """Everything that the runs of a study folder say, finished or not; plain types, ready for JSON.

    Parameters
    ----------
    out : folder of a study
    n_boot : int
        Resamples of the patients.

    Returns
    -------
    dict
        ``study`` (world, question, runs planned, finished and missing, environments), ``arms``, ``contrasts``: lists
        of dict, one for each side that is asked about.

    Raises
    ------
    KneeError
        As `kneeclip.ledger.read_results`.

    Notes
    -----
    Folds are pooled: each image is graded once a seed, by the run that trained on none of its patient's knees.
    Seeds are averaged, in every resample alike. Of an unfinished study, an arm is shown on the largest full table of
    seeds and folds among its runs, and a contrast on that of the runs that both of its arms have. Notebook: 05.
    """
    study, images, records = read_results(out)
    book = Book(study, images, records)
    question, labels = study.question, study.labels()
    one_sided = {question.side, *(v.sides for v in study.variants)} != {"both"}
    sides = ("both", "R", "L") if one_sided else ("both",)
    begun = [v for v in study.variants if book.units(v)]
    by_label = {label: v for v, label in labels.items()}
    contrasts = [
        book.contrast(by_label[a], by_label[b], side, n_boot)
        for side in sides
        for a, b in question.contrasts
        if book.common([by_label[a], by_label[b]])[0]
    ]
    missing = [run.name for run in study.runs if run not in records]
    report = {
        "study": {
            "name": study.settings.get("name", Path(out).resolve().name),
            "world": images["world"],
            "config": study.hash,
            "model": study.model,
            "folds": study.folds,
            "question": {**vars(question), "contrasts": [list(pair) for pair in question.contrasts]},
            "images": len(images["grade"]),
            "patients": len(set(images["patient"])),
            "planned": len(study.runs),
            "finished": len(records),
            "missing": missing,
            "environments": _environments(records.values()),
            "n_boot": n_boot,
            "level": LEVEL,
        },
        "arms": [book.arm(v, side, n_boot) for side in sides for v in begun],
        "contrasts": contrasts,
        "looks": [book.looks(v) for v in begun],
    }
    return _plain(report)


class Book:
    """The records, looked up by variant, fold and seed."""

    def __init__(self, study: Study, images: dict, records: dict[Planned, dict]):
        self.study, self.records, self.labels = study, records, study.labels()
        self.columns = {name: np.array(images[name]) for name in ("grade", "patient", "side", "fold")}

    def units(self, variant: Variant) -> set[tuple[int, int]]:
        return {(run.fold, run.seed) for run in self.records if run.variant == variant}

    def common(self, variants: Iterable[Variant]) -> tuple[list[int], list[int]]:
        """The folds and the seeds of the largest full table, every fold with every seed, that all variants have."""
        units = set.intersection(*(self.units(v) for v in variants))
        seeds_of = {fold: {s for f, s in units if f == fold} for fold, _ in units}
        tables: set[frozenset[int]] = set()  # every set of seeds that some folds have in common
        for seeds in seeds_of.values():
            tables |= {table & seeds for table in tables} | {frozenset(seeds)}
        best: tuple[list[int], list[int]] = ([], [])
        for seeds in sorted(tables, key=sorted):
            folds = [fold for fold, there in seeds_of.items() if seeds <= there]
            if len(folds) * len(seeds) > len(best[0]) * len(best[1]):
                best = (sorted(folds), sorted(seeds))
        return best

    def rows(self, folds: Sequence[int], side: str) -> np.ndarray:
        """The images of these folds, in the order in which `stacked` has them."""
        rows = np.concatenate([np.flatnonzero(self.columns["fold"] == fold) for fold in folds])
        return rows if side == "both" else rows[self.columns["side"][rows] == side]

    def stacked(self, variant: Variant, folds: Sequence[int], seeds: Sequence[int], side: str) -> np.ndarray:
        """Both views, (2, seeds, N, K)."""
        views = np.array(
            [
                np.concatenate([self.records[Planned(variant, f, s)][view] for f in folds])
                for view in ("p", "p_flip")
                for s in seeds
            ]
        )
        if side != "both":
            views = views[:, self.columns["side"][self.rows(folds, "both")] == side]
        return views.reshape(2, len(seeds), *views.shape[1:])

    def arm(self, variant: Variant, side: str, n_boot: int) -> dict:
        folds, seeds = self.common([variant])
        rows = self.rows(folds, side)
        both, averaged, runs, _ = self._compared({"it": variant}, folds, seeds, side, n_boot)
        records = [self.records[Planned(variant, f, s)] for f in folds for s in seeds]
        row, row_averaged = both[0][0], averaged[0][0]

        def told(row, name, view):
            value, by_run = row[name], runs["it"][view, name]
            return {"value": value, "ci": row["ci"].get(name), **spread(by_run)}

        return {
            "label": self.labels[variant],
            **vars(variant),
            "side": side,
            "runs": len(records),
            "folds": len(folds),
            "seeds": len(seeds),
            "n": len(rows),
            "n_patients": len(np.unique(self.columns["patient"][rows])),
            "original": {name: told(row, name, "original") for name in ("accuracy", "qwk")},
            "averaged": {name: told(row_averaged, name, "averaged") for name in ("accuracy", "qwk")},
            "flip_agreement": told(row, "flip_agreement", "original"),
            "views": _range(record["views"] for record in records),
            "looks": _range(record["looks"] for record in records),
            "training_seconds": _range(record["training_seconds"] for record in records),
        }

    def contrast(self, a: Variant, b: Variant, side: str, n_boot: int) -> dict:
        """a minus b, on the folds and seeds that both have."""
        folds, seeds = self.common([a, b])
        rows, question = self.rows(folds, side), self.study.question
        both, averaged, runs, views = self._compared({"a": a, "b": b}, folds, seeds, side, n_boot)
        told, tests = {}, {}
        shared = max(self.shared(variant, folds, seeds) for variant in (a, b))  # the wider interval of the two arms
        for view, (_, differences) in (("original", both), ("averaged", averaged)):
            told[view] = {}
            for row in differences:
                name = row["metric"]
                if name != "averaged":  # accuracy of the flip-averaged view, which comes with the other metrics below
                    apart = runs["a"][view, name] - runs["b"][view, name]
                    margin = question.margin if name == question.metric else None  # planned for that one alone
                    one = judged(row["difference"], row["ci"], apart, margin, shared)
                    if name == "accuracy":
                        one["images_for_claim"] = images_for_claim(one["detectable"], len(rows))
                    told[view][name] = one
            pairs = zip(views["a"][view], views["b"][view], strict=True)
            # one test a seed: an image that several seeds graded is still one image
            tests[view] = [mcnemar(p_a, p_b, self.columns["grade"][rows]) for p_a, p_b in pairs]
        agreement = told["original"].pop("flip_agreement")
        return {
            "a": self.labels[a],
            "b": self.labels[b],
            "arm": a.arm,
            "side": side,
            "runs": len(folds) * len(seeds),
            "folds": len(folds),
            "seeds": len(seeds),
            "n": len(rows),
            **told,
            "flip_agreement": agreement,
            "mcnemar": {view: tested(results) for view, results in tests.items()},
        }

    def shared(self, variant: Variant, folds: Sequence[int], seeds: Sequence[int]) -> float:
        """Held-out over training images of these runs, `tune` among the latter: it too shaped the model.

        From what the runs had and not from the number of folds: a one-sided cohort, or a share of the patients, trains
        on fewer and is held against as many.
        """
        counts = [self.records[Planned(variant, f, s)]["images"] for f in folds for s in seeds]
        return sum(n["report"] for n in counts) / sum(n["train"] + n["tune"] for n in counts)

    def looks(self, variant: Variant) -> dict:
        """What `tune` said at each look, over the runs' mean."""
        records = [self.records[run] for run in self.records if run.variant == variant]
        judgements = [[row for row in r["history"] if "tune_accuracy" in row] for r in records]
        n = min(map(len, judgements))
        views = [records[0]["views"] * (row["epoch"] + 1) / records[0]["recipe"]["epochs"] for row in judgements[0][:n]]
        curves = {
            name: [float(np.mean([run[i].get(name, np.nan) for run in judgements])) for i in range(n)]
            for name in ("tune_accuracy", "tune_qwk")
        }
        return {"label": self.labels[variant], "arm": variant.arm, "views": views, **curves}

    def _compared(self, variants: dict[str, Variant], folds, seeds, side, n_boot):
        """compare_arms on both views and on flip-averaged ones, and each run's own: (F, S)."""
        rows = self.rows(folds, side)
        grades, patients = self.columns["grade"][rows], self.columns["patient"][rows]
        views, flips, runs = {}, {}, {}
        for name, variant in variants.items():
            p, flips[name] = self.stacked(variant, folds, seeds, side)
            means = np.stack([flip_average(*pair) for pair in zip(p, flips[name], strict=True)])
            views[name] = {"original": p, "averaged": means}
        settings = dict(controls=("b",), n_boot=n_boot, level=LEVEL)
        both = compare_arms({n: (v["original"], flips[n]) for n, v in views.items()}, grades, patients, **settings)
        averaged = compare_arms({n: (v["averaged"], None) for n, v in views.items()}, grades, patients, **settings)
        owns = [self.columns["fold"][rows] == fold for fold in folds]
        for name, view in itertools.product(variants, ("original", "averaged")):
            pairs = list(zip(views[name][view], flips[name], strict=True))  # one a seed
            scores = [[_scores(p[own], f[own], grades[own]) for p, f in pairs] for own in owns]
            table = np.array(scores, dtype=float)  # (folds, seeds, metrics)
            runs.setdefault(name, {}).update({(view, m): table[..., i] for i, m in enumerate(METRICS)})
        return both, averaged, runs, views


def _scores(p: np.ndarray, flipped: np.ndarray, grades: np.ndarray) -> list[float]:
    """METRICS of one run on one fold; NaN where one is undefined."""
    guess, nobody = p.argmax(1), np.zeros(len(p), dtype=int)
    whole = bootstrap_guesses(guess, grades, nobody, np.ones((1, 1)), p.shape[1])  # one resample, everybody once
    return [whole["accuracy"][0], whole["qwk"][0], (guess == flipped.argmax(1)).mean()]


def _plain(value):
    """JSON knows no NaN: what is undefined becomes None."""
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and np.isnan(value) else value


def _range(values: Iterable[float]) -> list:
    values = list(values)
    return [min(values), max(values)]


def _environments(records: Iterable[dict]) -> list[dict]:
    """Each set of versions, device, threads and commit once, with the number of its runs."""
    counted: dict[tuple, int] = {}
    for record in records:
        key = tuple(sorted(record["environment"].items(), key=str))
        counted[key] = counted.get(key, 0) + 1
    return [{**dict(key), "runs": n} for key, n in counted.items()]
