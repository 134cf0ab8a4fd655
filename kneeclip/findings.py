"""A study's report in words and tables, made by rule from `kneeclip.report.make_report`; figures: `kneeclip.charts`."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from kneeclip.charts import NAMES, SIDES, charts
from kneeclip.checkpoints import write_atomically, write_json
from kneeclip.report import make_report
from kneeclip.verdicts import CLAIM

VIEWS = {"original": "on the original view", "averaged": "flip-averaged"}


def write_report(out: str | Path, *, n_boot: int = 1000) -> list[Path]:
    """Write report.json, report.md and the figures into a study's folder, from its JSON alone.

    Parameters
    ----------
    out : folder that `kneeclip.study.run_study` writes to, finished or not
    n_boot : int

    Returns
    -------
    list of Path
        What was written, report.md first.

    Notes
    -----
    Notebook: 05.
    """
    out = Path(os.path.expanduser(out))
    report = make_report(out, n_boot=n_boot)
    report["finding"] = finding(report)
    figures = charts(report)
    for name, (figure, _) in figures.items():
        write_atomically(out / name, lambda tmp, figure=figure: figure.savefig(tmp, format="png", dpi=130))
    write_json(out / "report.json", report)
    text = markdown(report, {name: alt for name, (_, alt) in figures.items()})
    write_atomically(out / "report.md", lambda tmp: tmp.write_text(text, encoding="utf-8"))
    return [out / name for name in ("report.md", "report.json", *figures)]


def finding(report: dict) -> str:
    """The paragraph that states what was found: each planned contrast, by the rule of its interval.

    Parameters
    ----------
    report : dict
        From `make_report`.

    Returns
    -------
    str
        A few sentences of Markdown. Notebook: 05.
    """
    study, question = report["study"], report["study"]["question"]
    metric, view = question["metric"], "averaged" if question["averaged"] else "original"
    other, side = {"original": "averaged", "averaged": "original"}[view], question["side"]
    told = [c for c in report["contrasts"] if c["side"] == side]
    world = study["world"][:1].upper() + study["world"][1:]
    opening = (
        f"{world}, {SIDES[side]}, {NAMES[metric]} {VIEWS[view]}, {study['finished']} of "
        f"{study['planned']} runs; brackets are 95 % intervals over patients"
    )
    if not told:
        why = "No planned contrast has runs of both arms yet" if question["contrasts"] else "No contrast was planned"
        return f"{opening}. {why}: nothing can be said."
    sentences = []
    for c in told:
        lead = "*Primary:* " if c["a"] == question["contrasts"][0][0] and c["b"] == question["contrasts"][0][1] else ""
        main, averaged = c[view][metric], c[other][metric]
        text = f"{lead}`{c['a']}` − `{c['b']}`: {_difference(main, metric)}, {_said(main, question['margin'], metric)}"
        text += _runs_said(main, metric, c, question["margin"])
        text += f"; {VIEWS[other]} {_difference(averaged, metric)}, {_said(averaged, question['margin'], metric)}"
        sentences.append(text + ".")
        if lead and metric == "accuracy" and main["detectable"]:
            sentences.append(
                f"A study like this one has 80 % power to detect {100 * main['detectable']:.1f} points; for the "
                f"paper's {100 * CLAIM:.2f} points it takes some {main['images_for_claim']:,} images of new "
                f"patients (this comparison has {c['n']:,}), if the {c['runs']} {_plural(c['runs'], 'run')} per arm "
                "are taken as they are."
            )
    groups: dict[str, list[str]] = {}
    for c in told:
        groups.setdefault(c[view][metric]["verdict"], []).append(f"`{c['a']}` − `{c['b']}`")
    summary = "; ".join(f"{name}: {', '.join(pairs)}" for name, pairs in groups.items())
    return f"{opening}. {' '.join(sentences)} In short ({SIDES[side]}, {VIEWS[view]}) — {summary}."


def markdown(report: dict, figures: dict[str, str] | None = None) -> str:
    """The report as a page of Markdown; `figures` maps a file's name to what it shows."""
    study, question = report["study"], report["study"]["question"]
    lines = [f"# Report: {study['name']}", "", "Made by `kneeclip report` from the JSON of the runs; not edited.", ""]
    if study["missing"]:
        shown = ", ".join(f"`{name}`" for name in study["missing"][:6])
        more = f" and {len(study['missing']) - 6} more" if len(study["missing"]) > 6 else ""
        lines += [
            f"**Unfinished:** {study['finished']} of {study['planned']} runs are there. Missing: {shown}{more}. "
            "Arms are shown on the largest full table of folds and seeds of their runs, contrasts on that of both.",
            "",
        ]
    lines += [
        *("## Finding", "", report.get("finding") or finding(report), ""),
        "Rules, written before the first run: *differs*, the interval excludes 0; *equivalent*, it lies within "
        f"± {_amount(question['margin'], question['metric'])}; *differs within the margin*, both; *can't tell*, "
        "neither. Only the primary contrast is a test. Of contrasts where nothing differs at least one in twenty "
        "excludes 0 by luck, and more where training runs differ by chance, which intervals over patients leave out.",
        "",
    ]
    for name, alt in (figures or {}).items():
        lines += [f"![{alt}]({name})", ""]
    for side in dict.fromkeys(row["side"] for row in report["arms"]):
        arms = [row for row in report["arms"] if row["side"] == side]
        lines += [f"## Arms, {SIDES[side]} ({arms[0]['n']:,} images)", "", *_arm_table(arms), ""]
        contrasts = [c for c in report["contrasts"] if c["side"] == side]
        if contrasts:
            lines += [f"## Contrasts, {SIDES[side]}", "", *_contrast_table(contrasts), ""]
    lines += ["## How it was made", "", *_cost_table(report), ""]
    return "\n".join(lines)


def _arm_table(arms: Sequence[dict]) -> list[str]:
    rows = []
    for row in arms:
        views = itertools.product(("accuracy", "qwk"), ("original", "averaged"))
        cells = [_score(row[view][metric], metric) for metric, view in views]
        cells.append(_score(row["flip_agreement"], "flip_agreement"))
        spread = row["original"]["accuracy"]
        rows.append([f"`{row['label']}`", row["runs"], *cells, _sd(spread["seed_sd"]), _sd(spread["fold_sd"])])
    head = ("arm", "runs", "accuracy", "flip-averaged", "QWK", "flip-averaged", "flip agreement", "seed SD", "fold SD")
    notes = ["", "SD: of the accuracy on the original view, in points, between seeds of a fold and between folds."]
    if any(row["arm"] == "canonical" for row in arms):
        notes += [
            "`canonical` sees every knee as a right one; its flipped view looks like a left one, which it never trained"
            " on, so its flip agreement and flip average say little."
        ]
    return _table(head, rows) + notes


def _contrast_table(contrasts: Sequence[dict]) -> list[str]:
    rows, by_runs = [], {"runs_ci": "over runs"}
    if any(c["folds"] > 1 for c in contrasts):
        by_runs["corrected_ci"] = "over runs, corrected"
    for c in contrasts:
        for view in ("original", "averaged"):
            accuracy, test = c[view]["accuracy"], c["mcnemar"][view]
            agreement = _difference(c["flip_agreement"], "accuracy") if view == "original" else ""
            cells = [_difference(accuracy, "accuracy"), accuracy["verdict"]]
            cells += [_interval(accuracy[name], "accuracy") for name in by_runs]
            cells += [
                "< 0.001" if test["median_p"] < 0.0005 else f"{test['median_p']:.3f}",
                _difference(c[view]["qwk"], "qwk"),
                c[view]["qwk"]["verdict"],
            ]
            name = f"`{c['a']}` − `{c['b']}`"
            rows.append([name, VIEWS[view].removeprefix("on the "), c["runs"], *cells, agreement])
    head = ("a − b", "view", "runs", "accuracy, points", "verdict", *by_runs.values(), "McNemar p", "QWK", "verdict",
            "flip agreement, points")  # fmt: skip
    notes = [
        "",
        "Over runs: t interval of the mean over folds (over seeds, where there is one fold). McNemar: exact; of "
        "several seeds the median of their p-values, a summary (twice it is a valid p-value); it takes the two knees "
        "of a patient as independent. *Equivalent* can only be the metric whose margin was planned.",
    ]
    if len(by_runs) > 1:
        notes[1] += (
            " Corrected: the folds' training sets share most of their images, so the plain interval is too narrow; "
            "this one is widened for it (Nadeau & Bengio 2003), approximately. Where the plan was written before this "
            "report knew it, it had the plain one."
        )
    return _table(head, rows) + notes


def _cost_table(report: dict) -> list[str]:
    whole = [row for row in report["arms"] if row["side"] == "both"]
    rows = [
        [f"`{row['label']}`", row["runs"], *[_spanned(row[name]) for name in ("views", "looks", "training_seconds")]]
        for row in whole
    ]
    made = [
        f"- {e['runs']} {_plural(e['runs'], 'run')}: {e['device']}, {e['threads']} {_plural(e['threads'], 'thread')}, "
        f"Python {e['python']}, torch {e['torch']}, transformers {e['transformers']}, "
        f"commit {(e['commit'] or 'unknown')[:10]}"
        for e in report["study"]["environments"]
    ]
    return [*_table(("arm", "runs", "views a run", "looks at tune", "seconds of training"), rows), "", *made]


def _said(one: dict, margin: float, metric: str) -> str:
    return {
        "differs": "differs",
        "equivalent": f"equivalent within {_amount(margin, metric)}",
        "differs within the margin": f"differs, by less than {_amount(margin, metric)}",
    }.get(one["verdict"], "can't tell")


def _runs_said(one: dict, metric: str, contrast: dict, margin: float) -> str:
    """Whether the runs' own differences agree with an interval that says something."""
    if one["verdict"] == "can't tell":
        return ""
    by_runs = one["corrected_ci"] or one["runs_ci"]
    if by_runs is None:
        return " (one run per arm: another training run could undo it)"
    units = f"{contrast['folds']} folds" if contrast["folds"] > 1 else f"{contrast['seeds']} seeds"
    low, high = by_runs
    if one["verdict"] == "equivalent":
        agree = "they agree" if max(-low, high) <= margin else "another training run could leave the margin"
    elif one["verdict"] == "differs within the margin" and (low > 0 or high < 0) and max(-low, high) > margin:
        agree = "another training run could leave the margin"
    else:
        agree = "they agree" if low > 0 or high < 0 else "another training run could undo it"
    return f" (over the {units} {_interval(by_runs, metric)}: {agree})"


def _difference(one: dict | None, metric: str) -> str:
    if one is None or one["difference"] is None:
        return "–"
    value = f"{100 * one['difference']:+.1f}" if metric != "qwk" else f"{one['difference']:+.3f}"
    return f"{value} {_interval(one['ci'], metric)}".replace("-", "−")


def _interval(ci: Sequence[float] | None, metric: str) -> str:
    if not ci:
        return "–"
    low, high = (f"{100 * x:.1f}" if metric != "qwk" else f"{x:.3f}" for x in ci)
    return f"[{low}, {high}]".replace("-", "−")


def _score(score: dict, metric: str) -> str:
    if score["value"] is None:
        return "–"
    value = f"{100 * score['value']:.1f} %" if metric != "qwk" else f"{score['value']:.3f}"
    return f"{value} {_interval(score['ci'], metric)}"


def _amount(margin: float, metric: str) -> str:
    return f"{100 * margin:g} points" if metric == "accuracy" else f"{margin:g}"


def _sd(value: float | None) -> str:
    return "–" if value is None else f"{100 * value:.1f}"


def _spanned(pair: Sequence[float]) -> str:
    low, high = (f"{x:,.0f}" for x in pair)
    return low if low == high else f"{low} to {high}"


def _plural(n: int, word: str) -> str:
    return word if n == 1 else f"{word}s"


def _table(head: Sequence, rows: Sequence[Sequence]) -> list[str]:
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]
