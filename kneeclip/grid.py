"""A study's settings: one YAML file -> the runs that it asks for, in the order in which they are made.

Two views of an image cost two passes through the tower. So that every arm is given the same, a one-view arm gets
twice the epochs and twice the images a step: equally many views, updates, views an update and looks at `tune`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from kneeclip.errors import KneeError
from kneeclip.presets import ARMS, FORMS, MAX_SEED, Recipe
from kneeclip.prompts import BUILT_IN

#: What a study compares: the arms of training, and CLIP-KOA with prompts that have nothing to do with knees.
STUDY_ARMS = {**ARMS, "nonsense": "clip_koa with nonsense for prompts: is it the words?"}
WITH_CONSISTENCY = ("consistency", "clip_koa", "nonsense")  # the arms that a form and a weight mean something to
METRICS = ("accuracy", "qwk")
SIDES, STARTS = ("both", "R", "L"), ("pretrained", "fresh")


@dataclass(frozen=True)
class Variant:
    """One way of training. Two of equal fields are the same one; form and weight are None where they mean nothing."""

    arm: str
    form: str | None = None
    weight: float | None = None
    prompts: str = "criteria"
    sides: str = "both"  # knees that are trained on; the report grades both
    share: float = 100.0  # percent of the training patients
    start: str = "pretrained"

    def label(self, among: Sequence[Variant]) -> str:
        """The arm, and what sets this variant apart `among` others: ``clip_koa js 0.3``."""
        parts = {
            "form": self.form,
            "weight": None if self.weight is None else f"{self.weight:g}",
            "prompts": None if self.arm == "nonsense" else self.prompts,
            "sides": {"both": "both sides"}.get(self.sides, f"{self.sides} only"),
            "share": f"{self.share:g} %",
            "start": self.start,
        }
        varied = [n for n in parts if len({getattr(v, n) for v in among if getattr(v, n) is not None}) > 1]
        if varied and {"form", "weight"} & set(varied):  # a form without its weight would say half
            varied = [n for n in parts if n in varied or n in ("form", "weight")]
        if "prompts" in varied and len({v.prompts for v in among if v.arm != "nonsense"}) < 2:
            varied.remove("prompts")
        return " ".join([self.arm, *[parts[n] for n in varied if parts[n] is not None]])


@dataclass(frozen=True)
class Planned:
    """One run: a variant in a fold with a seed."""

    variant: Variant
    fold: int
    seed: int

    @property
    def name(self) -> str:
        """What its file is called: no two runs of a study share it."""
        v = self.variant
        parts = [f"fold{self.fold}", f"seed{self.seed}", v.arm]
        parts += [] if v.form is None else [v.form, f"w{v.weight:g}"]
        parts += [v.prompts] if v.prompts != "criteria" and v.arm != "nonsense" else []
        parts += [] if v.sides == "both" else [v.sides]
        parts += [] if v.share == 100 else [f"{v.share:g}pc"]
        return "-".join([*parts, *([] if v.start == "pretrained" else [v.start])])


@dataclass(frozen=True)
class Question:
    """What is asked, before the first run: the report's rules read it."""

    metric: str = "accuracy"  # the primary one: accuracy or qwk
    averaged: bool = False  # of flip-averaged logits, not of the original view
    side: str = "both"  # knees that it is measured on: both, R, L
    margin: float = 0.02  # a difference within ± this is of no consequence
    contrasts: tuple[tuple[str, str], ...] = ()  # (a, b): a minus b, as labels of variants


@dataclass(frozen=True)
class Study:
    """The whole of a YAML file, checked."""

    data: str  # "phantom" or "real"
    model: str
    folds: int | None  # None: the data's own splits
    recipe: Recipe  # that of the two-view arms
    runs: tuple[Planned, ...]
    question: Question
    phantom_patients: dict = field(default_factory=dict)
    hash: str = ""
    settings: dict = field(default_factory=dict)  # as read

    @property
    def variants(self) -> list[Variant]:
        return list(dict.fromkeys(run.variant for run in self.runs))

    def labels(self) -> dict[Variant, str]:
        return {v: v.label(self.variants) for v in self.variants}


def read_study(path: str | Path) -> Study:
    """Read and check a study's YAML file.

    Raises
    ------
    KneeError
        If it can't be read, asks for the test split, or holds a setting that does not exist.
    """
    try:
        settings = yaml.safe_load(Path(os.path.expanduser(path)).read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "name a YAML file, as results/phantom_study/config.yaml is one"
        raise KneeError("there is no such file of settings", path, remedy) from None
    except OSError as error:
        what = f"the study's settings can't be read ({error.strerror or error})"
        raise KneeError(what, path, "name a YAML file that you may read") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        text = " ".join(str(error).split())[:160]
        raise KneeError(f"the study's settings can't be read: {text}", path, "mend the YAML file") from error
    if not isinstance(settings, dict):
        raise KneeError("the study's settings are no YAML mapping", path, "write lines such as data: phantom")
    try:
        return parse_study(settings)
    except KneeError as error:
        raise KneeError(f"{error.what} (in {path})", error.culprits, error.remedy) from None
    except (TypeError, ValueError, AttributeError, RecursionError) as error:  # a word for a list, a date for a name
        what = f"the study's settings can't be understood ({' '.join(str(error).split())[:100]})"
        raise KneeError(what, path, "write them as in results/real_study/config.yaml") from error


def parse_study(settings: dict) -> Study:
    """A Study from the mapping that a YAML file holds; as `read_study`."""
    settings = json.loads(json.dumps(settings))  # plain types only, and ours to change
    known = ("name", "data", "split", "model", "folds", "seeds", "recipe", "grid", "question", "phantom_patients")
    _only(settings, known, "the study")
    data, split = settings.get("data", "phantom"), settings.get("split", "validation")
    if split not in ("validation", "val"):
        what = "a study reports on validation, and the test split is opened once, at the end"
        raise KneeError(what, f"split: {split}", "leave the line away; kneeclip evaluate --split test opens it")
    if data not in ("phantom", "real"):
        raise KneeError("a study's data are phantom or real", data, "say where real ones are with --data")
    folds = settings.get("folds", "none")
    folds = None if folds in ("none", None) else folds
    if folds is not None and (data == "phantom" or not isinstance(folds, int) or not 2 <= folds <= 100):
        raise KneeError("folds are none, or a number from 2 to 100 and real data", f"folds: {folds}")
    recipe = Recipe(**_only(settings.get("recipe", {}), _fields(Recipe) - {"arm", "seed", "judge_every"}, "recipe"))
    seeds = _list(settings.get("seeds", 0))
    if not seeds or not all(type(seed) is int and 0 <= seed <= MAX_SEED for seed in seeds):
        raise KneeError("the study's seeds can't be so", f"seeds: {seeds}", "give whole numbers from 0, one or a list")
    phantoms = settings.get("phantom_patients", {})
    if not isinstance(phantoms, dict) or not all(type(n) is int and n > 0 for n in phantoms.values()):
        remedy = "give a number from 1 for train, tune or validation"
        raise KneeError("the study's phantom_patients can't be so", f"phantom_patients: {phantoms}", remedy)
    grids = settings.get("grid", {})
    if grids == []:
        raise KneeError("the study's grid is empty", "grid", "name arms at least")
    runs = [
        Planned(variant, fold, seed)  # a fold with all its variants comes before the next: half a study is paired too
        for grid in (grids if isinstance(grids, list) else [grids])
        for fold in range(folds or 1)
        for seed in seeds
        for variant in _variants(grid, recipe)
    ]
    question = dict(_only(settings.get("question", {}), _fields(Question), "question"))
    pairs = question.get("contrasts") or []
    if not isinstance(pairs, list) or not all(isinstance(pair, list) for pair in pairs):
        raise KneeError(
            "the question's contrasts can't be so", f"contrasts: {pairs}", "write [a, b] for each: a minus b"
        )
    question["contrasts"] = tuple(tuple(pair) for pair in pairs)
    text = json.dumps(settings, sort_keys=True)
    study = Study(
        data=data,
        model=settings.get("model", "phantom-clip"),
        folds=folds,
        recipe=recipe,
        runs=tuple(dict.fromkeys(runs)),
        question=Question(**question),
        phantom_patients=phantoms,
        hash=hashlib.sha256(text.encode()).hexdigest()[:16],
        settings=settings,
    )
    _check_question(study)
    if len({run.name for run in study.runs}) < len(study.runs):
        raise KneeError(
            "two runs of the study would share a file", "weights, shares", "give fewer digits, or leave one out"
        )
    for run in study.runs:  # a recipe that can't be is refused here, before a folder is this study's
        matched(recipe, run)
    return study


def matched(recipe: Recipe, run: Planned) -> Recipe:
    """The recipe of one run, given what the two-view arms have.

    One view: twice the epochs, twice the images a step. A share of the patients, or one of their sides: as many epochs
    more. Epochs are judged as much more seldom. Views, updates and looks are then those of `recipe`, up to the
    rounding of whole steps (and of a share's patients, whom a hash picks).
    """
    v = run.variant
    arm = "clip_koa" if v.arm == "nonsense" else v.arm
    recipe = dataclasses.replace(recipe, arm=arm, seed=run.seed)
    if v.form is not None:
        recipe = dataclasses.replace(recipe, consistency=v.form, weight=v.weight)
    times = 3 - recipe.views
    fewer = round(100 / v.share) * (1 if v.sides == "both" else 2)
    return dataclasses.replace(
        recipe,
        epochs=recipe.epochs * times * fewer,
        judge_every=times * fewer,
        batch_size=recipe.batch_size * times,
        micro_batch=recipe.micro_batch and recipe.micro_batch * times,
    )


def _variants(grid: dict, recipe: Recipe) -> Iterator[Variant]:
    names = ("arms", "forms", "weights", "prompts", "sides", "shares", "starts")
    usual = (list(ARMS), recipe.consistency, recipe.weight, "criteria", "both", 100, "pretrained")
    given = dict(zip(names, usual, strict=True))
    given = {name: _list(value) for name, value in (given | _only(grid, names, "grid")).items()}
    if empty := [name for name, values in given.items() if not values]:
        raise KneeError("the study's grid has an empty list", empty, "leave the line away, or name one at least")
    choices = {
        "arms": STUDY_ARMS,
        "forms": FORMS,
        "prompts": BUILT_IN,
        "sides": SIDES,
        "starts": STARTS,
    }
    for name, allowed in choices.items():
        wrong = [value for value in given[name] if value not in allowed]
        if wrong:
            raise KneeError(f"the study's {name} can't be so", wrong, f"choose among {', '.join(allowed)}")
    for name, low, high in (("weights", 0, 1e6), ("shares", 1e-9, 100)):
        wrong = [x for x in given[name] if not isinstance(x, (int, float)) or not low <= x <= high]
        if wrong:
            raise KneeError(f"the study's {name} can't be so", wrong, f"give numbers from {low:g} to {high:g}")
    if wrong := [x for x in given["shares"] if abs(100 / x - round(100 / x)) > 0.05]:  # `matched` gives more epochs
        remedy = (
            "give 100 divided by a whole number, as 1, 5, 20, 25, 33.3, 50: the views can't be equally many otherwise"
        )
        raise KneeError("the study's shares can't be so", wrong, remedy)
    for arm, form, weight, prompts, sides, share, start in itertools.product(*(given[name] for name in names)):
        form, weight = (form, float(weight)) if arm in WITH_CONSISTENCY else (None, None)
        yield Variant(arm, form, weight, "nonsense" if arm == "nonsense" else prompts, sides, float(share), start)


def _check_question(study: Study) -> None:
    question, labels = study.question, list(study.labels().values())
    if type(question.averaged) is not bool:
        raise KneeError("the question's averaged is true or false", f"averaged: {question.averaged}")
    if type(question.margin) not in (int, float) or not 0 <= question.margin <= 1:
        raise KneeError(
            "the question's margin is a number from 0 to 1", f"margin: {question.margin}", "0.02 is 2 points"
        )
    for name, allowed in (("metric", METRICS), ("side", SIDES)):
        if getattr(question, name) not in allowed:
            raise KneeError(f"the question's {name} can't be so", getattr(question, name), f"choose among {allowed}")
    for pair in question.contrasts:
        wrong = [label for label in pair if label not in labels]
        if wrong or len(pair) != 2:
            remedy = f"choose among {', '.join(labels)}"
            raise KneeError("a contrast is a pair of the study's variants", wrong or pair, remedy)


def _only(given: dict, known, where: str) -> dict:
    if not isinstance(given, dict) or set(given) - set(known):
        wrong = sorted(set(given) - set(known)) if isinstance(given, dict) else [given]
        raise KneeError(f"{where} has no such setting", wrong, f"choose among {', '.join(sorted(known))}")
    return given


def _fields(kind) -> set[str]:
    return {f.name for f in dataclasses.fields(kind)}


def _list(value) -> list:
    return value if isinstance(value, list) else [value]
