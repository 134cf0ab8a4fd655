"""A study's figures, drawn from its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import fields

from kneeclip import plots
from kneeclip.grid import Variant
from kneeclip.plots.studies import COLOURS

SIDES = {"both": "all knees", "R": "right knees", "L": "left knees"}
NAMES = {"accuracy": "accuracy", "qwk": "QWK", "flip_agreement": "flip agreement"}


def charts(report: dict) -> dict:
    """The figures of `kneeclip.report.make_report`: file name -> (Figure, what it shows).

    What can't be drawn yet is left out.
    """
    study, question = report["study"], report["study"]["question"]
    world = f"{study['world']}, {SIDES[question['side']]}, {study['finished']} of {study['planned']} runs"
    arms = [row for row in report["arms"] if row["side"] == question["side"]]
    if not arms:
        return {}
    drawn = {"arms.png": (plots.study_arms(arms, world=world), "Every arm with its interval and its single runs")}
    metric, rows, thin = question["metric"], [], []
    points = metric == "accuracy"  # as the text has them
    scale, form = (100, "+.1f") if points else (1, ".3f")
    for c in (c for c in report["contrasts"] if c["side"] == question["side"]):
        for view in ("original", "averaged"):
            one = c[view][metric]
            if one["ci"]:
                label = f"{c['a']} − {c['b']}" + (", averaged" if view == "averaged" else "")
                rows.append((label, *(scale * x for x in (one["difference"], *one["ci"])), COLOURS[c["arm"]]))
                other = one["corrected_ci"] or one["runs_ci"]
                thin.append(other and [scale * end for end in other])
    if rows:
        folded = any(c["folds"] > 1 for c in report["contrasts"])
        over = "folds, corrected for shared training images" if folded else "seeds"
        told = f"{world}\n95 %: thick and in numbers, over patients; thin, over {over}"
        label = f"difference in {NAMES[metric]}" + " (points)" * points
        figure = plots.forest(rows, xlabel=label, reference=0, thin=thin, form=form, world=told)
        figure.axes[0].locator_params(axis="x", nbins=4)  # long names leave little width
        drawn["contrasts.png"] = (figure, "The planned contrasts with their intervals")
    both = (row for row in arms if row["arm"] == "clip_koa" and row["sides"] == arms[0]["sides"])
    forms = _lines(both, "weight", lambda row: row["form"])
    if len({point["x"] for points in forms.values() for point in points}) > 1:
        figure = plots.study_lines(forms, xlabel="weight of the Consistency Loss", world=world)
        drawn["weights.png"] = (figure, "clip_koa over the weight of its Consistency Loss, one line a form")
    shares = _lines(arms, "share", lambda row: f"{row['arm']} {row['start']}")
    if len({point["x"] for points in shares.values() for point in points}) > 1:
        told = world + "; small, hollow: the runs" * (len(shares) <= 2)
        figure = plots.study_lines(shares, xlabel="training patients, %", metrics=("accuracy", "qwk"), world=told)
        drawn["shares.png"] = (figure, "Accuracy and QWK over the share of the training patients")
    looks = [curve for curve in report["looks"] if curve["views"]][:7]  # of a larger grid the first, its arms
    if looks:
        figure = plots.study_looks(looks, world=f"{study['world']}, tune")
        drawn["looks.png"] = (figure, "Accuracy and QWK on tune at each look")
    return drawn


def _lines(rows: Iterable[dict], along: str, name: Callable[[dict], str]) -> dict[str, list[dict]]:
    """Name -> points of variants that differ in `along` alone; named in full where one name would do for two lines."""
    lines: dict[tuple, list] = {}
    for row in rows:
        others = tuple(row[field.name] for field in fields(Variant) if field.name != along)
        lines.setdefault(others, []).append(row)
    names = Counter(name(line[0]) for line in lines.values())
    called = [name(line[0]) if names[name(line[0])] == 1 else line[0]["label"] for line in lines.values()]
    return {who: [_point(row, row[along]) for row in line] for who, line in zip(called, lines.values(), strict=True)}


def _point(row: dict, x: float) -> dict:
    return {"x": x, **row["original"], "flip_agreement": row["flip_agreement"]}
