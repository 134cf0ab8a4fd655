"""The documents: their links lead somewhere, and their numbers are those of the files that they cite."""

import json
import re
import sys
from pathlib import Path

import nbformat
import numpy as np
import pytest
from scipy import stats

import kneeclip as kc
from kneeclip.ledger import read_results

ROOT = Path(__file__).parents[1]
DOCS = sorted(
    [
        ROOT / "README.md",
        ROOT / "results/README.md",
        *(ROOT / "docs").glob("*.md"),
        *(ROOT / "results").glob("*/README.md"),
    ]
)
CARDS = ("DATA_CARD.md", "MODEL_CARD.md", "reporting.md", "teaching.md", "glossary.md")
NOTEBOOKS = sorted((ROOT / "notebooks").glob("0*.ipynb"))


def read(name):
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def prose(path):
    """The text of a page, or of a notebook's markdown cells, on one line."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        cells = nbformat.reads(text, as_version=4).cells
        text = " ".join(cell.source for cell in cells if cell.cell_type == "markdown")
    return " ".join(text.split())


def table(text, heading):
    """Cells of the rows below the table's head whose first cell is `heading`; a no-break space reads as a space."""
    lines = iter(text.replace("&nbsp;", " ").splitlines())
    next(line for line in lines if line.startswith(f"| {heading} |"))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            return rows
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def short(x):
    """A figure as the pages write it: .642, −.022."""
    return f"{x:.3f}".replace("0.", ".").replace("-", "−")


@pytest.mark.parametrize("page", DOCS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"https?://|mailto:", target):
            path, _, anchor = target.partition("#")
            there = (page.parent / path) if path else page
            assert there.exists(), target
            if anchor:
                heads = re.findall(r"(?m)^#+ (.*)$", there.read_text(encoding="utf-8"))
                assert anchor in [re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads], target


@pytest.mark.parametrize("name", CARDS[:2] + CARDS[3:4])
def test_cards_and_guide_say_what_it_is_not_for(name):
    assert "never for diagnosis" in read(name).lower()


def test_the_glossary_is_in_alphabetical_order_and_names_notebooks():
    entries = re.findall(r"(?ms)^\*\*([^*]+)\*\*: (.*?)(?:\n\n|\Z)", read("glossary.md"))
    assert len(entries) > 50
    words = [re.sub(r"[^a-z ]", "", word.lower().replace("-", " ")) for word, _ in entries]
    assert words == sorted(words)
    assert len(set(words)) == len(words)
    for word, text in entries:
        assert re.search(r"\(0[1-6]\)$", text.strip()), word


def test_the_glossary_knows_the_concepts_of_every_notebook():
    known = read("glossary.md").lower()
    for path in NOTEBOOKS:
        first = nbformat.read(path, as_version=4).cells[0].source
        concepts = re.search(r"(?s)\*\*Concepts:?\*\*:?(.*?)(?:\n\n|\Z)", first).group(1)
        for concept in concepts.strip(" .\n").split("·"):
            words = [word.rstrip("s") for word in re.findall(r"\w{4,}", concept.lower())]
            assert any(word in known for word in words), f"{path.stem}: {concept.strip()}"


def test_the_questions_of_the_teaching_guide_are_those_of_the_notebooks(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    import notebooks

    text = read("teaching.md")
    assert text.count("<!-- questions -->") == text.count("<!-- end of questions -->") == 1
    assert notebooks.with_guide(text) == text, "run python tools/notebooks.py guide"
    sys.modules.pop("notebooks")


def test_the_90_minutes_are_90_and_those_of_the_notebooks():
    parts = re.findall(r"(?ms)^### (0\d) .*? · (\d+) minutes\n(.*?)(?=^#|^\*\*)", read("teaching.md"))
    class_plan = NOTEBOOKS[:5]  # 06 is for the half-day plan
    assert [number for number, _, _ in parts] == [path.stem[:2] for path in class_plan]
    assert sum(int(minutes) for _, minutes, _ in parts) == 90
    for (_, minutes, plan), path in zip(parts, class_plan, strict=True):
        spans = [tuple(map(int, span)) for span in re.findall(r"(?m)^\| (\d+)–(\d+) \|", plan)]
        assert [spans[0][0], *(end for _, end in spans)] == [*(start for start, _ in spans), int(minutes)]
        promised = re.search(r"In class: (\d+) minutes", nbformat.read(path, as_version=4).cells[0].source)
        assert promised and promised.group(1) == minutes, path.stem


def test_the_numbers_of_the_model_card_are_those_of_the_results():
    files = ("phantoms/zero_shot.json", "first_real_run/zero_shot.json", "first_real_run/pretrained.json")
    files += ("knee_clip/validation.json",)
    reports = [json.loads((ROOT / "results" / name).read_text(encoding="utf-8")) for name in files]
    text = read("MODEL_CARD.md")
    shown = {row[0]: row[1:] for row in table(text, "metric")}
    names = {
        "accuracy": "accuracy", "balanced accuracy": "balanced_accuracy", "macro-F1": "macro_f1", "QWK": "qwk",
        "MAE (grades)": "mae", "AUC for KL ≥ 2": "auc_kl2", "ECE": "ece", "flip agreement": "flip_agreement",
    }  # fmt: skip
    for label, key in names.items():
        assert shown.pop(label) == [with_interval(report, key) for report in reports]
    averaged = [with_interval(report["averaged"], "accuracy") for report in reports]
    assert shown.pop("accuracy, flip-averaged") == averaged
    recalls = [" / ".join(f"{row['recall']:.2f}" for row in report["per_grade"]) for report in reports]
    assert shown.pop("recall of KL0 / 1 / 2 / 3 / 4") == recalls
    assert not shown
    head = next(line for line in text.splitlines() if line.startswith("| metric |"))
    assert [int(n) for n in re.findall(r"n = (\d+)", head)] == [report["n"] for report in reports]
    missed = f"finds {reports[2]['confusion'][1][1]} of the {reports[2]['per_grade'][1]['n']} KL1 knees"
    assert f"{missed}, `knee-clip` {reports[3]['confusion'][1][1]}." in text
    assert {report["split"] for report in reports} == {"validation"}
    assert {report["n_boot"] for report in reports} == {1000}


def with_interval(report, key):
    low, high = report["ci"][key]
    return f"{report[key]:.3f} [{low:.3f}, {high:.3f}]"


def test_the_model_card_counts_the_weights_that_are_shipped():
    from kneeclip.model import load_clip
    from kneeclip.newborn import Pretraining

    for name in ("phantom-clip", "knee-clip"):
        model, _ = load_clip(name)
        assert f"{sum(weights.numel() for weights in model.parameters()):,} weights" in read("MODEL_CARD.md"), name
    assert f"{2 * Pretraining().patients:,} captioned phantoms" in read("MODEL_CARD.md")


def test_the_data_card_counts_as_the_audit_and_the_presets_do():
    from kneeclip.auditing import CARD, CARD_PATIENTS
    from kneeclip.data import PHANTOM_SPLITS
    from kneeclip.newborn import Pretraining

    real, phantoms = read("DATA_CARD.md").split("## Phantom knees")
    rows = {row[0]: tuple(map(int, row[1:])) for row in table(real, "split")}
    assert rows == {split: (*CARD[split], sum(CARD[split]), CARD_PATIENTS[split]) for split in CARD}
    settings = Pretraining()
    expected = {split: (n, 2 * n, seed) for split, (n, seed) in PHANTOM_SPLITS.items()}
    expected["pretraining of `phantom-clip`"] = (settings.patients, 2 * settings.patients, settings.seed)
    expected["watched during pretraining"] = (settings.held_out, 2 * settings.held_out, settings.seed + 1)
    assert {row[0]: tuple(map(int, row[1:])) for row in table(phantoms, "split")} == expected


@pytest.mark.real
def test_the_data_card_counts_what_lies_there(real_data):
    from kneeclip.films import list_films

    rows = {row[0]: list(map(int, row[1:])) for row in table(read("DATA_CARD.md"), "split")}
    films = list_films(real_data).films
    for split in sorted({film.split for film in films}):
        here = [film for film in films if film.split == split]
        counted = [sum(film.grade == grade for film in here) for grade in range(5)]
        assert rows[split] == [*counted, len(here), len({film.patient for film in here})]


def test_the_reporting_checklist_names_what_is_recorded():
    text = " ".join(read("reporting.md").split())
    record = json.loads((ROOT / "results/first_real_run/pretrained/run.json").read_text(encoding="utf-8"))
    report = json.loads((ROOT / "results/first_real_run/pretrained.json").read_text(encoding="utf-8"))
    for name in ("base", "sides", "recipe", "notes", "seconds", "environment", "best_epoch", "temperature"):
        assert name in record and f"`{name}" in text, name
    for name in ("world", "confusion", "per_grade", "ci", "n_boot", "level", "n_patients", "averaged", "ece"):
        assert name in report and f"`{name}`" in text, name
    assert {"arm", "consistency", "weight", "select"} <= set(record["recipe"])
    for name in ("CLAIM", "TRIPOD+AI", "STARD-AI", "DECIDE-AI", "informed by, and not compliant"):
        assert name in text


def test_the_findings_page_says_what_the_studies_report():
    """results/README.md and the reports that a command makes of the runs."""
    page = (ROOT / "results" / "README.md").read_text(encoding="utf-8")
    report = json.loads((ROOT / "results/phantom_study/report.json").read_text(encoding="utf-8"))
    found = {(c["a"], c["b"]): c for c in report["contrasts"] if c["side"] == "both"}

    def told(a, b, view="original"):
        one = found[a, b][view]["accuracy"]
        low, high = one["ci"]
        return f"{100 * one['difference']:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−")

    assert told("clip_koa js 1", "clip").replace("+0.0 points", "0.0 points of\naccuracy") in page
    assert told("symmetry", "flip_aug") in page and told("clip_koa js 1", "symmetry") in page
    assert told("symmetry", "flip_aug", "averaged").replace(" points", "") in page
    primary = found["clip_koa js 1", "clip"]["original"]["accuracy"]
    assert primary["verdict"] == "equivalent" and f"({primary['images_for_claim']} phantoms)" in page
    low, high = found["symmetry", "flip_aug"]["original"]["accuracy"]["runs_ci"]
    assert f"[{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−") in page
    at_ten = [100 * c["original"]["accuracy"]["difference"] for (a, _), c in found.items() if a.endswith(" 10")]
    assert f"between {min(at_ten):.1f} and +{max(at_ten):.1f} in the\n  four forms" in page and len(at_ten) == 4
    agreement = {row["label"]: row["flip_agreement"]["value"] for row in report["arms"] if row["side"] == "both"}
    for weight in ("10", "1"):
        shown = [100 * agreement[f"clip_koa {form} {weight}"] for form in ("js", "kl", "mse", "bhattacharyya")]
        assert f"{min(shown):.1f} to {max(shown):.1f} % at weight" in page.replace("\n  ", " "), weight
    assert report["study"]["finished"] == report["study"]["planned"] == 105
    report = json.loads((ROOT / "results/real_study/report.json").read_text(encoding="utf-8"))
    assert report["study"]["finished"] == report["study"]["planned"] == 35 and "35 of 35 runs" in page
    found = {(c["a"], c["b"]): c for c in report["contrasts"]}  # told() looks here now
    primary = found["clip_koa", "clip"]["original"]["accuracy"]
    assert primary["verdict"] == "equivalent" and f"{primary['images_for_claim']:,} real images" in page
    assert told("clip_koa", "clip").replace(" points", " points of accuracy") in page
    assert told("clip_koa", "clip", "averaged").replace(" points", "") in page
    pairs = (("symmetry", "flip_aug"), ("clip_koa", "symmetry"), ("consistency", "clip"), ("canonical", "flip_aug"))
    for pair in pairs:
        low, high = found[pair]["original"]["accuracy"]["corrected_ci"]
        assert told(*pair) in page and f"[{100 * low:.1f}, {100 * high:.1f}]".replace("-", "−") in page, pair
    by_fold = [f"{100 * d:+.1f}".replace("-", "−") for d in primary["by_run"]]
    assert f"{by_fold[0]} points" in page and f"{', '.join(by_fold[1:4])} and {by_fold[4]}" in page
    assert f"an SD of {100 * primary['fold_sd']:.1f} points" in page
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert told("clip_koa", "clip") in readme
    pages = (page, readme, read("reporting.md"))
    assert all(first_fold() in text for text in pages)


def test_what_was_asked_after_the_plans_is_told_as_found():
    """results/README.md and the model card, against results/posthoc.json, which results/posthoc.py makes anew."""
    page, card = prose(ROOT / "results/README.md"), prose(ROOT / "docs/MODEL_CARD.md")
    found = json.loads((ROOT / "results/posthoc.json").read_text(encoding="utf-8"))
    real, one_side = found["real_study"], found["phantom_right_only"]

    def span(ci):
        return "[{:.1f}, {:.1f}]".format(*(100 * end for end in ci)).replace("-", "−")

    for name, where in (("canonical - clip", "corrected_ci"), ("clip, averaged - clip", "ci")):
        assert span(real[name][where]) in page and span(real[name]["ci"]) in page, name
    by_fold = real["canonical - clip"]["by_fold"]
    assert f"{100 * by_fold[0]:+.1f}; the other four are {abs(100 * np.mean(by_fold[1:])):.1f} on average" in page
    folds = real["clip_koa - clip, between folds"]
    assert (
        f"an SD of {100 * folds['sd']:.1f} points. Sampling" in page
        and f"p = {folds['p']:.3f}".replace("0.", ".") in page
    )
    assert f"an SD of about {100 * folds['error_of_sampling_images']:.1f}, which" in page
    assert f"leaves {100 * folds['sd_without_it']:.1f}" in page
    order = [sorted(runs, reverse=True) for runs in zip(*real["accuracy_by_fold"].values(), strict=True)]
    place = [row.index(own) for row, own in zip(order, real["accuracy_by_fold"]["clip"], strict=True)]
    assert place[0] == 6 and max(place[1:4]) <= 1  # lowest of all seven arms; then highest or second
    last = real["last_epoch"]["clip_koa"]
    assert 0.0005 < np.mean(last["consistency"]) / np.mean(last["total"]) < 0.0015  # about a thousandth
    cost, gap = one_side["mirrored - as they are, left knees"], one_side["gap between the sides, consistency - clip"]
    assert f"{100 * cost['difference']:.1f} points {span(cost['ci'])}" in page
    assert f"{100 * one_side['the same models on left knees, mirrored']:.1f} % of the *same* left knees" in page
    worse = one_side["consistency - clip, right knees"]
    for row, sign in ((worse, ""), (gap, "by ")):
        shown = f"{100 * row['difference']:.1f} {span(row['ci'])}".replace("-", "−")
        assert sign + shown in page, row
    assert span(gap["seeds_ci"]) in page
    ideal = found["ece_of_a_calibrated_grader"]
    assert f"{ideal['mean']:.3f} [{ideal['ci'][0]:.3f}, {ideal['ci'][1]:.3f}]".replace("0.", ".") in card


def first_fold():
    """The primary difference of the real study, had it ended after the first of its folds."""
    study, images, records = read_results(ROOT / "results/real_study")
    first = {run.variant.arm: records[run]["p"] for run in study.runs if run.fold == 0}
    rows = np.array(images["fold"]) == 0
    grade, patient = (np.array(images[name])[rows] for name in ("grade", "patient"))
    one = kc.compare(np.array(first["clip"]), np.array(first["clip_koa"]), grade, patient)["accuracy"]
    low, high = one["ci"]
    return f"{100 * one['difference']:+.1f} points [{100 * low:.1f}, {100 * high:.1f}]"


def test_the_findings_page_says_what_right_knees_only_gave():
    page = prose(ROOT / "results/README.md")
    report = json.loads((ROOT / "results/phantom_right_only/report.json").read_text(encoding="utf-8"))
    assert report["study"]["finished"] == report["study"]["planned"] == 65
    on_left = [c["original"]["accuracy"] for c in report["contrasts"] if c["side"] == "L"]
    for row in (*on_left[:7], on_left[8]):  # all but the words'
        low, high = (100 * end for end in row["ci"])
        assert f"{100 * row['difference']:+.1f} points [{low:.1f}, {high:.1f}]".replace("-", "−") in page
    found = {(row["label"], row["side"]): row for row in report["arms"]}
    alone = found["clip R only", "L"]
    for value in (alone["original"], found["clip R only", "R"]["original"], alone["averaged"]):
        assert f"{100 * value['accuracy']['value']:.1f}" in page


def test_the_findings_page_says_what_the_drawings_are_worth():
    page = prose(ROOT / "results/README.md")
    report = json.loads((ROOT / "results/learning_curve/report.json").read_text(encoding="utf-8"))
    assert report["study"]["finished"] == report["study"]["planned"] == 24
    for contrast in report["contrasts"]:
        low, high = contrast["original"]["qwk"]["ci"]
        told = f"{contrast['original']['qwk']['difference']:+.3f} [{low:.3f}, {high:.3f}]"
        assert told.replace("-", "−") in page.replace("**", "")
    least = next(row for row in report["arms"] if row["label"] == "clip 1 % pretrained")["original"]["qwk"]
    assert f"{least['value']:.3f} [{least['ci'][0]:.3f}, {least['ci'][1]:.3f}]" in page
    low, also_low, high = (f"{value:.2f}".lstrip("0") for value in sorted(least["by_run"]))
    assert f"QWK {low} and {also_low}, against" in page and f"above it ({high})" in page


def test_the_notebooks_tell_the_real_study_as_it_is():
    report = json.loads((ROOT / "results/real_study/report.json").read_text(encoding="utf-8"))
    primary = report["contrasts"][0]["original"]["accuracy"]
    four, five = (prose(next((ROOT / "notebooks").glob(f"{n}_*.ipynb"))) for n in ("04", "05"))
    doubtful = json.loads((ROOT / "results/knee_clip/validation.json").read_text(encoding="utf-8"))["confusion"][1]
    assert f"it finds {doubtful[1]} of {sum(doubtful)}" in five
    plain, corrected = ([100 * end for end in primary[name]] for name in ("runs_ci", "corrected_ci"))
    for low, high in (plain, corrected):
        shown = f"[{low:.1f}, {high:.1f}]".replace("-", "−")
        assert shown in four and shown in prose(ROOT / "results/README.md") and low < 0 < high
    agreement = {row["label"]: f"{100 * row['flip_agreement']['value']:.1f} %" for row in report["arms"]}
    assert f"{agreement['clip_koa']} of the knees after `clip_koa`, on {agreement['clip']} after `clip`" in four
    by_fold, gain = primary["by_run"], 0.0236
    assert by_fold[0] > gain and max(by_fold[1:]) < 0 and "The other four differences are below 0" in five
    points, relative = 100 * gain, 71.86 - 71.86 / 1.0236
    assert f"{relative:.2f}, which is the gain if the paper's figure is relative" in five
    assert not primary["ci"][0] <= gain <= primary["ci"][1] and "+2.36 lies outside the interval over patients" in five
    assert plain[0] < relative < plain[1] < points < corrected[1] and "the corrected one over folds includes it" in five
    shift, edge = (gain / primary["fold_sd"] * n**0.5 for n in (6, 7)), (stats.t.ppf(0.975, n - 1) for n in (6, 7))
    power = [stats.nct.sf(t, n - 1, x) for n, x, t in zip((6, 7), shift, edge, strict=True)]
    page = prose(ROOT / "results/README.md")
    assert power[0] < 0.8 <= power[1] and "About seven" in five and "seven independent pairs" in page
    low_end, high_end = ((4 / stats.chi2.ppf(q, 4)) ** 0.5 for q in (0.975, 0.025))  # of an SD of five values
    uncertain = [primary["fold_sd"] * end for end in (low_end, high_end)]

    def pairs(sd):
        edges = ((n, stats.t.ppf(0.975, n - 1)) for n in range(2, 99))
        return next(n for n, t in edges if stats.nct.sf(t, n - 1, gain / sd * n**0.5) >= 0.8)

    needed = [pairs(sd) for sd in uncertain]
    shown = "{:.1f} to {:.1f} points, or {} to {} pairs".format(*(100 * sd for sd in uncertain), *needed)
    assert shown in page
    second = json.loads((ROOT / "results/real_study_224/report.json").read_text("utf-8"))["contrasts"][0]
    sd = second["original"]["accuracy"]["fold_sd"]
    few, five_pairs, many = (pairs(x) for x in (sd * low_end, sd, sd * high_end))
    assert f"{100 * sd:.1f} points, it takes five ({few} to {many})" in page and five_pairs == 5


def test_the_study_at_224_px_is_told_as_it_ended():
    """The findings page, notebooks and README, against the second study's report and what was asked after its plan."""
    page = prose(ROOT / "results/README.md")
    four, five = (prose(next((ROOT / "notebooks").glob(f"{n}_*.ipynb"))) for n in ("04", "05"))
    first, now = (json.loads((ROOT / f"results/real_study{n}/report.json").read_text("utf-8")) for n in ("", "_224"))
    assert now["study"]["finished"] == now["study"]["planned"] == 35
    found = {(c["a"], c["b"]): c["original"]["accuracy"] for c in now["contrasts"]}

    def span(ci):
        return "[{:.1f}, {:.1f}]".format(*(100 * end for end in ci)).replace("-", "−")

    def told(row):
        return f"{100 * row['difference']:+.1f} points {span(row['ci'])}".replace("-", "−")

    for pair, row in found.items():
        assert row["corrected_ci"][0] < 0 < row["corrected_ci"][1], pair  # "every one includes 0" (notebook 05)
        if pair != ("flip_aug", "clip"):
            assert told(row) in page and span(row["corrected_ci"]) in page, pair
    primary = found["clip_koa", "clip"]
    assert primary["verdict"] == "equivalent" and told(primary) in prose(ROOT / "README.md")
    assert told(primary).replace(" points", "") in four and span(primary["corrected_ci"]) in four
    others = 100 * np.mean(primary["by_run"][1:])
    assert f"(+{100 * primary['by_run'][0]:.1f}; the other four are {others:.1f} on".replace("-", "−") in page
    arms = [{a["label"]: a for a in study["arms"] if a["side"] == "both"} for study in (first, now)]
    better = [100 * (arms[1][n]["original"]["accuracy"]["value"] - a["original"]["accuracy"]["value"])
              for n, a in arms[0].items()]  # fmt: skip
    assert f"grades {min(better):.1f} to {max(better):.1f} points more knees right" in page
    plain = [f"{100 * arm['clip']['original']['accuracy']['value']:.1f} %" for arm in arms]
    assert f"(plain `clip` {plain[1]} after {plain[0]})" in five and f"`clip` {plain[1]} instead of {plain[0]}" in four
    for arm in ("clip_koa", "clip"):
        assert f"{100 * arms[1][arm]['flip_agreement']['value']:.1f} %" in page
    asked = json.loads((ROOT / "results/posthoc.json").read_text("utf-8"))["real_study_224"]
    free = asked["canonical - clip"]
    assert min(free["by_fold"]) > 0 and "above 0 in each of the five folds°" in page
    assert f"+{100 * free['difference']:.1f} {span(free['ci'])}°" in page and f"{span(free['corrected_ci'])}°" in page
    last = asked["last_epoch"]["clip_koa"]
    assert 0.004 < np.mean(last["consistency"]) / np.mean(last["total"]) < 0.006  # "half a percent"


def test_which_split_is_the_easier_one_is_told_as_found():
    arms = json.loads((ROOT / "results/real_study/by_split.json").read_text(encoding="utf-8"))["arms"].values()
    page = prose(ROOT / "results/knee_clip/LOG.md")
    for split in ("tune", "train", "validation"):
        shown = [100 * arm[split]["accuracy"]["value"] for arm in arms]
        assert f"{min(shown):.1f} to {max(shown):.1f} %" in page, split
        shown = [arm[split]["qwk"]["value"] for arm in arms]
        assert f"{min(shown):.3f} to {max(shown):.3f}".replace("0.", ".") in page, split
    shown = [100 * arm["tune"]["accuracy_at_the_grades_of_validation"] for arm in arms]
    assert f"`tune` would have {min(shown):.1f} to {max(shown):.1f} %" in page


def test_the_trial_with_four_teachers_is_told_as_it_ended():
    found = json.loads((ROOT / "results/knee_clip/four_teachers.json").read_text(encoding="utf-8"))
    page = (ROOT / "results/knee_clip/LOG.md").read_text(encoding="utf-8")
    rows = {row[0]: row[2:] for row in (line.strip("| ").split(" | ") for line in page.splitlines()) if len(row) == 6}

    def bare(who, *names):
        return ", ".join(f"{found['history'][who][-1][name]:.3f}".lstrip("0") for name in names)

    others = [f"teacher-{seed}" for seed in (1, 2, 3)]
    assert rows["8"][:2] == [", ".join(bare(who, name) for who in others) for name in ("accuracy", "qwk")]
    assert rows["8"][2] == "; ".join(bare(who, "averaged_accuracy", "averaged_qwk") for who in others)
    averaged = bare("student", "averaged_accuracy", "averaged_qwk")
    assert rows["10"][:3] == [bare("student", "accuracy"), bare("student", "qwk"), averaged]
    scores = [rows_of[-1]["averaged_accuracy"] for who, rows_of in found["history"].items() if who != "student"]
    assert scores[0] == max(scores) and "luckiest of four" in page
    shown = [f"{score:.3f}".lstrip("0") for score in scores]
    assert f"{', '.join(shown[:3])} and {shown[3]} of `tune` right" in prose(ROOT / "results/knee_clip/LOG.md")


def test_the_log_of_knee_clip_tells_the_longer_trainings_as_they_ended():
    log, folder = (ROOT / "results/knee_clip/LOG.md").read_text(encoding="utf-8"), ROOT / "results/knee_clip"
    cells = ([cell.strip("* ") for cell in line.strip("|").split("|")] for line in log.splitlines())
    rows = {row[0]: row[2:5] for row in cells if len(row) == 6}
    run = json.loads((ROOT / "kneeclip/assets/knee-clip/run.json").read_text(encoding="utf-8"))
    teacher, before = (json.loads((folder / f"{n}.json").read_text("utf-8")) for n in ("longer_teacher", "row_13"))
    told = {"11": teacher["history"], "13": before["history"]["student"], "18": run["history"]["student"]}
    told |= {str(14 + i): run["history"][f"teacher-{i}"] for i in range(4)}
    for row, shown in (("19", 176), ("20", 224), ("22", 264), ("24", "ordinal"), ("25", "balanced")):
        told[row] = json.loads((folder / f"photographs_{shown}.json").read_text(encoding="utf-8"))["history"]
    told["21"] = json.loads((folder / "further.json").read_text(encoding="utf-8"))["tries"][1]["history"]
    for row, name in (("23", "noted"), ("26", "views")):
        told[row] = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["history"]
    for name, history in told.items():
        names = ("accuracy", "qwk", "averaged_accuracy", "averaged_qwk")
        accuracy, qwk, *averaged = [f"{history[-1][key]:.3f}".lstrip("0") for key in names]
        assert rows[name] == [accuracy, qwk, ", ".join(averaged)], name
    assert [told[row][-1]["epoch"] for row in ("11", "13", "14", "17", "18")] == [60, 150, 45, 45, 120]
    assert run["recipe"]["student"]["epochs"] == 120 and run["recipe"]["asked"] == [0, 1, 2, 3]
    losses = [short(told[row][-1]["tempered_loss"]) for row in ("14", "15", "16", "17", "18")]
    shown = f"is {losses[-1]} where theirs are {min(losses[:-1])} to {max(losses[:-1])}"
    assert shown in prose(folder / "LOG.md")
    seen = [short(told[row][-1]["tempered_loss"]) for row in ("19", "20")]  # ImageNet's photographs
    assert f"`tune` is {seen[0]} (14 to 17: {min(losses[:-1])} to {max(losses[:-1])})" in prose(folder / "LOG.md")
    assert f"it has {seen[1]}, lower than theirs and than 18's ({losses[-1]}, on the PNGs " in prose(folder / "LOG.md")
    assert seen[1] < min(losses)
    page = prose(folder / "README.md")
    for row in ("5", "12", "13"):  # the models before it, each graded once more here or there
        before = json.loads((folder / f"validation_of_row_{row}.json").read_text(encoding="utf-8"))
        shown = " and ".join(f"{before[key]:.3f}".lstrip("0") for key in ("accuracy", "qwk"))
        assert f"{shown} (row {row}" in page
    now = json.loads((folder / "validation.json").read_text(encoding="utf-8"))
    assert "reaches one of its three targets" in page
    assert now["accuracy"] >= 0.62 > now["ci"]["accuracy"][0] and now["ci"]["ece"][0] < 0.05 < now["ece"] < 0.0515
    assert now["qwk"] < now["ci"]["qwk"][1] < 0.78 and now["accuracy"] < 0.66 < now["ci"]["accuracy"][1]


def test_a_lesson_that_did_not_ship_is_told_as_it_ended():
    page, folder = prose(ROOT / "results/knee_clip/LOG.md"), ROOT / "results/knee_clip"
    found = json.loads((folder / "further.json").read_text(encoding="utf-8"))
    stopped, whole = (one["history"] for one in found["tries"])

    last, before, looks = whole[-1], found["before"], [row["tempered_loss"] for row in whole]
    assert (min(looks), max(looks)) == (looks[0], looks[3]) and before["tempered_loss"] - looks[-1] < 0.01
    for shown in (
        f"ends at {short(looks[-1])} where 18 has {short(before['tempered_loss'])}",
        "{} and {} for {} and {})".format(*(short(row[key]) for row in (last, before) for key in ("accuracy", "qwk"))),
        f"between {short(min(looks))} (the first) and {short(max(looks))} (the fourth)",
        "had {} after one epoch and {} after two".format(*(short(row["tempered_loss"]) for row in stopped)),
        f"fell from {short(whole[0]['losses'][0])} to {short(last['losses'][0])}",
    ):
        assert shown in page, shown

    other, noted = (json.loads((folder / f"{n}.json").read_text("utf-8")) for n in ("photographs_264", "noted"))
    looks, gaps = zip(*((row["tempered_loss"], row["losses"][0]) for row in noted["history"]), strict=True)
    assert min(looks) > before["tempered_loss"] - 0.01  # at no look would the rule have let it ship
    for shown in (
        f"cross-entropy of {short(other['history'][-1]['tempered_loss'])} where 20 has",
        "have {} on `tune` (QWK {})".format(*(short(noted["noted"][name]) for name in ("tempered_loss", "qwk"))),
        f"18 ends at {short(looks[-1])} (looks between {short(min(looks))} and {short(max(looks))})",
        "from {} in the first epoch to {} in the second and then fell to {} (KL".format(
            *(short(gaps[i]) for i in (0, 1, -1))
        ),
    ):
        assert shown in page, shown

    views = json.loads((folder / "views.json").read_text(encoding="utf-8"))["history"]
    looks, last = [row["tempered_loss"] for row in views], views[-1]
    assert min(looks) > before["tempered_loss"] - 0.01 and last["qwk"] < before["qwk"] - 0.01
    ends = [before["tempered_loss"] - h[-1]["tempered_loss"] for h in (whole, noted["history"], views)]
    for shown in (
        f"ends at {short(looks[-1])} (looks between {short(min(looks))} and {short(max(looks))}) with a QWK of"
        f" {short(last['qwk'])}",
        f"fell from {short(views[0]['losses'][0])} in the first epoch to {short(last['losses'][0])} in the last",
        f"ended {short(min(ends))} to {short(max(ends))} below",
    ):
        assert shown in page, shown


def test_what_the_teachers_are_worth_on_validation_is_told_as_found():
    page, folder = prose(ROOT / "results/knee_clip/LOG.md"), ROOT / "results/knee_clip"
    found = json.loads((folder / "together.json").read_text(encoding="utf-8"))
    rows, names = found["graders"], {"18": "knee-clip"} | {row: f"row_{row}" for row in ("20", "22", "24", "25")}
    reports = {row: next(rows[who] for who in rows if who.startswith(name)) for row, name in names.items()}
    for row, report in reports.items():
        assert f"{row} {short(report['validation']['accuracy'])} and {short(report['validation']['qwk'])}" in page, row
    together = rows["together"]["validation"]
    spans = [f"[{short(low)}, {short(high)}]" for low, high in (together["ci"][n] for n in ("accuracy", "qwk"))]
    shown = f"{short(together['accuracy'])} {spans[0]} and {short(together['qwk'])} {spans[1]}"
    assert f"all five together {shown}, ECE {short(together['ece'])}" in page
    losses = [short(report["validation"]["cross_entropy"]) for report in reports.values()]
    assert f"{', '.join(losses[:-1])} and {losses[-1]}; together {short(together['cross_entropy'])}" in page
    assert f"cross-entropy {losses[3]} where 20 has {losses[1]}, and QWK" in page
    met = {row: (r["validation"]["accuracy"] >= 0.62, r["validation"]["qwk"] >= 0.78) for row, r in reports.items()}
    assert [row for row, (_, qwk) in met.items() if qwk] == ["25"] and not any(all(pair) for pair in met.values())
    tune = rows["together"]["tune"]
    assert all(tune[name] >= r["tune"][name] for name in ("accuracy", "qwk") for r in reports.values())
    assert (
        f"`tune` too it has the highest accuracy and QWK ({short(tune['accuracy'])} and {short(tune['qwk'])})" in page
    )
    misses = (0.78 - together["qwk"], together["ece"] - 0.05)
    assert "misses the QWK of .78 by {} and the ECE of .05 by {}".format(*map(short, misses)) in page
    pairs = found["cross_entropy_on_tune_lower_by"]
    for before, now, words in (
        ("row_20", "row_24", "lower by"),
        ("knee-clip", "row_20", "below 18 by"),
        ("row_25", "row_20", "the higher one by"),
    ):
        pair = next(p for p in pairs if {p["before"].split("/")[0], p["now"].split("/")[0]} == {before, now})
        sign = 1 if pair["before"].startswith(before) else -1
        low, high = sorted(sign * end for end in pair["ci"])
        assert f"{words} {short(sign * pair['difference'])} [{short(low)}, {short(high)}]" in page, words
    plain, ordinal, balanced = (reports[row]["tune"] for row in ("20", "24", "25"))
    assert f"of {short(ordinal['cross_entropy'])} where 20 has {short(plain['cross_entropy'])}" in page
    gains = (abs(balanced[n] - plain[n]) for n in ("accuracy", "qwk"))
    assert "flip-averaged, {} and {}".format(*map(short, gains)) in page


def test_knee_clip_against_the_one_before_it_is_told_as_found():
    """README, log and notebook 05, against results/knee_clip/paired.json, which paired.py makes anew."""
    folder = ROOT / "results/knee_clip"
    found = json.loads((folder / "paired.json").read_text(encoding="utf-8"))
    now, before = (json.loads((folder / f"validation{n}.json").read_text("utf-8")) for n in ("", "_of_row_13"))
    pair, pages = found["validation"], [prose(folder / name) for name in ("README.md", "LOG.md")]
    five = prose(next((ROOT / "notebooks").glob("05_*.ipynb")))
    for name in ("accuracy", "qwk", "ece", "auc_kl2"):
        assert abs(pair[name]["difference"] - (now[name] - before[name])) < 0.003, name

    def told(row):
        return f"{short(row['difference'])} [{short(row['ci'][0])}, {short(row['ci'][1])}]"

    points = "{:.1f} points [{:.1f}, {:.1f}]".format(
        *(100 * x for x in (pair["accuracy"]["difference"], *pair["accuracy"]["ci"]))
    )
    for shown in (points.replace("-", "−"), *(told(row) for row in (pair[n] for n in ("qwk", "ece", "auc_kl2")))):
        assert all(shown in page for page in pages), shown
    assert (
        told(pair["cross_entropy_lower_by"]) in pages[0] and told(found["tune"]["cross_entropy_lower_by"]) in pages[1]
    )
    assert points.replace("-", "−") in five and told(pair["qwk"]) in five
    assert told(pair["auc_kl2"]) in five and told(pair["cross_entropy_lower_by"]) in five
    clear = [n for n in ("accuracy", "qwk", "ece", "auc_kl2", "cross_entropy_lower_by") if pair[n]["ci"][0] > 0]
    assert clear == ["auc_kl2", "cross_entropy_lower_by"] and "clear of 0 are the last two" in pages[0]


def test_the_second_learning_curve_is_told_beside_the_first():
    folder = ROOT / "results/learning_curve"
    now, before = (json.loads((folder / f"{n}.json").read_text(encoding="utf-8")) for n in ("report", "former"))
    moved = {a["label"]: a["original"]["qwk"]["value"] - before["qwk"][a["label"]]["value"] for a in now["arms"]}
    assert max(map(abs, moved.values())) < 0.02
    assert all(abs(x) < 0.0005 for label, x in moved.items() if label.endswith("fresh"))


def test_the_first_table_of_the_readme_and_the_page_of_knee_clip_are_those_of_the_results():
    def percent(report):
        low, high = (100 * end for end in report["ci"]["accuracy"])
        return f"{100 * report['accuracy']:.1f} % [{low:.1f}, {high:.1f}]"

    def load(name):
        return json.loads((ROOT / "results" / name).read_text(encoding="utf-8"))

    rows = {row[0]: row[1:] for row in table((ROOT / "README.md").read_text(encoding="utf-8"), "model")}
    majority = rows.pop("majority class (always KL0)")
    reports = [load(f"{name}.json") for name in ("first_real_run/zero_shot", "first_real_run/pretrained")]
    reports.append(load("knee_clip/validation.json"))
    assert majority[0] == f"{100 * reports[2]['per_grade'][0]['n'] / reports[2]['n']:.1f} %"
    assert list(rows.values()) == [
        [percent(report), *(with_interval(report, name) for name in ("qwk", "auc_kl2", "ece"))] for report in reports
    ]
    page = {
        row[0]: row[1:] for row in table((ROOT / "results/knee_clip/README.md").read_text(encoding="utf-8"), "metric")
    }
    ours = reports[2]
    for label, key in (("accuracy", "accuracy"), ("QWK", "qwk"), ("ECE", "ece"), ("MAE (grades)", "mae")):
        assert page[label][0] == with_interval(ours, key) and page[label][2] == with_interval(ours["averaged"], key)


def _the_control_of_maps(page: str, folder: Path) -> None:
    """Seed by seed `both`, then `maps`, and the mean of their differences with its interval."""
    record = json.loads((folder / "ablation.json").read_text(encoding="utf-8"))
    made, gain = {(run["arm"], run["seed"]): run for run in record["runs"]}, record["gain"]
    columns = [(part, key) for part in ("train", "tune") for key in ("auc_kl2", "spearman")] + [("phantoms", "qwk")]
    *rows, last = table(page, "seed")
    assert [row[0] for row in rows] == [str(seed) for seed in gain["seeds"]] and len(rows) == 4
    for i, (part, key) in enumerate(columns):
        pairs = [[made[arm, seed][part][key] for arm in ("both", "maps")] for seed in gain["seeds"]]
        assert [row[1 + i] for row in rows] == [", ".join(short(value) for value in pair) for pair in pairs]
        by_seed = [maps - both for both, maps in pairs]
        mean, (low, high) = np.mean(by_seed), stats.ttest_1samp(by_seed, 0).confidence_interval(0.95)
        told = gain[part][key]
        assert [told["mean"], *told["ci"]] == pytest.approx([mean, low, high])
        assert last[1 + i] == f"{short(mean)} [{short(low)}, {short(high)}]", (part, key)
        assert part == "phantoms" or max(by_seed) < 0  # lower in every seed, as the page says
    alone = [short(np.mean([made["both", seed]["train"][key] for seed in gain["seeds"]])) for _, key in columns[:2]]
    assert f"without maps have on average {alone[0]} and {alone[1]} on train" in page
    watched = {
        arm: [run["tune"]["auc_kl2"] for run in record["runs"] if run["arm"] == arm] for arm in ("both", "as drawn")
    }
    both, drawn = watched.values()
    assert min(both) > max(drawn) and f"the means are {short(np.mean(both))} and {short(np.mean(drawn))}" in page
    assert page.count(f"{short(min(both))} to {short(max(both))}") == 3
    assert f"{short(max(both) - min(both))} between five seeds of both together" in page
    for (part, key), times in {("tune", "spearman"): 1, ("phantoms", "qwk"): 2}.items():
        values = [run[part][key] for run in record["runs"] if run["arm"] == "both"]
        assert page.count(f"{short(min(values))} to {short(max(values))}") == times, key


def test_the_page_from_phantom_to_real_shows_the_figures_of_its_files():
    folder = ROOT / "results" / "phantom_to_real"
    page = (folder / "README.md").read_text(encoding="utf-8")
    names = {"former": "the former", "four_epochs": "after four epochs", "phantom-clip": "as it ships"}
    for name, words in names.items():
        record = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))
        for split in ("tune", "validation"):
            row = next(line for line in page.splitlines() if words in line and f"| {split} |" in line)
            for key in ("auc_kl2", "spearman"):
                value, (low, high) = record[split][key], record[split]["ci"][key]
                shown = [f"{x:.3f}".lstrip("0") for x in (value, low, high)]
                assert f"{shown[0]} [{shown[1]}, {shown[2]}]" in row, (name, split, key)
    trials = (json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("ablation", "middle"))
    runs = [run for trial in trials for run in trial["runs"]]
    _the_control_of_maps(page, folder)
    former = json.loads((folder / "ablation_former.json").read_text(encoding="utf-8"))
    shown = {row[0]: row[1:] for row in table(page, "phantoms shown")}
    arms = {"as drawn": "as drawn", "on another film": "other films", "2.5 times": "variety", "both:": "both"}
    arms["both, the middle"] = "both, the middle"
    for words, found in {words: [run for run in runs if run["arm"] == arm] for words, arm in arms.items()}.items():
        row = next(row for name, row in shown.items() if name.startswith(words))
        for cell, key in zip(row, (("tune", "auc_kl2"), ("tune", "spearman"), ("phantoms", "qwk")), strict=True):
            assert cell == ", ".join(f"{run[key[0]][key[1]]:.3f}".lstrip("0") for run in found), (words, key)
    row = next(row for name, row in shown.items() if name.startswith("the former drawings"))
    assert row[0] == f"{former['tune']['auc_kl2']:.3f}".lstrip("0")
    taught = json.loads((folder / "taught.json").read_text(encoding="utf-8"))
    arms = taught["arms"]  # in the order of the rows, but for what they are compared with
    rows = table(page, "taught")[1:]
    for row, arm in zip(rows, [arms[i] for i in (4, 3, 0, 2, 1, 5, 6)], strict=True):
        last = next(look for look in arm["history"] if look["epoch"] == 8 and look["weights"] == "last")
        told = [
            f"{last[split][key]:.3f}" if split in last else "–" for split in ("tune", "train") for key in last["tune"]
        ]
        assert row[1:] == [figure.removeprefix("0") for figure in [*told, f"{last['phantoms_qwk']:.3f}"]], row[0]
    network = taught["network"]["history"][-1]
    for found in (network["tune"], network["train"], taught["frozen"]["tune"]):
        assert " and ".join(
            f"{value:.3f}".removeprefix("0") for key, value in found.items() if key != "n"
        ) in page.replace(" and a rank correlation of", " and")
    for name, split in (("maps_full", "tune"), ("maps_full", "train"), ("phantom-clip", "train")):
        found = json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))[split]
        words = [
            " ".join([f"{found[key]:.3f}", "[" + ", ".join(f"{x:.3f}" for x in found["ci"][key]) + "]"])
            for key in ("auc_kl2", "spearman")
        ]
        told = " and ".join(words).replace("0.", ".")
        assert told in page.replace(" and rank correlation", " and"), (name, split)
    pretrained = [
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8"))["phantoms"]["qwk"]
        for name in ("maps_full", "phantom-clip")
    ]
    assert "they are alike (QWK {:.3f} and {:.3f})".format(*pretrained).replace("0.", ".") in page
    zero_shot = json.loads((ROOT / "results/first_real_run/zero_shot.json").read_text(encoding="utf-8"))
    ships = json.loads((folder / "phantom-clip.json").read_text(encoding="utf-8"))
    assert zero_shot["auc_kl2"] == ships["validation"]["auc_kl2"]  # the same weights were graded
