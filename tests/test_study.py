"""Studies: runs that are never done twice, at matched views, and a report that says what its files say."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from sklearn import metrics as sk

from kneeclip import cli, evaluation, study, training, updating
from kneeclip.charts import _lines
from kneeclip.errors import Diverged, KneeError
from kneeclip.findings import finding, markdown
from kneeclip.grid import Planned, Variant, matched, parse_study, read_study
from kneeclip.ledger import read_results
from kneeclip.presets import Recipe
from kneeclip.report import Book, make_report
from kneeclip.study import Images, run_study
from kneeclip.verdicts import verdict

ALONE = {"seeds": [0], "question": {}}
ARMS = ["clip", "flip_aug", "clip_koa", "canonical", "nonsense"]


def settings(model, **changes):
    return {
        "data": "phantom",
        "phantom_patients": {"train": 8, "tune": 4, "validation": 6},
        "model": str(model),
        "seeds": [0, 1],
        "recipe": {"epochs": 2, "batch_size": 4, "lr": 1e-3},
        "grid": {"arms": ARMS},
        "question": {"metric": "accuracy", "contrasts": [["clip_koa", "clip"], ["clip_koa", "flip_aug"]]},
    } | changes


def write(folder, values) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def quietly(config, out, **more):
    return run_study(config, out, work=out.parent / "work", say=more.pop("say", lambda line: None), **more)


def record(out, name):
    return json.loads((out / "runs" / f"{name}.json").read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory, tiny_folder):
    """A finished study of five arms and two seeds: its folder, its config, what was counted and said."""
    home = tmp_path_factory.mktemp("study")
    config, out, said, views = write(home, settings(tiny_folder)), home / "five", [], []
    real = updating.make_views

    def counting(*args):
        made = real(*args)
        views.append(len(made))
        return made

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(updating, "make_views", counting)
        counts = []
        for run in read_study(config).runs:  # one run at a time, to count the views of each
            views.clear()
            assert quietly(config, out, only=run.name, say=said.append) == 1
            counts.append((sum(views), len(views)))
    return out, config, counts, said


def test_every_arm_has_equally_many_views_updates_and_looks(done):
    out, _, counts, _ = done
    assert set(counts) == {(16 * 2 * 2, 8)}  # images × views × epochs, and steps
    records = [json.loads(path.read_text()) for path in (out / "runs").iterdir()]
    assert {(r["views"], r["looks"]) for r in records} == {(64, 2)}
    for r in records:
        judged = [row["epoch"] for row in r["history"] if "tune_accuracy" in row]
        assert judged == ([0, 1] if r["recipe"]["epochs"] == 2 else [1, 3]) and r["best_epoch"] in judged


def test_shares_and_one_side_have_as_many_views_too():
    recipe = Recipe(epochs=3, batch_size=8)
    for variant, images, views in (
        (Variant("clip_koa", "kl", 0.3), 400, 2),
        (Variant("clip"), 400, 1),
        (Variant("clip", sides="R"), 200, 1),
        (Variant("symmetry", share=25.0), 100, 2),
        (Variant("nonsense", "js", 1.0, share=5.0), 20, 2),
    ):
        got = matched(recipe, Planned(variant, 0, 7))
        assert images * got.epochs * views == 400 * 3 * 2 and got.views == views and got.seed == 7
        assert got.epochs // got.judge_every == 3 and got.epochs % got.judge_every == 0
    assert matched(recipe, Planned(Variant("clip_koa", "kl", 0.3), 0, 0)).consistency == "kl"
    assert matched(recipe, Planned(Variant("nonsense", "js", 1.0), 0, 0)).arm == "clip_koa"


def test_a_run_says_how_it_was_made_and_is_small(done):
    out, config, _, said = done
    r = record(out, "fold0-seed1-clip_koa-js-w1")
    assert r["config"] == read_study(config).hash and r["seed"] == 1 and r["recipe"]["arm"] == "clip_koa"
    assert {"torch", "device", "threads", "commit"} <= set(r["environment"]) and r["wall_seconds"] > 0
    assert np.shape(r["p"]) == np.shape(r["p_flip"]) == (12, 5) and "steps" not in r
    assert all(len(f"{x}".split(".")[-1]) <= 5 for x in np.ravel(r["p"]) if x > 1e-4)
    path = out / "runs" / "fold0-seed1-clip_koa-js-w1.json"
    assert path.stat().st_size - 12 * 2 * 5 * 8 < 5_000  # 8 bytes a probability, and little else: 106 kB for 1,321
    lines = [line for line in said if line.startswith("[")]
    assert len(lines) == 10 and lines[0].startswith("[1/10] fold0-seed0-clip:") and "min left" in lines[0]
    assert not list((out.parent / "work").glob("*/*/*.safetensors"))  # the weights are gone


def test_finished_runs_are_never_made_again(done, monkeypatch):
    out, config, _, _ = done
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    monkeypatch.setattr("kneeclip.study.train", None)
    assert quietly(config, out) == 0
    assert before == {path: path.read_bytes() for path in out.rglob("*.json") if path in before}


def test_a_killed_study_goes_on_and_ends_in_the_same_bits(done, tiny_folder, tmp_path, monkeypatch):
    whole, _, _, _ = done
    config, out = write(tmp_path, settings(tiny_folder, grid={"arms": ["clip", "clip_koa"]}, **ALONE)), tmp_path / "k"
    real, calls = training.update, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 14:  # the second run, its second epoch
            raise KeyboardInterrupt
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(training, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            quietly(config, out)
    assert [path.name for path in (out / "runs").iterdir()] == ["fold0-seed0-clip.json"]
    assert quietly(config, out) == 1
    resumed = record(out, "fold0-seed0-clip_koa-js-w1")
    assert resumed["resumed_at"] == 4
    for name in ("fold0-seed0-clip", "fold0-seed0-clip_koa-js-w1"):
        a, b = record(out, name), record(whole, name)
        for r in (a, b):
            for row in r["history"]:
                del row["seconds"]
        assert all(a[key] == b[key] for key in ("p", "p_flip", "history", "best_epoch", "temperature"))


def test_a_half_written_file_is_no_run(done, tiny_folder, tmp_path):
    whole, _, _, _ = done
    config, out = (
        write(tmp_path, settings(tiny_folder, grid={"arms": ["clip"]}, **ALONE)),
        tmp_path / "h",
    )
    (out / "runs").mkdir(parents=True)
    text = (whole / "runs" / "fold0-seed0-clip.json").read_text()
    (out / "runs" / ".fold0-seed0-clip.json-abc").write_text(text[:500])  # what a kill in the middle of writing leaves
    assert quietly(config, out) == 1
    assert len(read_results(out)[2]) == 1
    (out / "runs" / "fold0-seed0-clip.json").write_text(text[:500])  # and a damaged disk
    for use in (lambda: read_results(out), lambda: quietly(config, out)):
        with pytest.raises(KneeError, match="damaged.*fold0-seed0-clip.json.*makes it again"):
            use()


def test_a_record_that_is_json_and_no_record_is_named(done, tmp_path):
    whole = done[0]
    name = "fold0-seed0-clip.json"
    text = (whole / "runs" / name).read_text()
    record, out = json.loads(text), tmp_path / "copy"
    shutil.copytree(whole, out)
    rows = record["p"]
    harms = [
        {"p": None},
        {"p": rows[1:], "p_flip": rows[1:]},  # whole in itself, and an image short
        {"p": rows[1:]},
        {"p": [[float("nan")] * 5, *rows[1:]]},
        {"p": [row[:4] for row in rows], "p_flip": [row[:4] for row in rows]},
        {"history": []},
        {"environment": "mine"},
        {"environment": {"device": "CPU"}},
        {"history": [{"tune_accuracy": 0.5}]},
        {"p": [[2.0, -1.0, 0, 0, 0], *rows[1:]]},
        {"views": "many"},
        {"images": {"train": 30}},
    ]
    for harm in harms:
        (out / "runs" / name).write_text(json.dumps(record | harm))
        with pytest.raises(KneeError, match=f"damaged.*{name}.*makes it again"):
            read_results(out)
    (out / "runs" / name).write_text(text)
    assert len(read_results(out)[2]) == 10
    study = json.loads((out / "study.json").read_text())
    (out / "study.json").write_text(json.dumps(study | {"images": study["images"] | {"grade": [0]}}))
    with pytest.raises(KneeError, match="damaged.*study.json.*restore"):
        read_results(out)


def test_other_settings_images_or_weights_are_refused(done, tiny, tiny_folder, tmp_path):
    from kneeclip.model import save_clip

    out, _, _, _ = done
    before = {path: path.read_bytes() for path in out.rglob("*.json")}
    changed = write(tmp_path, settings(tiny_folder, recipe={"epochs": 2, "batch_size": 4, "lr": 2e-3}))
    with pytest.raises(KneeError, match="other settings.*choose another --out"):
        quietly(changed, out)
    model, processor = tiny
    base = save_clip(model, processor, tmp_path / "base")
    config, other = write(tmp_path, settings(base, grid={"arms": ["clip"]}, **ALONE)), tmp_path / "other"
    quietly(config, other)
    model.logit_scale.data += 1
    save_clip(model, processor, base)
    with pytest.raises(KneeError, match="base model are not those"):
        quietly(config, other)
    assert before == {path: path.read_bytes() for path in out.rglob("*.json") if path in before}


def test_two_shells_share_a_study_and_the_dead_hold_nothing(tiny_folder, tmp_path):
    config, out = (
        write(tmp_path, settings(tiny_folder, grid={"arms": ["clip", "flip_aug"]}, **ALONE)),
        tmp_path / "two",
    )
    quietly(config, out, limit=1)
    assert not [*(out / "runs").glob(".*.lock")]  # a finished run needs none
    lock = out / "runs" / ".fold0-seed0-flip_aug.lock"
    code = (
        "import sys, filelock\nlock = filelock.FileLock(sys.argv[1]); lock.acquire()\n"
        "print('held', flush=True); sys.stdin.readline()"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(lock)], stdin=-1, stdout=-1, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        said = []
        assert quietly(config, out, say=said.append) == 0 and "another process is at 1" in said[-1]
    finally:
        other.kill()  # without a word: the system lifts the lock
        other.communicate()
    assert quietly(config, out) == 1


def test_a_run_that_is_stopped_in_a_notebook_can_be_gone_on_with(tiny_folder, tmp_path, monkeypatch):
    config, out = write(tmp_path, settings(tiny_folder, grid={"arms": ["clip"]}, **ALONE)), tmp_path / "stopped"
    with monkeypatch.context() as patch:
        patch.setattr(study, "train", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt) as kept:  # as a notebook keeps the last traceback, and all that it holds
            quietly(config, out)
    assert quietly(config, out) == 1 and kept.value is not None


def test_two_prompt_sets_are_two_runs(tiny_folder):
    runs = parse_study(
        settings(tiny_folder, grid={"arms": ["clip_koa"], "prompts": ["criteria", "nonsense"]}, **ALONE)
    ).runs
    assert [run.name for run in runs] == ["fold0-seed0-clip_koa-js-w1", "fold0-seed0-clip_koa-js-w1-nonsense"]


def test_the_largest_full_table_of_an_unfinished_study():
    units = {(0, 0), (0, 1), (1, 1), (1, 2), (2, 1), (2, 3)}
    book = object.__new__(Book)
    book.units = lambda variant: units
    assert book.common(["any"]) == ([0, 1, 2], [1])


def test_what_a_study_can_t_ask_for(tmp_path, tiny_folder):
    for changes, what in (
        ({"split": "test"}, "opened once.*config.yaml.*leave the line away"),
        ({"data": "kaggle"}, "phantom or real"),
        ({"folds": 5}, "folds"),
        ({"grid": {"arms": ["clipp"]}}, "clipp.*choose among clip"),
        ({"grid": {"forms": ["jsd"]}}, "jsd"),
        ({"grid": {"weights": [-1]}}, "weights"),
        ({"grid": {"arms": ["clip"], "shares": [40]}, **ALONE}, "shares.*whole number"),
        ({"grid": {"weights": [1, 1.0000001]}, **ALONE}, "share a file"),
        ({"recipe": {"seed": 3}}, "recipe has no such setting.*seed"),
        ({"epochs": 3}, "no such setting.*epochs"),
        ({"question": {"contrasts": [["clip_koa", "symmetry"]]}}, "symmetry.*choose among"),
        ({"question": {"metric": "kappa"}}, "metric"),
        ({"phantom_patients": {"exam": 3}}, "exam"),
        ({"phantom_patients": {"train": 1.5}}, "number from 1"),
        ({"question": {"margin": "2 %"}}, "margin is a number"),  # or the report would fail when all runs are made
        ({"question": {"averaged": "maybe"}}, "true or false"),
        ({"question": {"contrasts": ["clip"]}}, "for each: a minus b"),
        ({"grid": {"arms": []}}, "empty list.*arms"),
        ({"grid": []}, "grid is empty"),
        ({"seeds": []}, "seeds"),
        ({"seeds": [-1]}, "seeds: .-1."),
        ({"recipe": {"lr": "1e-4"}}, "lr.*config.yaml.*give a number.*1.0e-3"),
        ({"seeds": [[0]]}, "seeds"),
        ({"grid": {"arms": [["clip"]]}}, "can't be understood"),
    ):
        with pytest.raises(KneeError, match=what):
            run_study(write(tmp_path, settings(tiny_folder, **changes)), tmp_path / "o", work=tmp_path / "w")
    with pytest.raises(KneeError, match="no such file of settings.*none.yaml.*name a YAML file"):
        read_study(tmp_path / "none.yaml")
    with pytest.raises(KneeError, match="can't be read .*: name a YAML file"):
        read_study(tmp_path)  # a folder
    (tmp_path / "config.yaml").write_text("data: [")
    with pytest.raises(KneeError, match="can't be read"):
        read_study(tmp_path / "config.yaml")
    assert not (tmp_path / "o").exists()


def test_what_a_study_refuses_before_its_first_run(done, tiny_folder, tmp_path, monkeypatch):
    config, out = write(tmp_path, settings(tiny_folder)), tmp_path / "o"
    with pytest.raises(KneeError, match="phantoms, and data are named .*leave --data away"):
        quietly(config, out, data=str(tmp_path))
    with monkeypatch.context() as launch:
        launch.setenv("WORLD_SIZE", "2")
        with pytest.raises(KneeError, match="no launch of several processes.*several shells"):
            quietly(config, out)
    real = Images.__init__

    def without_sides(images, *args):
        real(images, *args)
        images.side[:] = ""

    monkeypatch.setattr(Images, "__init__", without_sides)
    one_side = {"grid": {"arms": ["clip"], "sides": ["R", "both"]}, **ALONE}
    for changes, culprit in ((one_side, "fold0-seed0-clip-R would have no knee in train and tune"),
                             (ALONE | {"question": {"side": "L"}}, "no knee that is reported on")):  # fmt: skip
        with pytest.raises(KneeError, match=f"{culprit}.*file names"):
            quietly(write(tmp_path, settings(tiny_folder, **changes)), out)
    assert not out.exists()


def test_a_run_by_another_recipe_is_no_run_of_the_study(done, tmp_path):
    """The file of settings may leave a default open that has changed since."""
    out = tmp_path / "copy"
    shutil.copytree(done[0], out)
    path = out / "runs" / "fold0-seed0-clip.json"
    record = json.loads(path.read_text())
    record["recipe"]["weight_decay"] = 9.0
    path.write_text(json.dumps(record))
    with pytest.raises(KneeError, match="other settings.*fold0-seed0-clip.json.*makes it again"):
        read_results(out)


def test_a_figures_line_joins_what_differs_along_it_alone():
    score = {"original": {"accuracy": 0.5}, "flip_agreement": 0.9}
    plain = {"arm": "clip_koa", "form": "js", "prompts": "criteria", "sides": "both", "start": "pretrained"}
    rows = [plain | score | {"weight": w, "share": s, "label": f"koa {w} {s}"} for w in (1, 3) for s in (5, 100)]
    lines = _lines(rows, "weight", lambda row: row["form"])
    assert {name: [point["x"] for point in line] for name, line in lines.items()} == {
        "koa 1 5": [1, 3],
        "koa 1 100": [1, 3],
    }
    assert [*_lines(rows[::2], "weight", lambda row: row["form"])] == ["js"]


def test_a_study_keeps_out_of_a_folder_of_other_files(tiny_folder, tmp_path, monkeypatch):
    config = write(tmp_path / "mine", settings(tiny_folder))
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "tax.ods").write_bytes(b"1")
    with pytest.raises(KneeError, match=r"holds other files.*\(tax.ods\).*--out"):
        run_study(config, tmp_path / "home", work=tmp_path / "w")
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["tax.ods"] and not (tmp_path / "w").exists()
    for name in ("PLAN.md", "by_split.py", ".DS_Store"):
        (tmp_path / "mine" / name).touch()
    (tmp_path / "mine" / "runs").mkdir()
    assert run_study(config, tmp_path / "mine", work=tmp_path / "w", limit=0, say=lambda line: None) == 0
    (tmp_path / "mine" / "report.json").touch()  # once it is a study's folder, whatever its reports write
    assert run_study(config, tmp_path / "mine", work=tmp_path / "w", limit=0, say=lambda line: None) == 0


def test_variants_forms_and_weights_only_where_they_mean_something():
    grid = [{"arms": ["clip", "clip_koa"], "forms": ["js", "kl"], "weights": [1, 3]}, {"arms": ["clip", "nonsense"]}]
    study = parse_study({"grid": grid, "seeds": [0, 1]})
    names = [run.name for run in study.runs]
    assert len(names) == len(set(names)) == 2 * (1 + 4 + 1)
    assert [v.label(study.variants) for v in study.variants] == [
        "clip", "clip_koa js 1", "clip_koa js 3", "clip_koa kl 1", "clip_koa kl 3", "nonsense js 1",
    ]  # fmt: skip


@pytest.fixture
def real_layout(tmp_path):
    """Forty patients in the public layout, brightness telling the grade; a test split that nobody may read."""
    rng = np.random.default_rng(0)
    for i in range(40):
        for side in "LR":
            grade = (i + (side == "L")) % 5
            folder = tmp_path / "knees" / ("train" if i < 30 else "val") / str(grade)
            folder.mkdir(parents=True, exist_ok=True)
            pixels = np.clip(rng.normal(40 + 40 * grade, 15, (28, 28)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{9000000 + i}{side}.png")
    held_back = tmp_path / "knees" / "test" / "0"
    held_back.mkdir(parents=True)
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(held_back / "9999999L.png")
    return tmp_path / "knees"


def test_folds_keep_patients_apart_and_never_see_the_test_split(real_layout, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("KNEECLIP_CACHE", str(tmp_path / "cache"))
    config = write(tmp_path, {
        "data": "real", "model": str(tiny_folder), "folds": 4, "recipe": {"epochs": 1, "batch_size": 16},
        "grid": [{"arms": ["clip", "clip_koa"]}, {"arms": ["clip"], "sides": "R"}, {"arms": ["clip"], "shares": 25}],
        "question": {"contrasts": [["clip_koa both sides 100 %", "clip both sides 100 %"]]},
    })  # fmt: skip
    study = read_study(config)
    with pytest.raises(KneeError, match="folds: 60, 80 images.*: give 1"):
        Images(dataclasses.replace(study, folds=60), str(real_layout))
    images = Images(study, str(real_layout))
    assert len(images.grade) == 80 and "9999999" not in images.patient
    told = []
    for fold in range(4):
        parts = images.parts(Planned(Variant("clip"), fold, 0))
        patients = {name: set(images.patient[rows]) for name, rows in parts.items()}
        assert not patients["train"] & patients["report"] and not patients["tune"] & patients["report"]
        assert not patients["train"] & patients["tune"] and sum(map(len, parts.values())) == 80
        told += parts["report"].tolist()
        right = images.parts(Planned(Variant("clip", sides="R"), fold, 0))
        assert set(images.side[right["train"]]) | set(images.side[right["tune"]]) == {"R"}
        assert right["report"].tolist() == parts["report"].tolist()
        few = images.parts(Planned(Variant("clip", share=25.0), fold, 0))
        assert set(few["train"]) < set(parts["train"]) and few["tune"].tolist() == parts["tune"].tolist()
    assert sorted(told) == list(range(80))  # everyone once
    # half a study, folds in order, is already a paired comparison
    out = tmp_path / "folds"
    quietly(config, out, data=str(real_layout), limit=5)
    assert sorted(path.stem for path in (out / "runs").iterdir()) == sorted(run.name for run in study.runs[:5])
    report = make_report(out, n_boot=20)
    (both,) = [c for c in report["contrasts"] if c["side"] == "both"]
    assert (both["folds"], both["n"]) == (2, int((np.array(images.fold) < 2).sum()))
    accuracy = both["original"]["accuracy"]
    one, two = accuracy["by_run"]
    # Student's t of one degree of freedom; the folds' training sets share images: a quarter of them is held out, 1 : 3
    for name, variance in (("runs_ci", 1 / 2), ("corrected_ci", 1 / 2 + 1 / 3)):
        half = 12.7062 * abs(one - two) / 2**0.5 * variance**0.5
        assert accuracy[name] == pytest.approx([(one + two) / 2 - half, (one + two) / 2 + half], abs=1e-4), name
    assert [list(c["original"]) for c in report["contrasts"]] == [["accuracy", "qwk"]] * 3
    assert all(c["original"]["accuracy"]["images_for_claim"] > 0 for c in report["contrasts"])
    assert not any("images_for_claim" in c["original"]["qwk"] for c in report["contrasts"]), "the claim is of accuracy"
    assert len(report["study"]["missing"]) == 11 and "**Unfinished:** 5 of 16 runs" in markdown(report)


def test_the_overlap_of_training_sets_is_counted_from_what_the_runs_trained_on():
    """Three of four folds train, by the number of folds; who trains on right knees only has half of them."""

    def counted(train, tune, report):
        return {"images": {"train": train, "tune": tune, "report": report}}

    whole, right = Variant("clip"), Variant("clip", sides="R")
    book = Book.__new__(Book)
    book.records = {Planned(whole, f, 0): counted(50, 10, 20) for f in range(4)}
    book.records |= {Planned(right, f, 0): counted(25, 5, 20) for f in range(4)}
    assert book.shared(whole, range(4), [0]) == 1 / 3 and book.shared(right, range(2), [0]) == 2 / 3


def stored(out, arm, seed):
    form = "-js-w1" if arm in ("clip_koa", "nonsense") else ""
    r = record(out, f"fold0-seed{seed}-{arm}{form}")
    return np.array(r["p"]), np.array(r["p_flip"])


def test_the_report_says_what_the_probabilities_say(done):
    out, _, _, _ = done
    images = json.loads((out / "study.json").read_text())["images"]
    grades, patients = np.array(images["grade"]), images["patient"]
    report = make_report(out, n_boot=200)
    assert [row["label"] for row in report["arms"]] == ARMS and report["study"]["missing"] == []
    for row in report["arms"]:
        pairs = [stored(out, row["arm"], seed) for seed in (0, 1)]
        for view, guesses in (
            ("original", [p.argmax(1) for p, _ in pairs]),
            ("averaged", [evaluation.flip_average(*pair).argmax(1) for pair in pairs]),
        ):
            accuracy = [sk.accuracy_score(grades, g) for g in guesses]
            qwk = [sk.cohen_kappa_score(grades, g, labels=range(5), weights="quadratic") for g in guesses]
            assert row[view]["accuracy"]["value"] == pytest.approx(np.mean(accuracy))
            assert row[view]["accuracy"]["by_run"] == pytest.approx(accuracy)
            assert row[view]["accuracy"]["seed_sd"] == pytest.approx(np.std(accuracy, ddof=1))
            assert row[view]["qwk"]["value"] == pytest.approx(np.mean(qwk))
        agree = np.mean([(p.argmax(1) == f.argmax(1)).mean() for p, f in pairs])
        assert row["flip_agreement"]["value"] == pytest.approx(agree)
    contrast = report["contrasts"][0]
    tests = [evaluation.mcnemar(stored(out, "clip_koa", s)[0], stored(out, "clip", s)[0], grades) for s in (0, 1)]
    assert contrast["mcnemar"]["original"]["by_seed"] == tests
    # of one seed, the interval is that of evaluation.compare, on the very same resamples
    alone = out.parent / "alone"
    (alone / "runs").mkdir(parents=True)
    (alone / "study.json").write_bytes((out / "study.json").read_bytes())
    for name in ("fold0-seed0-clip", "fold0-seed0-clip_koa-js-w1"):
        (alone / "runs" / f"{name}.json").write_bytes((out / "runs" / f"{name}.json").read_bytes())
    one = make_report(alone, n_boot=200)["contrasts"][0]
    (p_b, flip_b), (p_a, flip_a) = stored(out, "clip", 0), stored(out, "clip_koa", 0)
    both = {
        "original": (p_b, p_a),
        "averaged": (evaluation.flip_average(p_b, flip_b), evaluation.flip_average(p_a, flip_a)),
    }
    for view, (b, a) in both.items():
        expected = evaluation.compare(b, a, grades, patients, n_boot=200)
        for metric in ("accuracy", "qwk"):
            assert one[view][metric]["difference"] == pytest.approx(expected[metric]["difference"])
            assert one[view][metric]["ci"] == pytest.approx(expected[metric]["ci"])
        assert one[view]["accuracy"]["runs_ci"] is None  # one run says nothing of other runs


def test_the_finding_follows_its_rules(done):
    out, _, _, _ = done
    for ci, said in (
        ([0.001, 0.05], "differs"), ([-0.05, -0.001], "differs"), ([-0.03, 0.01], "can't tell"), (None, "can't tell"),
        ([-0.01, 0.019], "equivalent"), ([0.001, 0.019], "differs within the margin"), ([0.0, 0.03], "can't tell"),
    ):  # fmt: skip
        assert verdict(ci, 0.02) == said
    assert [verdict(ci, None) for ci in ([-0.01, 0.01], [0.001, 0.002])] == ["can't tell", "differs"]
    report = make_report(out, n_boot=50)
    main = report["contrasts"][0]["original"]["accuracy"]
    for ci, runs_ci, said in (
        ([0.01, 0.05], [0.02, 0.04], "+3.0 [1.0, 5.0], differs (over the 2 seeds [2.0, 4.0]: they agree)"),
        ([0.01, 0.05], [-0.1, 0.2], "differs (over the 2 seeds [−10.0, 20.0]: another training run could undo it)"),
        ([-0.01, 0.01], [-0.1, 0.2], "(over the 2 seeds [−10.0, 20.0]: another training run could leave the margin);"),
        ([-0.01, 0.01], [-0.01, 0.0], "equivalent within 2 points (over the 2 seeds [−1.0, 0.0]: they agree);"),
        ([-0.09, 0.05], None, "can't tell;"),
    ):
        main |= {"corrected_ci": None, "difference": 0.03, "ci": ci, "runs_ci": runs_ci, "verdict": verdict(ci, 0.02)}
        assert f"*Primary:* `clip_koa` − `clip`: {'+3.0 ' if ci else ''}" in finding(report) and said in finding(report)
    report["contrasts"] = []
    assert "nothing can be said" in finding(report)


def test_the_commands_and_what_they_write(done, tmp_path, monkeypatch, capsys):
    def shell(*words):
        monkeypatch.setattr(sys, "argv", ["kneeclip", *map(str, words)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        return end.value.code or 0, *capsys.readouterr()

    out, config, _, _ = done
    monkeypatch.chdir(tmp_path)
    code, said, _ = shell("study", config, "--out", out, "--only", "fold0-seed1-*", "--limit", 3)
    assert code == 0 and "10 runs, 10 of them finished" in said
    code, said, _ = shell("report", out)
    assert code == 0
    for name in ("report.md", "report.json", "arms.png", "contrasts.png", "looks.png"):
        assert (out / name).stat().st_size > 500 and name in said
    report = json.loads((out / "report.json").read_text())
    assert report["finding"] in (out / "report.md").read_text() and "NaN" not in (out / "report.json").read_text()
    again = make_report(out)
    assert again == {name: report[name] for name in again}  # from the same files the same numbers
    code, _, error = shell("report", tmp_path)
    assert code == 1 and error.count("\n") == 1 and "no study" in error
    code, _, error = shell("study", config, "--out", out, "--only", "fold9-*")
    assert code == 1 and "no run's name matches" in error


def test_a_run_that_diverges_keeps_no_other_from_being_made(tiny_folder, tmp_path, monkeypatch):
    config, out, said = write(tmp_path, settings(tiny_folder, **ALONE)), tmp_path / "d", []
    real = updating.arm_losses

    def poisoned(logits, grades, recipe):
        losses = real(logits, grades, recipe)
        return {k: v * float("nan") for k, v in losses.items()} if recipe.arm in bad else losses

    monkeypatch.setattr(updating, "arm_losses", poisoned)
    bad = ("canonical",)
    with pytest.raises(Diverged, match=r"lacks runs .* no longer finite \(fold0-seed0-canonical\)"):
        quietly(config, out, say=said.append)
    assert len(read_results(out)[2]) == 4
    told = [line for line in said if "finite" in line]
    assert len(told) == 1 and told[0].startswith("fold0-seed0-canonical: the loss")
    assert told[0].endswith("The other runs go on.")
    assert said[-1] == "Done here: 4 of 5 runs are finished."
    (out / "runs" / "fold0-seed0-flip_aug.json").unlink()
    bad = ("canonical", "flip_aug")
    with pytest.raises(Diverged, match=r"\(fold0-seed0-flip_aug, fold0-seed0-canonical\)"):
        quietly(config, out)
    bad = ()
    assert quietly(config, out) == 2 and len(read_results(out)[2]) == 5  # with what was at fault mended


def test_unfinished_runs_lie_beside_the_record_and_not_in_git(tiny_folder, tmp_path, monkeypatch):
    config = write(tmp_path / "results", settings(tiny_folder, grid={"arms": ["clip"]}, **ALONE))
    out, real, calls = config.parent, training.update, []

    def dying(*args):
        calls.append(1)
        if len(calls) == 6:  # in the second epoch
            raise KeyboardInterrupt
        return real(*args)

    subprocess.run(["git", "init", "--quiet", out], check=True)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training, "update", dying)
        run_study(config, out, say=lambda line: None)
    asked = ["git", "-C", out, "status", "--porcelain", "--untracked-files=all"]
    listed = subprocess.run(asked, check=True, capture_output=True, text=True).stdout
    assert "study.json" in listed and "unfinished" not in listed and "safetensors" not in listed
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)  # a shell in another folder
    assert run_study(config, out, say=lambda line: None) == 1
    assert record(out, "fold0-seed0-clip")["resumed_at"] == 4 and not list(elsewhere.iterdir())
